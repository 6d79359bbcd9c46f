"""A life in which a run may go on from another home, after its own is gone or only asleep.

Two homes, each with a ledger, a folder and a SkyPilot server of its own; one store and one cloud.
What the invariants are told is what lies in the store, since that is what counts for both.
"""

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from shaky_store import Killed

from launcher.errors import StoodDownError
from launcher.runs import run as runs
from launcher.runs.adopt import Adoption
from launcher.runs.mirror import StoreMirror
from recipes.errors import RefusedError, StillhouseError, TeardownUnprovedError
from simulated.cluster import Server
from simulated.invariants import BrokenInvariantError, Invariants
from simulated.life import REAL, RUN, Life, Parts
from simulated.setting import Rows, ledger_of, rows_of
from simulated.store import MemoryStore, StoreInTheWorld
from tracking.home import Home
from tracking.ledger import Ledger

MOVES = 0.4
"""How often the next process is another home's."""


class SharedStore(MemoryStore):
    """Tells the invariants what is put into the books of the run, as rows of one ledger."""

    def __init__(self, invariants: Invariants) -> None:
        super().__init__()
        self.rows: Rows = []
        self._invariants = invariants

    def put_bytes(self, key: str, content: bytes, *, only_if_new: bool = False) -> bool:
        is_put = super().put_bytes(key, content, only_if_new=only_if_new)
        if is_put and key.startswith("books/"):
            lines = [json.loads(line) for line in content.splitlines()]
            told = [line for line in lines if line["kind"] != "driver"]
            new = [
                (len(self.rows) + number, line["kind"], json.dumps(line["data"]))
                for number, line in enumerate(told, 1)
            ]
            self.rows += new
            self._invariants.wrote(new)
        return is_put


@dataclass
class Place:
    """One home."""

    name: str
    home: Home
    server: Server
    ledger: Ledger | None = None


class TwoHomes(Life):
    """As a `Life`, in which one of two homes is at work at a time, or believes that it is."""

    mirror: type[StoreMirror] = StoreMirror
    """What a test may replace, to see whether it is missed."""

    def __init__(
        self, seed: int, folder: Path, parts: Parts = REAL, *, tell_story: bool = False
    ) -> None:
        super().__init__(seed, folder, parts, tell_story=tell_story)
        stored = SharedStore(self.invariants)
        self._store = StoreInTheWorld(self.world, stored)
        self.invariants.store = stored
        self._stored = stored
        self._places = [
            Place(name, Home(folder / name), Server(self.world, self.cloud, self._make_node))
            for name in ("ada", "bob")
        ]
        self.adoptions = 0

    def live(self) -> None:
        with ExitStack() as stack:
            for place in self._places:
                place.home.runs.mkdir(parents=True)
                ledger = ledger_of(
                    place.home.path, self._parts.ledger, self.world, lambda rows: None
                )
                place.ledger = stack.enter_context(ledger)
            self._be(self._places[0])
            try:
                self._people_come_and_go()
                self._give_everything_back()
                self.world.pass_time(4 * 3600)
                self.invariants.check_ledger(self._stored.rows)
                self.invariants.check_end()
                self._check_same_books()
            finally:
                for node in self._nodes:
                    node.close()

    # ---- who is at work

    def _be(self, place: Place) -> None:
        assert place.ledger is not None
        self._place, self._ledger = place, place.ledger
        self._home, self._server = place.home, place.server
        self._run = place.home.run(RUN)
        self.invariants.book = self._run.path / "rented.jsonl"

    def _other(self) -> Place:
        return self._places[1 - self._places.index(self._place)]

    def _house(self) -> runs.House:
        house = super()._house()
        house.mirror = self.mirror(
            self._store.for_launcher,
            self._run,
            self._ledger,
            self._place.name,
            self.world.tell,
            house.clock,
        )
        return house

    def _adopt(self) -> None:
        self.world.tell(f"still adopt, by {self._place.name}")
        Adoption(
            self._home,
            self._ledger,
            self._store.for_launcher(),
            RUN,
            lambda url: True,
            self._place.name,
            self.world.clock(),
        ).take_over()
        self.adoptions += 1

    # ---- what they do

    def _process(self, act: str) -> str | None:
        if self.world.chance.random() < MOVES:
            self._move()
        return super()._process(act)

    def _move(self) -> None:
        """The other home takes the run over, if it can."""
        before = self._place
        self._be(self._other())
        self.world.begin_process()
        self._is_driven = True
        try:
            self._adopt()
        except (Killed, StillhouseError) as error:
            self.world.tell(f"not adopted: {error!r}")
            self._be(before)
        finally:
            self._is_driven = False

    def _rival(self) -> None:
        """The other home takes the run over while this one sleeps in the midst of something."""
        if not self._is_driven:
            return
        before, to_live = self._place, self.world.boundaries_to_live
        self.world.boundaries_to_live = None
        self._be(self._other())
        try:
            self._adopt()
            act = self.world.chance.choice((runs.drive, runs.release, None))
            if act is not None:
                act(self._house(), RUN)
        except StillhouseError as error:
            self.world.tell(f"the other home: {error!r}")
        finally:
            self.world.boundaries_to_live = to_live
            self._be(before)

    def _give_everything_back(self) -> None:
        self.world.calm_down()
        self.cloud.outages.end()
        self._store.outages.end()
        for _ in range(60):  # half an hour may pass until another home's launch is surely over
            try:
                self.world.tell(f"still down, by {self._place.name}")
                runs.release(self._house(), RUN)
                return
            except TeardownUnprovedError as error:
                self.world.tell(f"still down: {error}")
                self.world.pass_time(60)
            except StoodDownError:
                self._be(self._other())
            except RefusedError as error:
                raise BrokenInvariantError(f"world {self.world.seed}: {error}") from error
        raise BrokenInvariantError(f"world {self.world.seed}: no teardown was ever proved")

    def _check_same_books(self) -> None:
        ours = [(kind, json.loads(data)) for _, kind, data in rows_of(self._ledger)]
        if ours != [(kind, json.loads(data)) for _, kind, data in self._stored.rows]:
            raise BrokenInvariantError(
                f"world {self.world.seed}: the last home's ledger is not what the store has"
            )
