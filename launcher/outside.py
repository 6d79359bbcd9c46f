"""The world as the command line meets it: home, ledger, screen, clock, machine, git, MLflow.

One object, made once a command and passed in, so that a test can pass another. Each part is made
when it is first asked for: `still --help` touches none of them.
"""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from functools import cached_property, partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from launcher.machines.at_home import TeacherAtHome
from launcher.machines.backend import Backend
from launcher.machines.labels import this_owner
from launcher.machines.local import LocalMachine
from launcher.plans.speeds import Trial
from launcher.runs.follow import follow, is_driven
from launcher.runs.house import STORE, House
from launcher.runs.messengers import Way, messengers, ways_of
from launcher.runs.mirror import Mirror, NoMirror, StoreMirror
from launcher.runs.next_offer import next_offer
from launcher.runs.right_clock import require_right_clock
from launcher.runs.run import drive, open_run, release, reopen
from launcher.runs.view import choose_view
from launcher.runs.watch import start_watcher
from launcher.runs.wishes import Wish, make_wish
from recipes.errors import InvalidInputError, RefusedError
from recipes.money import to_micro_usd
from recipes.rundir import read_lines
from recipes.store import open_store
from tracking.books import Books
from tracking.entries import BudgetRaised, Git, StateChanged
from tracking.home import Home, home, new_run_id
from tracking.ledger import Ledger

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from launcher.doctor import Check
    from launcher.machines.aws import ClientFactory
    from launcher.market.look import Found, Terms
    from launcher.pricing import Planned, Pricing
    from tracking.compare import Comparison
    from tracking.receipt import Receipt


class Outside:
    """The real world; each argument replaces one part of it.

    Args:
        environ: environment variables.
        clock: seconds since 1970.
        sleep: waits so many seconds.
        backend: where workers run.
        trial: measures how fast this machine does a recipe's work.
        track: starts what follows a run into MLflow.
        aws: makes clients of AWS, where a command asks what a run was charged.
    """

    def __init__(
        self,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        backend: Backend | None = None,
        trial: Trial | None = None,
        track: Callable[[str], None] | None = None,
        aws: "ClientFactory | None" = None,
    ) -> None:
        self.environ = environ
        self.clock = clock
        self.sleep = sleep
        self._backend = backend
        self._trial = trial
        self._track = track
        self.aws = aws or _boto3_client

    @cached_property
    def pricing(self) -> "Pricing":
        """What recipes cost, here and on everything that can be rented."""
        from launcher.pricing import Pricing

        return Pricing(self, self._trial)

    @cached_property
    def home(self) -> Home:
        return home(self.environ)

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.home.ledger, self.clock)

    def backend(self, run_id: str) -> Backend:
        """Where the workers of this run are: this machine, or rented ones."""
        if self._backend is not None:
            return self._backend
        recipe = self.home.run(run_id).read_recipe()
        here = LocalMachine(self.home.path, self.environ)
        if recipe.hardware.local:
            return here
        from launcher.machines.rent import rented_machines

        rented = rented_machines(self.clock, self.sleep)
        return TeacherAtHome(here, rented) if recipe.teacher.kind == "api" else rented

    @cached_property
    def screen(self) -> "Console":
        """Results: stdout."""
        from rich.console import Console

        return Console()

    @cached_property
    def progress(self) -> "Console":
        """Everything that is no result: stderr."""
        from rich.console import Console

        return Console(stderr=True)

    # ---- the screen

    def print(self, what: "RenderableType") -> None:
        self.screen.print(what)

    def print_json(self, what: Any) -> None:
        import json

        sys.stdout.write(json.dumps(what, indent=2) + "\n")

    def ask(self, question: str) -> None:
        """Ask a person yes or no.

        Raises:
            RefusedError: the answer is no, or nobody is there to answer.
        """
        if not sys.stdin.isatty():
            raise RefusedError(f"nobody is there to answer {question!r}. To start at once: --yes")
        self.progress.print(f"{question} [y/N] ", end="")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise RefusedError("not started")

    # ---- runs

    def open_run(self, planned: "Planned", store: str | None) -> str:
        """Record a run; its id.

        Raises:
            RefusedError: it is to run on rented machines, and there is no run store.
            InvalidInputError: that is no run store, or the environment says wrongly who is to be
                told of it.
        """
        run_id = new_run_id(planned.recipe.name, self.clock())
        ways_of(self.environ)  # who is to be told and cannot be should be known before it is paid
        url = store or self.environ.get("STILLHOUSE_STORE")
        if planned.recipe.hardware.local:
            url = None
        elif url is None:
            raise RefusedError(
                "rented machines keep a run's files in a run store, so that nothing is lost with "
                "them. Name one: --store s3://bucket/prefix, or STILLHOUSE_STORE"
            )
        else:
            url = f"{url.rstrip('/')}/{run_id}"
            open_store(url, self.environ)  # what cannot be one is not written down either
        recipe, plan = planned.recipe, planned.plan
        open_run(self.home, self.ledger, run_id, recipe, plan, git_state(), url)
        return run_id

    def launch(self, run_id: str, allow_remote_code: bool) -> None:
        """Take a run to its end: here, or by a watcher of its own where machines are rented.

        Raises:
            StoodDownError: another home has taken it over.
            RefusedError: this machine's clock is wrong.
        """
        if not self.backend(run_id).rented:
            return self.drive(run_id, allow_remote_code)
        began = self.clock()
        run = self.home.run(run_id)
        if not is_driven(run):
            # Nobody would read what a watcher says of these.
            self._mirror(run_id).hold()
            self._check_clock(run_id)
            start_watcher(run, self.environ, allow_remote_code=allow_remote_code)
        with self._house(run_id) as house:
            return follow(house, run_id, since=began)

    def _check_clock(self, run_id: str) -> None:
        """
        Raises:
            RefusedError: machines would be rented, and they would end at the wrong time.
        """
        books = self.ledger.books(run_id)
        begins = books.open_attempt is None and not self.home.run(run_id).done.exists()
        if begins and (url := books.notes.get(STORE)) is not None:
            try:
                require_right_clock(open_store(url, self.environ), self.clock)
            except RefusedError as error:
                raise RefusedError(f"{error}, then `still resume {run_id}`") from error

    def drive(self, run_id: str, allow_remote_code: bool) -> None:
        """Drive a run in this process, to its end."""
        with self._house(run_id) as house:
            drive(house, run_id, allow_remote_code=allow_remote_code)

    def wish(self, run_id: str, wish: Wish) -> None:
        """Have a run save and end, or end at once, whoever drives it.

        Raises:
            RefusedError: nothing of it runs.
            TeardownUnprovedError: something of it may still cost.
        """
        run, backend = self.home.run(run_id), self.backend(run_id)
        if is_driven(run):
            make_wish(run, wish)
        elif wish == "down" and backend.rented:
            with self._house(run_id) as house:
                release(house, run_id)
        elif backend.look(run) == "alive":
            if wish == "down":
                backend.kill(run)
            else:
                backend.ask_to_save(run)
        else:
            raise RefusedError(f"nothing of {run_id} is running: there is nothing to end")

    def raise_budget(self, run_id: str, usd: str) -> Books:
        """Let a run spend more. One that stopped for want of money is open again.

        Raises:
            InvalidInputError: `usd` is not an amount above 0.
            StoodDownError: another home has taken the run over.
        """
        try:
            amount = to_micro_usd(Decimal(usd))
        except (InvalidOperation, ValueError, OverflowError):
            amount = 0
        if amount <= 0:
            raise InvalidInputError(f"--raise {usd}: must be an amount in USD above 0")
        mirror = self._mirror(run_id)
        mirror.hold()
        self.ledger.append(run_id, BudgetRaised(micro_usd=amount))
        run = self.home.run(run_id)
        if run.done.exists() and self.ledger.books(run_id).state == "stopped":
            reopen(run)
            self._withdraw_results(run_id)
            self.ledger.append(
                run_id, StateChanged(state="interrupted", reason="the budget was raised")
            )
        mirror.hold()
        return self.ledger.books(run_id)

    def log_lines(self, run_id: str, follow: bool) -> Iterator[str]:
        """The events of a run as they stand in its folder; with `follow` until it ends."""
        run, offset = self.home.run(run_id), 0
        while True:
            over = self.backend(run_id).look(run) != "alive" and not is_driven(run)
            for line, end in read_lines(run.events, offset):
                offset = end
                yield line.decode(errors="replace").rstrip("\n")
            if over or not follow:
                return
            self.sleep(0.5)

    # ---- clouds

    def offers(self, accelerators: str, nodes: int, terms: "Terms") -> "Found":
        """Every way to rent these GPUs, the cheapest first.

        Raises:
            NoOfferError: looked, and there is none.
            CouldNotLookError: there is nothing to look at.
        """
        from launcher.market.look import Wanted, look_for_offers
        from launcher.market.spot_prices import ask_aws

        with self.busy("looking at what can be rented"):
            return look_for_offers(
                Wanted.parse(accelerators, nodes, terms),
                environ=self.environ,
                clock=self.clock,
                spot_prices=ask_aws,
            )

    def examine(self) -> "Iterator[Check]":
        """Whether everything is in place, line by line."""
        from launcher.doctor import examine
        from launcher.machines.aws import boto3_client

        return examine(self.home, self.environ, boto3_client)

    # ---- results

    def receipt(self, run_id: str) -> "Receipt":
        from tracking.receipt import make_receipt

        return make_receipt(self.ledger.books(run_id), self.home.run(run_id))

    def compare(
        self, runs: tuple[str, ...], experiment: str | None, everything: bool
    ) -> "Comparison":
        from tracking.compare import compare

        chosen = (
            [self.ledger.books(self.ledger.resolve(run)) for run in runs]
            if runs
            else _default_choice(self.ledger.runs(), experiment, everything)
        )
        if not chosen:
            raise InvalidInputError(
                f"no finished run of {experiment} yet" if experiment else "no finished run yet"
            )
        return compare([self.receipt(books.run_id) for books in chosen])

    def sync(self, run_id: str | None) -> Iterator[str]:
        """Bring MLflow up to date, for one run or all that need it; their ids as they are done."""
        from tracking.mlflow_store import sync_run, unsynced

        for one in [run_id] if run_id else unsynced(self.home):
            with self.busy(f"writing {one} to MLflow"):
                sync_run(self.home, one)
            yield one

    # ---- inside

    def _withdraw_results(self, run_id: str) -> None:
        """What a run stopped with must not come back from its store."""
        store = self.ledger.books(run_id).notes.get(STORE)
        if store is not None:
            from recipes.stored_run import withdraw_results

            withdraw_results(open_store(store, self.environ))

    def _mirror(self, run_id: str, say: Callable[[str], None] | None = None) -> Mirror:
        """What keeps a run's books in its store; nothing does where it has none."""
        url = self.ledger.books(run_id).notes.get(STORE)
        if url is None:
            return NoMirror()
        return StoreMirror(
            partial(open_store, url, self.environ),
            self.home.run(run_id),
            self.ledger,
            this_owner(),
            say or self._warn,
            self.clock,
        )

    def _warn(self, text: str) -> None:
        self.progress.print(f"warning: {text}", markup=False, highlight=False)

    @contextmanager
    def _house(self, run_id: str) -> Iterator[House]:
        backend, run = self.backend(run_id), self.home.run(run_id)
        with (
            choose_view(self.progress) as view,
            counted_interrupts() as interrupts,
            messengers(self._ways(), run.path / "notices.log") as notify,
        ):
            yield House(
                home=self.home,
                ledger=self.ledger,
                backend=backend,
                poll_s=2.0 if backend.rented else 0.2,  # each look asks the run store
                view=view,
                tracker=self._track or self._start_tracker,
                next_offer=next_offer,
                notify=notify,
                mirror=self._mirror(run_id, view.say),
                interrupts=interrupts,
                clock=self.clock,
                sleep=self.sleep,
                patience_s=60.0 * run.read_recipe().hardware.patience_minutes,
            )

    def _ways(self) -> tuple[Way, ...]:
        """Who is to be told; nobody where that cannot be read: a run ends all the same."""
        try:
            return ways_of(self.environ)
        except InvalidInputError as error:
            self._warn(f"nobody is told: {error}")
            return ()

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Say what takes a while, for as long as it does."""
        if self.progress.is_terminal and not self.progress.is_dumb_terminal:
            with self.progress.status(what):
                yield
        else:
            yield

    def _start_tracker(self, run_id: str) -> None:
        """Follow a run into MLflow, in a process of its own that cannot hold it up."""
        try:
            subprocess.Popen(
                [sys.executable, "-m", "tracking.follow", str(self.home.path), run_id],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=dict(self.environ),
                start_new_session=True,
            )
        except OSError as error:
            self.progress.print(f"warning: MLflow is not written now ({error}); `still sync` does")


def _boto3_client(service: str, region: str) -> Any:
    from launcher.machines.aws import boto3_client

    return boto3_client(service, region)


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


def git_state() -> Git:
    """Commit and difference of the repository we stand in; unknown where there is none."""
    commit, diff = _git("rev-parse", "HEAD"), _git("diff", "HEAD")
    if commit is None or diff is None:
        return Git()
    return Git(
        commit=commit.strip(),
        dirty=bool(diff),
        diff_sha256=hashlib.sha256(diff.encode()).hexdigest() if diff else None,
    )


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words], capture_output=True, check=False, timeout=10, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _default_choice(runs: list[Books], experiment: str | None, everything: bool) -> list[Books]:
    """The newest finished run of each recipe, or all finished ones; newest first."""
    finished = [
        books
        for books in runs
        if books.state in ("done", "stopped") and experiment in (None, books.recipe_name)
    ]
    if everything:
        return finished
    newest: dict[str, Books] = {}
    for books in finished:
        newest.setdefault(books.recipe_name, books)
    return list(newest.values())
