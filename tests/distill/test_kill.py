"""Real workers, really killed: kill -9 at moments by chance, and again."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from distill.worker import run as do_work
from recipes.recipe import Recipe
from recipes.rundir import (
    AnyEvent,
    Done,
    Limits,
    RunDir,
    StageDone,
    StageStarted,
    Stopping,
    Trace,
    TrainStep,
    WorkerEnded,
    WorkerStarted,
    read_events,
    read_lines,
    read_model,
    write_model,
)

pytestmark = pytest.mark.slow

KILLS = 20
SHAPE = {
    "kind": "new",
    "characters": "0123456789+=",
    "layers": 1,
    "hidden_size": 32,
    "heads": 2,
    "intermediate_size": 32,
}
ADDITIONS = {"kind": "generated", "digits": 1, "prompt": "{question}="}
TRAINING = {"batch_size": 16, "learning_rate": 1e-2, "dtype": "float32", "threads": 1}


def make_run(folder: Path, **fields: Any) -> RunDir:
    run = RunDir(folder)
    folder.mkdir(parents=True)
    recipe = {
        "name": "killed",
        "teacher": {"kind": "none"},
        "student": SHAPE,
        "data": ADDITIONS | {"rows": 80, "completion": "{answer}"},
        "training": TRAINING | {"steps": 80},
        "hardware": {"local": True, "usd_per_hour": "0.1"},
        "budget": {"usd": 1},
    }
    write_model(run.recipe, Recipe.model_validate(recipe | fields))
    new_limits(run, 1)
    return run


def new_limits(run: RunDir, attempt: int) -> None:
    limits = Limits(
        attempt=attempt, started_at=time.time(), usd_per_hour=Decimal(0), machine_usd=Decimal(0)
    )
    write_model(run.limits, limits)


def start(run: RunDir) -> subprocess.Popen[bytes]:
    """A worker without a cache, as the launcher starts it."""
    environ = {name: value for name, value in os.environ.items() if name != "STILLHOUSE_HOME"}
    with run.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "distill", str(run.path)],
            cwd=Path(__file__).parents[2],
            env=environ | {"OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
        )


class WarmWorker:
    """A worker in a process of its own that has imported everything: more kills hit its work.

    Used like a Popen. Its exit code is 0 however the run ended, unless it was killed.
    """

    IMPORTED = (
        "transformers.models.auto.modeling_auto",
        "transformers.models.qwen3.modeling_qwen3",
        "distill.evaluate",
        "distill.generate",
        "distill.train",
        "distill.worker",
    )

    def __init__(self, run: RunDir) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(self.IMPORTED))
        self._process = context.Process(target=do_work, args=[run.path])
        self._process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float = 600) -> int | None:
        self._process.join(timeout)
        return self.poll()

    def kill(self) -> None:
        self._process.kill()


Started = subprocess.Popen[bytes] | WarmWorker


def finish(worker: Started, run: RunDir) -> None:
    assert worker.wait(timeout=600) == 0, run.log.read_text()


def events(run: RunDir, kind: type) -> list[Any]:
    found: Iterator[AnyEvent] = (event for event, _ in read_events(run.events))
    return [event for event in found if isinstance(event, kind)]


def wait_for(worker: Started, run: RunDir, kind: type, attempt: int, count: int = 1) -> None:
    """Until that attempt has written so many of these events, or has ended."""
    while worker.poll() is None:
        if sum(event.attempt == attempt for event in events(run, kind)) >= count:
            return
        time.sleep(0.01)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("kill") / "teacher")
    finish(start(run), run)
    return run.student


def taught(folder: Path, teacher: Path) -> RunDir:
    """A run of a few seconds with all three stages, and a checkpoint every few steps."""
    return make_run(
        folder,
        teacher={
            "kind": "model",
            "model": str(teacher),
            "dtype": "float32",
            "sampling": {"max_new_tokens": 4, "batch_size": 2},
        },
        data=ADDITIONS | {"rows": 60},
        training=TRAINING | {"steps": 150, "checkpoint_every_steps": 10},
        evaluation=[
            {
                "task": "sums",
                "data": ADDITIONS | {"rows": 8, "completion": "{answer}", "part": "held_out"},
                "max_new_tokens": 4,
                "batch_size": 1,
            }
        ],
    )


@pytest.fixture(scope="module")
def undisturbed(teacher: Path) -> RunDir:
    run = taught(teacher.parents[1] / "undisturbed", teacher)
    finish(start(run), run)
    return run


def assert_same_result_and_nothing_twice(run: RunDir, undisturbed: RunDir) -> None:
    weights = "model.safetensors"
    assert (run.student / weights).read_bytes() == (undisturbed.student / weights).read_bytes()
    assert run.scores.read_bytes() == undisturbed.scores.read_bytes()
    assert read_model(run.done, Done).status == "done"
    assert Counter(event.stage for event in events(run, StageDone)) == {
        "generate": 1,
        "train": 1,
        "evaluate": 1,
    }
    traces = [Trace.model_validate_json(line) for line, _ in read_lines(run.traces)]
    assert sorted(trace.row for trace in traces) == list(range(60))
    assert len(list(read_lines(run.answers / "sums.jsonl"))) == 8


class Killer:
    """Starts workers on runs of its own and kills them, until it has killed its share."""

    def __init__(self, folder: Path, teacher: Path, undisturbed: RunDir, kills: int) -> None:
        self._folder, self._teacher, self._undisturbed = folder, teacher, undisturbed
        self._chance = random.Random(folder.name)
        times = [event.t for event, _ in read_events(undisturbed.events)]
        self._work_s = times[-1] - times[0]
        self.left = kills
        self.finished = 0
        self.stages: list[str] = []
        """Where each kill came, the stage that was running."""
        self.error: BaseException | None = None

    def work(self) -> None:
        try:
            while self.left:
                self._one_run(taught(self._folder / f"run-{self.finished}", self._teacher))
        except BaseException as error:  # noqa: BLE001 - raised again where pytest sees it
            self.error = error

    def _one_run(self, run: RunDir) -> None:
        attempt = 1
        while not run.done.exists():
            new_limits(run, attempt)
            if self.left:
                self._start_and_kill(run, attempt)
            else:
                finish(WarmWorker(run), run)
            attempt += 1
        assert_same_result_and_nothing_twice(run, self._undisturbed)
        self.finished += 1

    def _start_and_kill(self, run: RunDir, attempt: int) -> None:
        worker: Started
        if self._chance.random() < 0.15:
            worker = start(run)
            time.sleep(self._chance.uniform(0, 3))  # it still imports, most of the time
        else:
            worker = WarmWorker(run)
            wait_for(worker, run, WorkerStarted, attempt)
            time.sleep(self._chance.uniform(0, 0.8 * self._work_s))
        worker.kill()
        if worker.wait() == -signal.SIGKILL:
            self.left -= 1
            started = [event.stage for event in events(run, StageStarted)]
            self.stages.append(started[-1] if started else "start")


def test_twenty_kills_at_any_moment_change_no_weight_no_score_and_pay_nothing_twice(
    tmp_path: Path, teacher: Path, undisturbed: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STILLHOUSE_HOME")  # no cache: each run asks the teacher itself
    killers = [Killer(tmp_path / name, teacher, undisturbed, KILLS // 2) for name in ("one", "two")]
    threads = [threading.Thread(target=killer.work) for killer in killers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for killer in killers:
        if killer.error:
            raise killer.error
    assert sum(killer.finished for killer in killers) >= 2
    # The moments are spread: not all kills came before there was anything to lose.
    stages = Counter(stage for killer in killers for stage in killer.stages)
    assert stages["train"] >= 3, stages
    assert len(stages) >= 2, stages


def test_a_second_worker_leaves_the_first_to_its_work(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", training=TRAINING | {"steps": 200})
    first = start(run)
    wait_for(first, run, WorkerStarted, 1)

    second = start(run)

    assert second.wait(timeout=60) == 3
    assert "another worker is at work" in run.log.read_text()
    finish(first, run)
    assert len(events(run, WorkerStarted)) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_mid_training_saves_and_ends_with_130(
    tmp_path: Path, number: signal.Signals
) -> None:
    run = make_run(tmp_path / "run", training=TRAINING | {"steps": 100_000})
    worker = start(run)
    wait_for(worker, run, TrainStep, 1, count=2)

    worker.send_signal(number)

    assert worker.wait(timeout=30) == 130
    assert [event.reason for event in events(run, Stopping)] == ["interrupt"]
    assert [event.status for event in events(run, WorkerEnded)] == ["interrupted"]
    assert not run.done.exists()
    (checkpoint,) = run.checkpoints.iterdir()
    assert (checkpoint / "complete").exists()
