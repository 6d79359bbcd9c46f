"""A house without a real machine: the clock is ours, and the worker does what a test says."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from silent_view import SilentView
from tiny_recipe import TINY
from two_homes import RUN, OneCloud

from launcher.cli import cli
from launcher.machines.backend import Released, Sight
from launcher.market.offers import LOCAL, Offer
from launcher.outside import Outside
from launcher.plans.plan import Plan, plan_from_trial
from launcher.runs.house import House
from recipes.calibration import Calibration, StageSpeed
from recipes.errors import RefusedError
from recipes.recipe import Recipe
from recipes.rundir import (
    CheckpointSaved,
    Done,
    EventLog,
    Limits,
    Progress,
    RunDir,
    StageDone,
    StageStarted,
    WorkerEnded,
    WorkerStarted,
    read_model,
    write_model,
)
from recipes.store import FolderStore, StoreUnreachableError
from tracking.home import home
from tracking.ledger import Ledger
from tracking.prices import Prices

RECIPE = {
    "name": "tiny",
    "teacher": {"kind": "none"},
    "student": {
        "kind": "new",
        "characters": "0123456789+=",
        "layers": 1,
        "hidden_size": 8,
        "heads": 1,
        "intermediate_size": 8,
    },
    "data": {
        "kind": "generated",
        "rows": 10,
        "prompt": "{question}",
        "completion": "{answer}",
    },
    "training": {"steps": 100, "batch_size": 2, "learning_rate": 0.001},
    "hardware": {"local": True, "usd_per_hour": "3.60"},
    "budget": {"usd": "1.00"},
}

TRIAL = Calibration(
    device="cpu",
    boot_s=5.0,
    checkpoint_s=0.2,
    stages={
        "train": StageSpeed(
            units=100, unit="steps", fixed_s=1.0, seconds_per_unit=(0.09, 0.1, 0.11)
        )
    },
)


class Clock:
    """Time passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self.on_sleep: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_sleep()


class Worker:
    """What a worker does, a step each time the launcher sleeps."""

    def __init__(self, run: RunDir, clock: Clock) -> None:
        self.run = run
        self.clock = clock
        self.limits = read_model(run.limits, Limits)

    def say(self, kind: type, **fields: object) -> None:
        log = EventLog(self.run.events, self.limits.attempt)
        log.write(kind(t=self.clock(), attempt=self.limits.attempt, **fields))
        log.close()

    def boot(self) -> None:
        self.say(WorkerStarted, pid=1, device="cpu")

    def train(self, seconds: float) -> None:
        self.say(StageStarted, stage="train")
        self.clock.now += seconds
        self.say(CheckpointSaved, step=50, size_bytes=1, seconds=0.1)

    def say_that_it_lives(self) -> None:
        self.say(Progress, stage="train", done=int(self.clock()), total=0, unit="steps")

    def finish(self) -> None:
        self.say(StageDone, stage="train")
        done = Done(status="done", steps=100, of_steps=100, finished_at=self.clock())
        write_model(self.run.done, done)
        self.say(WorkerEnded, status="done")


Script = Callable[[Worker], Iterator[None]]


def whole_run(worker: Worker) -> Iterator[None]:
    """A worker without any trouble: 10 s of training."""
    worker.boot()
    yield
    worker.train(10.0)
    yield
    worker.finish()


class ScriptedMachine:
    """Runs one script a start; dead when it is over."""

    def __init__(self, clock: Clock, *scripts: Script) -> None:
        self.clock = clock
        self.scripts = list(scripts) or [whole_run]
        self.starts: list[Limits] = []
        self.rented = False
        self.closing_s = 0.0
        self.sight: Sight = "ended"
        self.released = Released(proved=True, detail="nothing was rented")
        self.releases = 0
        self.saves = 0
        self.withdrawn = 0
        self.saved_by: list[float | None] = []
        self.told: Prices | None = None
        """What the provider says of prices."""
        self.deaf = 0
        """How many times it cannot be reached."""
        self.kills = 0
        self._running: Iterator[None] | None = None
        clock.on_sleep = self._tick

    def start(self, run: RunDir, offer: Offer) -> None:
        if self._running is not None:
            raise RefusedError("a worker is already running")
        worker = Worker(run, self.clock)
        self.starts.append(worker.limits)
        self._running = self.scripts.pop(0)(worker)
        self._tick()

    def _tick(self) -> None:
        if self._running is not None:
            try:
                next(self._running)
            except StopIteration:
                self._running = None

    def look(self, run: RunDir) -> Sight:
        return "alive" if self._running is not None else self.sight

    def release(self, run: RunDir, attempt: int) -> Released:
        self.releases += 1
        return self.released

    def prices(self, offer: Offer, since: float) -> Prices | None:
        return self.told

    def withdraw(self, run: RunDir) -> None:
        self.withdrawn += 1

    def ask_to_save(self, run: RunDir, by: float | None = None) -> None:
        if self.deaf:
            self.deaf -= 1
            raise StoreUnreachableError("the store is away", "Try again.")
        self.saves += 1
        self.saved_by.append(by)

    def kill(self, run: RunDir) -> None:
        self.kills += 1
        self._running = None


CATALOGS = Path(__file__).parents[1] / "catalogs"

SEEN_AT = 1_799_992_800.0
"""When the frozen catalogs were written: two hours before the clock of the tests starts."""


@pytest.fixture
def sky_home(tmp_path: Path) -> Path:
    """A home folder in which SkyPilot has fetched the frozen catalogs, and nothing more."""
    home = tmp_path / "sky-home"
    catalogs = home / ".sky" / "catalogs" / "v8"
    shutil.copytree(CATALOGS, catalogs)
    for path in catalogs.glob("*/vms.csv"):
        os.utime(path, (SEEN_AT, SEEN_AT))
        checksum = catalogs / ".meta" / path.parent.name / "vms.csv.md5"
        checksum.parent.mkdir(parents=True)
        checksum.touch()
    return home


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recipe() -> Recipe:
    return Recipe.model_validate(RECIPE)


@pytest.fixture
def trial() -> Calibration:
    return TRIAL


@pytest.fixture
def plan(recipe: Recipe) -> Plan:
    assert recipe.hardware.usd_per_hour is not None
    offer = Offer(cloud=LOCAL, usd_per_hour=recipe.hardware.usd_per_hour, source="recipe")
    return plan_from_trial(recipe, offer, TRIAL, "work")


@pytest.fixture
def machine(clock: Clock) -> ScriptedMachine:
    return ScriptedMachine(clock)


@pytest.fixture
def view() -> SilentView:
    return SilentView()


@pytest.fixture
def house(
    own_home: Path, clock: Clock, machine: ScriptedMachine, view: SilentView
) -> Iterator[House]:
    place = home({"STILLHOUSE_HOME": str(own_home)})
    with Ledger(place.ledger, clock) as ledger:
        yield House(
            home=place,
            ledger=ledger,
            backend=machine,
            view=view,
            tracker=lambda run_id: None,
            clock=clock,
            sleep=clock.sleep,
        )


Still = Callable[..., Result]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The store of all runs, where two homes meet."""
    return tmp_path / "runs"


@pytest.fixture
def cloud(tmp_path: Path, runs: Path, clock: Clock) -> OneCloud:
    """What two homes rent from."""
    return OneCloud(tmp_path / "nodes", FolderStore(runs / RUN), clock)


@pytest.fixture
def outside(own_home: Path, clock: Clock, machine: ScriptedMachine, trial: Calibration) -> Outside:
    """The world of a command, with a scripted machine in it."""
    return Outside(
        environ={"STILLHOUSE_HOME": str(own_home)},
        clock=clock,
        sleep=clock.sleep,
        backend=machine,
        trial=lambda recipe, allow_remote_code: trial,
        track=lambda run_id: None,
    )


@pytest.fixture
def still(outside: Outside) -> Still:
    """The command itself, in that world."""

    def run(*words: str | Path, text: str | None = None) -> Result:
        return CliRunner(mix_stderr=False).invoke(cli, [str(w) for w in words], text, obj=outside)

    return run
