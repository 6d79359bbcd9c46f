"""Two homes, one run store, one cloud: whoever drives, its machine and its worker are the same."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shaky_store import ShakyStore
from silent_view import SilentView

from launcher.machines.backend import Paid, Released, Sight
from launcher.market.offers import Offer
from launcher.runs.adopt import Adoption
from launcher.runs.house import House
from launcher.runs.mirror import StoreMirror
from recipes.rundir import (
    Done,
    EventLog,
    Limits,
    RunDir,
    Score,
    Scores,
    StageDone,
    StageStarted,
    WorkerEnded,
    WorkerStarted,
    read_model,
)
from recipes.store import FolderStore, Store
from recipes.store_lines import LineSender
from recipes.store_trees import put_tree
from recipes.stored_run import EventMirror, withdraw_results
from tracking.home import Home, home
from tracking.ledger import Ledger

RUN = "tiny-1"


class OneCloud:
    """A `Backend` that two homes share: one machine at a time, whose worker writes to the store.

    Args:
        folder: the machine's own disk.
    """

    rented = True
    closing_s = 0.0

    def __init__(self, folder: Path, store: Store, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._store = store
        self._clock = clock
        self._node: RunDir | None = None
        self.limits: Limits | None = None
        self.started: list[int] = []
        """Attempts, as they were asked for."""
        self.ended: list[int] = []
        """Attempts whose machines were given back."""
        self.proved: bool | None = True
        self.on_start: Callable[[], None] = lambda: None
        self.on_release: Callable[[], None] = lambda: None
        """Happens once, in the midst of it."""

    def start(self, run: RunDir, offer: Offer) -> None:
        self.limits = read_model(run.limits, Limits)
        self.started.append(self.limits.attempt)
        self._node = RunDir(self._folder / f"node-{self.limits.attempt}")
        self._node.path.mkdir(parents=True)
        self.on_start()
        self.say(WorkerStarted, pid=1, device="cpu")
        self.say(StageStarted, stage="train")

    def say(self, kind: type, **fields: Any) -> None:
        """The worker writes an event, and sends it."""
        assert self._node is not None
        assert self.limits is not None
        log = EventLog(self._node.events, self.limits.attempt)
        log.write(kind(t=self._clock(), attempt=self.limits.attempt, **fields))
        log.close()
        LineSender(self._store, "events", self._node.events).send()

    def finish(self) -> None:
        """The worker has done its work, and stored it."""
        assert self._node is not None
        self.say(StageDone, stage="train")
        score = Score(value=0.75, stderr=0.01, n=100, of=100)
        done = Done(status="done", steps=100, of_steps=100, finished_at=self._clock())
        self._node.student.mkdir()
        (self._node.student / "config.json").write_text("{}")
        put_tree(self._store, self._node.student, "student")
        self._store.put_bytes(
            "scores.json", Scores(scores={"sums": score}).model_dump_json().encode()
        )
        self._store.put_bytes("done.json", done.model_dump_json().encode())
        self.say(WorkerEnded, status="done")
        self._node = None

    def take_away(self) -> None:
        self._node = None

    def look(self, run: RunDir) -> Sight:
        EventMirror(self._store, run).fetch()
        if self._node is not None:
            return "alive"
        return "ended" if run.done.exists() else "lost"

    def release(self, run: RunDir, attempt: int) -> Released:
        self._node = None
        self.ended.append(attempt)
        happens, self.on_release = self.on_release, lambda: None
        happens()
        began = read_model(run.limits, Limits).started_at
        return Released(
            proved=self.proved, detail="asked the cloud", paid=(Paid(began, self._clock()),)
        )

    def withdraw(self, run: RunDir) -> None:
        withdraw_results(self._store)

    def ask_to_save(self, run: RunDir) -> None:
        raise AssertionError("nobody has asked for it")

    def kill(self, run: RunDir) -> None:
        self._node = None


@dataclass
class OneHome:
    """A home, and its own way to the run's store."""

    house: House
    store: ShakyStore
    host: str
    said: list[str] = field(default_factory=list)

    @property
    def ledger(self) -> Ledger:
        return self.house.ledger

    @property
    def run(self) -> RunDir:
        return self.house.home.run(RUN)

    def adoption(self) -> Adoption:
        return Adoption(
            self.house.home,
            self.ledger,
            self.store,
            RUN,
            lambda url: url == self.store.url,
            self.host,
            self.house.clock,
        )

    def again(self) -> "OneHome":
        """The next process of this home."""
        self.house.mirror = self._mirror()
        return self

    def _mirror(self) -> StoreMirror:
        return StoreMirror(
            lambda: self.store, self.run, self.ledger, self.host, self.said.append, self.house.clock
        )


def one_home(
    folder: Path, host: str, runs: Path, cloud: OneCloud, clock: Any, sleep: Any
) -> OneHome:
    """A home in a folder of its own.

    Args:
        runs: the store of all runs.
    """
    place: Home = home({"STILLHOUSE_HOME": str(folder)})
    house = House(
        home=place,
        ledger=Ledger(place.ledger, clock),
        backend=cloud,
        view=SilentView(),
        tracker=lambda run_id: None,
        clock=clock,
        sleep=sleep,
        poll_s=2.0,
    )
    return OneHome(house, ShakyStore(FolderStore(runs / RUN)), host).again()
