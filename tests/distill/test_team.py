"""Several processes, started by torchrun, train as one does, and take over from each other."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch

from distill import checkpoint
from distill.context import Context, Reason, StageStopped, Stop
from distill.models import load_model
from distill.team import ALONE, Team, join
from distill.train import train
from recipes.recipe import Recipe
from recipes.rundir import (
    CheckpointLoaded,
    Done,
    EventLog,
    Failed,
    Limits,
    RunDir,
    Scores,
    StageDone,
    TrainStep,
    WorkerEnded,
    WorkerStarted,
    read_events,
    read_model,
    write_model,
)
from recipes.store import FolderStore
from recipes.stored_run import EventMirror

STEPS = 24
UNLIMITED = Limits(attempt=1, started_at=0, usd_per_hour=Decimal(0), machine_usd=Decimal(0))


NEW = {
    "kind": "new",
    "characters": "0123456789+=",
    "layers": 2,
    "hidden_size": 24,
    "heads": 2,
    "intermediate_size": 40,
}


def make_run(folder: Path, steps: int = STEPS, student: dict[str, Any] = NEW) -> RunDir:
    """20 samples in batches of 6 and micro-batches of 2: the last batch of an epoch is smaller."""
    run = RunDir(folder)
    folder.mkdir()
    additions = {"kind": "generated", "digits": 1, "prompt": "{question}="}
    answers = additions | {"rows": 8, "completion": "{answer}", "part": "held_out"}
    recipe = {
        "name": "team",
        "teacher": {"kind": "none"},
        "student": student,
        "data": additions | {"rows": 20, "completion": "{answer}"},
        "training": {
            "steps": steps,
            "batch_size": 6,
            "micro_batch_size": 2,
            "learning_rate": 1e-3,
            "weight_decay": 0.1,
            "dtype": "float32",
            "checkpoint_every_steps": 1_000_000,
            "threads": 1,
        },
        "evaluation": [{"task": "sums", "data": answers, "max_new_tokens": 3}],
        "hardware": {"local": True, "usd_per_hour": "0.1"},
        "budget": {"usd": 1},
    }
    write_model(run.recipe, Recipe.model_validate(recipe))
    write_model(run.limits, UNLIMITED)
    return run


def torchrun(
    run: RunDir, *program: str | Path, environ: Mapping[str, str] = MappingProxyType({})
) -> subprocess.Popen[bytes]:
    """Two processes on CPUs: of the worker, or of another program."""
    with run.log.open("ab") as log:
        return subprocess.Popen(
            [
                sys.executable,
                *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
                *(program or ("-m", "distill")),
                str(run.path),
            ],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"OMP_NUM_THREADS": "1"} | dict(environ),
            stdout=log,
            stderr=log,
        )


def train_alone(run: RunDir, stop: Stop | None = None) -> None:
    torch.set_num_threads(1)
    limits = read_model(run.limits, Limits)
    with closing(EventLog(run.events, 1)) as log:
        train(Context(run, run.read_recipe(), limits, log, stop or Stop(limits), "cpu"))


class StopAt(Stop):
    def __init__(self, step: int) -> None:
        super().__init__(UNLIMITED)
        self._left = step

    def due(self, reserve_s: float = 0.0) -> Reason | None:
        self._left -= 1
        return "interrupt" if self._left < 0 else None


def events(run: RunDir, kind: type) -> list[Any]:
    return [event for event, _ in read_events(run.events) if isinstance(event, kind)]


def results(run: RunDir) -> dict[int, tuple[float, float]]:
    """Loss and norm of the gradient of each step that was told: the first and last of a worker."""
    return {event.step: (event.loss, event.grad_norm) for event in events(run, TrainStep)}


def assert_same_weights(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Sums come in another order: the same within what float32 can tell after some steps."""
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-3, msg=name)


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join() is ALONE
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join() is ALONE


def test_alone_everything_is_ones_own() -> None:
    team, weight = Team(), torch.ones(3)

    assert team.share(lambda: "word") == "word"
    assert team.agree(2) == 2
    assert team.add(weight) is weight
    assert team.whole(weight) is weight
    assert torch.equal(team.part(weight, torch.zeros(3)), weight)


@pytest.mark.slow
def test_two_processes_finish_what_one_began_with_the_same_result(
    tmp_path: Path, new_model: Callable[[Path, int], Path]
) -> None:
    student = {"kind": "pretrained", "model": str(new_model(tmp_path / "student", 0))}
    reference = make_run(tmp_path / "reference", student=student)
    run = make_run(tmp_path / "run", student=student)
    for each in (reference, run):
        with pytest.raises(StageStopped):
            train_alone(each, StopAt(STEPS // 3))
    train_alone(reference)

    assert torchrun(run).wait(timeout=300) == 0, run.log.read_text()

    ours, theirs = (load_model(str(of.student)).state_dict() for of in (run, reference))
    assert_same_weights(ours, theirs)
    # AdamW does not see a scale, so that weights alone would not show one that is wrong.
    for step in (STEPS // 3 + 1, STEPS):
        assert results(run)[step] == pytest.approx(results(reference)[step], rel=1e-3), step
    assert [event.processes for event in events(run, WorkerStarted)] == [2]
    assert [event.step for event in events(run, CheckpointLoaded)] == [STEPS // 3]
    # Counted once, and not by each process.
    assert len({event.step for event in events(run, TrainStep)}) == len(events(run, TrainStep))
    assert [event.stage for event in events(run, StageDone)] == ["train", "evaluate"]
    assert read_model(run.scores, Scores).scores["sums"].n == 8
    done = read_model(run.done, Done)
    assert (done.status, done.steps, done.of_steps) == ("done", STEPS, STEPS)


@pytest.mark.slow
def test_a_signal_to_two_processes_leaves_a_checkpoint_that_one_can_go_on_from(
    tmp_path: Path,
) -> None:
    reference, run = make_run(tmp_path / "reference", 100_000), make_run(tmp_path / "run", 100_000)
    both = torchrun(run)
    while both.poll() is None and len(events(run, TrainStep)) < 2:
        time.sleep(0.01)

    both.terminate()

    assert both.wait(timeout=300) != 0
    assert [event.status for event in events(run, WorkerEnded)] == ["interrupted"], (
        run.log.read_text()
    )
    assert not run.done.exists()
    (folder,) = run.checkpoints.iterdir()
    reached = int(folder.name.removeprefix("step-"))
    assert reached > 0

    with pytest.raises(StageStopped):
        train_alone(run, StopAt(1))
    with pytest.raises(StageStopped):
        train_alone(reference, StopAt(reached + 1))
    assert (run.checkpoints / f"step-{reached + 1:08d}").exists()
    ours, theirs = (checkpoint.newest(of.checkpoints, pytest.fail) for of in (run, reference))
    assert ours is not None
    assert theirs is not None
    assert_same_weights(ours["learner"]["weights"], theirs["learner"]["weights"])
    assert ours["learner"]["tokens"] == theirs["learner"]["tokens"]


@pytest.mark.slow
def test_when_the_first_process_refuses_the_others_end_with_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with run.lock.open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        began = time.monotonic()

        both = torchrun(run)

        assert both.wait(timeout=300) != 0
    assert "another worker is at work" in run.log.read_text()
    # Not after the half minute that torchrun leaves processes which do not end by themselves.
    assert time.monotonic() - began < 120
    assert not run.events.exists()


BROKEN_WORKER = """
import os, sys
from pathlib import Path
import torch
from distill import learner, train, worker

def breaks(work):
    def broken(*given):
        if os.environ["RANK"] == os.environ["BREAKS"] and getattr(given[0], "steps", 2) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return work(*given)
    return broken

if os.environ["WHERE"] == "a step":
    learner.Learner.step = breaks(learner.Learner.step)
else:
    train.open_student = breaks(train.open_student)
sys.exit(worker.run(Path(sys.argv[1])))
"""
"""A worker of which one process has no memory left."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "where"), [("1", "a step"), ("1", "opening the student"), ("0", "a step")]
)
def test_memory_that_runs_out_in_any_process_is_said_with_what_to_do(
    tmp_path: Path, rank: str, where: str
) -> None:
    run, program = make_run(tmp_path / "run"), tmp_path / "broken_worker.py"
    program.write_text(BROKEN_WORKER)
    store, home = FolderStore(tmp_path / "store"), RunDir(tmp_path / "home")
    home.path.mkdir()
    write_model(run.limits, UNLIMITED.model_copy(update={"store": store.url}))
    environ = {"BREAKS": rank, "WHERE": where, "PYTHONPATH": str(Path(__file__).parents[2])}

    both = torchrun(run, program, environ=environ)

    assert both.wait(timeout=300) != 0
    (failed,) = events(run, Failed)
    assert failed.code == "out_of_memory"
    assert failed.message.startswith(
        "in process 2 of 2 memory ran out" if rank == "1" else "memory"
    )
    assert failed.remedy == "Lower training.micro_batch_size (is 2): the result stays the same."
    assert [event.status for event in events(run, WorkerEnded)] == ["failed"]
    assert not run.done.exists()
    EventMirror(store, home).fetch()
    assert home.events.read_bytes() == run.events.read_bytes()
    log = run.log.read_text()
    assert "Error: " in log
    assert "a fault of the worker's" not in log, "what breaks after it is no fault of its own"
    assert "exitcode  : 4" in log
