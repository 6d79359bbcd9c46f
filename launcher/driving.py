"""What is done to runs: begun, driven, followed, saved, ended, given more money.

By the command line, and by the watcher of a run on rented machines.
"""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

from pydantic import ValidationError

from launcher.git_state import git_state
from launcher.machines.at_home import TeacherAtHome
from launcher.machines.backend import Backend
from launcher.machines.labels import this_owner
from launcher.machines.least import LOOK_EVERY_S
from launcher.machines.local import LocalMachine
from launcher.outside import Outside
from launcher.runs.follow import follow, is_driven
from launcher.runs.house import STORE, House
from launcher.runs.messengers import Way, messengers, ways_of
from launcher.runs.mirror import Mirror, NoMirror, StoreMirror
from launcher.runs.next_offer import next_offer
from launcher.runs.right_clock import require_right_clock
from launcher.runs.run import drive, may_go_on, open_run, release
from launcher.runs.view import choose_view
from launcher.runs.watch import last_word, start_watcher
from launcher.runs.wishes import Wish, make_wish
from recipes.errors import InvalidInputError, RefusedError, StillhouseError
from recipes.faults import printable
from recipes.money import named_usd, to_micro_usd
from recipes.recipe import Recipe
from recipes.rundir import read_lines
from recipes.store import WHILE_SOMEBODY_WAITS_S, Store, StoreError, open_store
from tracking.books import Books
from tracking.entries import BudgetRaised, StateChanged
from tracking.home import new_run_id

if TYPE_CHECKING:
    from launcher.pricing import Planned


class Driving:
    """Does it, in the world of a command.

    Args:
        outside: clock, environment, home, ledger, screen.
        backend: where workers run, if not where their recipes say.
        track: starts what follows a run into MLflow.
    """

    def __init__(
        self,
        outside: Outside,
        backend: Backend | None = None,
        track: Callable[[str], None] | None = None,
    ) -> None:
        self._outside = outside
        self._backend = backend
        self._track = track or self._start_tracker

    def open_run(self, planned: "Planned", store: str | None) -> str:
        """Record a run; its id.

        Raises:
            RefusedError: it is to run on rented machines, and there is no run store.
            InvalidInputError: that is no run store, or the environment says wrongly who is to be
                told of it.
        """
        run_id = new_run_id(planned.recipe.name, self._outside.clock())
        ways_of(self._outside.environ)  # who cannot be told should be known before it is paid
        url = store or self._outside.environ.get("STILLHOUSE_STORE")
        if planned.recipe.hardware.local:
            url = None
        elif url is None:
            raise RefusedError(
                "rented machines keep a run's files in a run store, so that nothing is lost with "
                "them. Name one: --store s3://bucket/prefix, or STILLHOUSE_STORE"
            )
        else:
            url = f"{url.rstrip('/')}/{run_id}"
            self._store(url)  # what cannot be one is not written down either
        recipe, plan = planned.recipe, planned.plan
        open_run(self._outside.home, self._outside.ledger, run_id, recipe, plan, git_state(), url)
        return run_id

    def launch(self, run_id: str, allow_remote_code: bool) -> None:
        """Take a run to its end: here, or by a watcher of its own where machines are rented.

        Raises:
            StoodDownError: another home has taken it over.
            RefusedError: this machine's clock is wrong.
        """
        if not self._backend_of(run_id).rented:
            return self.drive(run_id, allow_remote_code)
        began = self._outside.clock()
        run, watcher = self._outside.home.run(run_id), None
        if not is_driven(run):
            # Nobody would read what a watcher says of these.
            self._check_clock(run_id)
            self._mirror(run_id).hold()
            environ = self._outside.environ
            watcher = start_watcher(run, environ, allow_remote_code=allow_remote_code)
        with self._house(run_id) as house:
            try:
                follow(house, run_id, since=began, watcher=lambda: _lives(watcher))
            except StillhouseError:
                if watcher is not None and watcher.poll() == RefusedError.exit_code:
                    raise RefusedError(last_word(run)) from None
                raise

    def _check_clock(self, run_id: str) -> None:
        """
        Raises:
            RefusedError: machines would be rented, and they would end at the wrong time; or the run
                store, whose clock it is compared with, does not answer.
        """
        books = self._outside.ledger.books(run_id)
        run = self._outside.home.run(run_id)
        begins = books.open_attempt is None and may_go_on(books, run)
        url = books.notes.get(STORE)
        if not begins or url is None:
            return
        try:
            with self._outside.busy("asking the run store"):
                store = open_store(url, self._outside.environ, WHILE_SOMEBODY_WAITS_S)
                require_right_clock(store, self._outside.clock)
        except (RefusedError, StoreError) as error:
            text = str(error).rstrip(".")
            raise RefusedError(
                f"{text}. Nothing was rented; then `still resume {run_id}`"
            ) from error

    def drive(self, run_id: str, allow_remote_code: bool) -> None:
        """Drive a run in this process, to its end."""
        with self._house(run_id) as house:
            drive(house, run_id, allow_remote_code=allow_remote_code)

    def wish(self, run_id: str, wish: Wish) -> bool:
        """Have a run save and end, or end at once, whoever drives it.

        Returns:
            Whether that was done; else whoever drives it was asked to.

        Raises:
            RefusedError: nothing of it runs.
            TeardownUnprovedError: something of it may still cost.
        """
        run, backend = self._outside.home.run(run_id), self._backend_of(run_id)
        if is_driven(run):
            make_wish(run, wish)
            return False
        if wish == "down" and backend.rented:
            with self._house(run_id) as house:
                release(house, run_id)
        elif backend.look(run) == "alive":
            if wish == "down":
                backend.kill(run)
            else:
                backend.ask_to_save(run)
        else:
            raise RefusedError(f"nothing of {run_id} is running: there is nothing to end")
        return True

    def raise_budget(self, run_id: str, usd: str) -> Books:
        """Let a run spend more. One that stopped for want of money can go on; what it stopped with
        stays until it does.

        Raises:
            InvalidInputError: `usd` is no amount that can be added.
            RefusedError: the run is done.
            StoodDownError: another home has taken the run over.
        """
        try:
            amount = to_micro_usd(named_usd(usd))
        except ValueError as error:
            raise InvalidInputError(f"--raise {usd}: {error}") from error
        if self._outside.ledger.books(run_id).state == "done":
            raise RefusedError(
                f"{run_id} is done: there is nothing that more money could go on with"
            )
        mirror = self._mirror(run_id)
        mirror.hold()
        self._outside.ledger.append(run_id, BudgetRaised(micro_usd=amount))
        run = self._outside.home.run(run_id)
        books = self._outside.ledger.books(run_id)
        if books.state == "stopped" and may_go_on(books, run):
            self._outside.ledger.append(
                run_id, StateChanged(state="interrupted", reason="the budget was raised")
            )
        mirror.hold()
        return self._outside.ledger.books(run_id)

    def log_lines(self, run_id: str, follow: bool) -> Iterator[str]:
        """The events of a run as they stand in its folder; with `follow` until it ends."""
        run, offset = self._outside.home.run(run_id), 0
        while True:
            over = self._backend_of(run_id).look(run) != "alive" and not is_driven(run)
            for line, end in read_lines(run.events, offset):
                offset = end
                yield printable(line.decode(errors="replace").rstrip("\n"))
            if over or not follow:
                return
            self._outside.sleep(0.5)

    # ---- inside

    def _mirror(self, run_id: str, say: Callable[[str], None] | None = None) -> Mirror:
        """What keeps a run's books in its store; nothing does where it has none."""
        url = self._outside.ledger.books(run_id).notes.get(STORE)
        if url is None:
            return NoMirror()
        return StoreMirror(
            partial(self._store, url),
            self._outside.home.run(run_id),
            self._outside.ledger,
            this_owner(),
            say or self._warn,
            self._outside.clock,
        )

    def _store(self, url: str) -> Store:
        return open_store(url, self._outside.environ)

    def _warn(self, text: str) -> None:
        self._outside.progress.print(f"warning: {text}", markup=False, highlight=False)

    @contextmanager
    def _house(self, run_id: str) -> Iterator[House]:
        backend, run = self._backend_of(run_id), self._outside.home.run(run_id)
        with (
            choose_view(self._outside.progress) as view,
            counted_interrupts() as interrupts,
            messengers(self._ways(), run.path / "notices.log") as notify,
        ):
            yield House(
                home=self._outside.home,
                ledger=self._outside.ledger,
                backend=backend,
                poll_s=LOOK_EVERY_S if backend.rented else 0.2,
                view=view,
                tracker=self._track,
                next_offer=next_offer,
                notify=notify,
                mirror=self._mirror(run_id, view.say),
                interrupts=interrupts,
                clock=self._outside.clock,
                sleep=self._outside.sleep,
                patience_s=60.0 * self._recipe_of(run_id).hardware.patience_minutes,
            )

    def _ways(self) -> tuple[Way, ...]:
        """Who is to be told; nobody where that cannot be read: a run ends all the same."""
        try:
            return ways_of(self._outside.environ)
        except InvalidInputError as error:
            self._warn(f"nobody is told: {error}")
            return ()

    def _backend_of(self, run_id: str) -> Backend:
        """Where the workers of this run are: this machine, or rented ones."""
        if self._backend is not None:
            return self._backend
        recipe = self._recipe_of(run_id)
        here = LocalMachine(self._outside.home.path, self._outside.environ)
        if recipe.hardware.local:
            return here
        from launcher.machines.rent import rented_machines

        rented = rented_machines(self._outside.clock, self._outside.sleep)
        return TeacherAtHome(here, rented) if recipe.teacher.kind == "api" else rented

    def _recipe_of(self, run_id: str) -> Recipe:
        """As it lies in the run's folder, or where that is damaged as it stands in the books: what
        it has rented has to be given back all the same."""
        try:
            return self._outside.home.run(run_id).read_recipe()
        except InvalidInputError:
            try:
                return Recipe.model_validate(self._outside.ledger.books(run_id).opened.recipe)
            except ValidationError:
                pass
            raise

    def _start_tracker(self, run_id: str) -> None:
        """Follow a run into MLflow, in a process of its own that cannot hold it up."""
        try:
            subprocess.Popen(
                [sys.executable, "-m", "tracking.follow", str(self._outside.home.path), run_id],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=dict(self._outside.environ),
                start_new_session=True,
            )
        except OSError as error:
            self._outside.progress.print(
                f"warning: MLflow is not written now ({error}); `still sync` does",
                markup=False,
                highlight=False,
            )


def _lives(process: "subprocess.Popen[bytes] | None") -> bool:
    return process is not None and process.poll() is None


@contextmanager
def counted_interrupts() -> Iterator[Callable[[], int]]:
    """Count Ctrl-C (and SIGTERM) instead of dying of it; gives a function that says how many."""
    pressed = 0

    def count(_number: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        pressed += 1

    before = {number: signal.signal(number, count) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: pressed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
