"""Keeps a run's books in its store, and finds out there when another home has taken the run over.

The ledger here is written first and stays the truth. What it says goes to the store (see
`tracking.shared`) before anything is begun, and soon after anything is settled. Lines there that
are not of this home mean that another one drives the run: then this one does nothing more to it.
A store that is away is no reason to leave a machine alone: who drives goes on, and begins nothing.
"""

import math
import os
import secrets
from collections.abc import Callable
from typing import Protocol

from pydantic import FiniteFloat

from launcher.errors import StoodDownError
from recipes.errors import StillhouseError
from recipes.recipe import Part
from recipes.rundir import Limits, RunDir, read_model
from recipes.store import Store, aside_of
from tracking.entries import Entry
from tracking.ledger import Ledger
from tracking.shared import Driver, Said, SharedBooks

EVERY_S = 10.0
"""How often a driver asks the store whether the run is still its own [s]."""

AWAY_S = 120.0
"""How often a store that did not answer is asked again [s]: each time may take it a minute."""

BEAT_S = 60.0
"""How often a driver says that it lives [s]."""

LAST_WORD = "driver.json"
"""The key of a run's `LastWord`."""


class LastWord(Part):
    """When somebody who drives a run was last heard of."""

    host: str
    at: FiniteFloat
    """[unix s]"""


class Mirror(Protocol):
    """The books of one run, for other homes."""

    def hold(self, *, must: bool = False) -> None:
        """Before something is begun or settled: tell the store what is new, and see that no other
        home has taken the run over.

        Args:
            must: also fail where the store cannot be asked; else that is no reason to stop.

        Raises:
            StoodDownError: another home has; now and at every later call.
            StillhouseError: the store could not be asked, and it must be.
        """

    def keep(self) -> None:
        """The same, now and then: call it as often as you like."""

    @property
    def away_until(self) -> float:
        """Until when nothing could be heard through the store [unix s]; minus infinity: it was
        never away."""


class NoMirror:
    """Of a run on this machine: nobody else can drive it."""

    def hold(self, *, must: bool = False) -> None:
        return None

    def keep(self) -> None:
        return None

    @property
    def away_until(self) -> float:
        return -math.inf


class StoreMirror:
    """A `Mirror` in the run's store.

    Args:
        open_store: of the run itself; called when it is first needed.
        host: who drives, and where, for people.
        say: told once when the store is away, and once when it is there again.
    """

    def __init__(
        self,
        open_store: Callable[[], Store],
        run: RunDir,
        ledger: Ledger,
        host: str,
        say: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._open_store = open_store
        self._run = run
        self._ledger = ledger
        self._host = host
        self._say = say
        self._clock = clock
        self._store: Store | None = None
        self._shared: SharedBooks | None = None
        self._me: Driver | None = None
        """Set once the store knows who drives."""
        self._asked_at: float | None = None
        self._beat_at: float | None = None
        self._limits_of = 0
        self._is_away = False
        self._away_until = -math.inf
        self._stood_down: StoodDownError | None = None

    @property
    def away_until(self) -> float:
        return self._clock() if self._is_away else self._away_until

    def keep(self) -> None:
        pause = AWAY_S if self._is_away else EVERY_S
        if self._asked_at is None or self._clock() - self._asked_at >= pause:
            self.hold()

    def hold(self, *, must: bool = False) -> None:
        if self._stood_down is not None:
            raise self._stood_down
        just_failed = self._is_away and self._clock() - (self._asked_at or 0.0) < AWAY_S
        if just_failed and not must:
            return
        try:
            self._bring_up_to_date()
        except StoodDownError:
            raise
        except StillhouseError as error:  # away, damaged, not allowed: the ledger here is the truth
            self._asked_at = self._clock()
            if not self._is_away:
                self._say(f"the books are not in the run store: {error} The run goes on meanwhile")
            self._is_away = True
            if must:
                raise
            return
        self._asked_at = self._clock()
        if self._is_away:
            self._say("the books are in the run store again")
            self._away_until = self._clock()
        self._is_away = False

    # ---- inside

    def _bring_up_to_date(self) -> None:
        store = self._store = self._store or self._open_store()
        run_id = self._run.path.name
        shared = self._shared = self._shared or SharedBooks(store, run_id)
        while True:
            shared.catch_up()
            mine = self._ledger.books(run_id).shared
            self._give_way(store, shared, mine)
            new = [Said(at, entry) for at, entry in mine[len(shared.entries) :]]
            me = self._me or Driver(home=own_mark(self._run), host=self._host, pid=os.getpid())
            if self._me is None:
                new.insert(0, Said(self._clock(), me))
            if new:
                self._send_files(store)
            if not new or shared.append(new):
                break
        self._me = me
        self._beat(store)

    def _give_way(self, store: Store, shared: SharedBooks, mine: list[tuple[float, Entry]]) -> None:
        """
        Raises:
            StoodDownError: the store has something of another home's.
        """
        theirs, driver = shared.entries, shared.driver
        is_mine = driver is None or driver.home == own_mark(self._run)
        if is_mine and mine[: len(theirs)] == theirs:
            return
        self._stood_down = StoodDownError(
            shared.run_id,
            store_of_runs(store.url, shared.run_id),
            driver.host if driver else "another home",
        )
        raise self._stood_down

    def _send_files(self, store: Store) -> None:
        """What another home needs to go on, before the lines that make it look for that."""
        if self._me is None:
            store.put_bytes(self._run.plan.name, self._run.plan.read_bytes(), only_if_new=True)
        if self._run.limits.exists():
            attempt = read_model(self._run.limits, Limits).attempt
            if attempt != self._limits_of:
                store.put_bytes(limits_key(attempt), self._run.limits.read_bytes())
                self._limits_of = attempt

    def _beat(self, store: Store) -> None:
        now = self._clock()
        if self._beat_at is None or now - self._beat_at >= BEAT_S:
            word = LastWord(host=self._host, at=now)
            store.put_bytes(LAST_WORD, word.model_dump_json().encode() + b"\n")
            self._beat_at = now


def limits_key(attempt: int) -> str:
    """Where the limits of an attempt are in the run's store."""
    return f"limits/{attempt:08d}"


def store_of_runs(url: str, run_id: str) -> str:
    """The URL of the store in which a run's own one is a folder."""
    return url.removesuffix(f"/{run_id}")


def own_mark(run: RunDir) -> str:
    """What tells this home from others that drive the same run; drawn when first asked for."""
    path = run.path / "home"
    if not path.exists():
        aside = aside_of(path)
        try:
            aside.touch(mode=0o600)
            aside.write_text(secrets.token_hex(8))
            path.hardlink_to(aside)
        except FileExistsError:  # another process of this home was first
            pass
        finally:
            aside.unlink(missing_ok=True)
    return path.read_text()
