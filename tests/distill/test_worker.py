"""A worker does each stage once, ends at limits with everything saved, and says what went wrong."""

import fcntl
import gc
import json
import os
import resource
import signal
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from distill.context import Context, Reason, StageStopped, Stop
from distill.pulse import Pulse
from distill.team import ALONE, Team
from distill.trained import NOTE, Trained, read_trained
from distill.upload import CLOSING_S, Uploader
from distill.worker import LOCK_VARIABLE, Worker, run
from recipes.recipe import NewStudent, Recipe
from recipes.rundir import (
    AnyEvent,
    Done,
    Failed,
    Limits,
    RunDir,
    Scores,
    StageDone,
    StageStarted,
    Stopping,
    Trace,
    WorkerEnded,
    WorkerStarted,
    read_events,
    read_model,
    write_model,
)

SHAPE = NewStudent(
    characters="0123456789+=", layers=1, hidden_size=32, heads=2, intermediate_size=32
)
ADDITIONS = {"kind": "generated", "digits": 1, "prompt": "{question}="}
TASK = {
    "task": "sums",
    "data": ADDITIONS | {"rows": 6, "completion": "{answer}", "part": "held_out"},
    "max_new_tokens": 4,
}
TRAINING = {"steps": 4, "batch_size": 8, "learning_rate": 1e-2, "dtype": "float32"}

MakeRun = Callable[..., RunDir]


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """The worker takes SIGTERM and SIGINT; pytest wants them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def make_run(tmp_path: Path, make_recipe: Callable[..., Recipe]) -> MakeRun:
    """A run's folder as the launcher makes it; without limits, unless some are given."""

    def make(name: str = "run", limits: dict[str, Any] | None = None, **fields: Any) -> RunDir:
        run = RunDir(tmp_path / name)
        run.path.mkdir(exist_ok=True)
        recipe = {
            "student": SHAPE,
            "data": ADDITIONS | {"rows": 40, "completion": "{answer}"},
            "training": TRAINING,
            "evaluation": [TASK],
        }
        write_model(run.recipe, make_recipe(**(recipe | fields)))
        none = {"attempt": 1, "started_at": time.time(), "usd_per_hour": 0, "machine_usd": 0}
        write_model(run.limits, Limits.model_validate(none | (limits or {})))
        return run

    return make


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learnt to answer with a number and then to stop."""
    folder = RunDir(tmp_path_factory.mktemp("teacher"))
    recipe = Recipe.model_validate(
        {
            "name": "teacher",
            "teacher": {"kind": "none"},
            "student": SHAPE,
            "data": ADDITIONS | {"rows": 80, "completion": "{answer}"},
            "training": TRAINING | {"steps": 80, "batch_size": 16},
            "hardware": {"local": True, "usd_per_hour": "0.1"},
            "budget": {"usd": 1},
        }
    )
    write_model(folder.recipe, recipe)
    unlimited = Limits(attempt=1, started_at=0, usd_per_hour=Decimal(0), machine_usd=Decimal(0))
    write_model(folder.limits, unlimited)
    assert run(folder.path) == 0
    return folder.student


def taught_by(teacher: Path) -> dict[str, Any]:
    """Fields of a recipe with this teacher."""
    sampling = {"max_new_tokens": 4, "batch_size": 8}
    return {
        "teacher": {
            "kind": "model",
            "model": str(teacher),
            "dtype": "float32",
            "sampling": sampling,
        },
        "data": ADDITIONS | {"rows": 24},
    }


def events(run: RunDir) -> list[AnyEvent]:
    return [event for event, _ in read_events(run.events)]


def stages(run: RunDir, kind: type) -> list[str]:
    return [event.stage for event in events(run) if isinstance(event, kind)]


def failure(run: RunDir) -> Failed:
    (failed,) = [event for event in events(run) if isinstance(event, Failed)]
    assert isinstance(events(run)[-1], WorkerEnded)
    assert not run.done.exists()
    return failed


class StopAt(Stop):
    """Says why to stop in a stage (as the events name it), from the n-th time it is asked."""

    def __init__(self, run: RunDir, stage: str, times: int, reason: Reason) -> None:
        super().__init__(read_model(run.limits, Limits))
        self._run, self._stage, self._left, self._reason = run, stage, times, reason

    def due(self, reserve_s: float = 0.0) -> Reason | None:
        if stages(self._run, StageStarted)[-1] == self._stage:
            self._left -= 1
        return self._reason if self._left < 0 else None


def work(run: RunDir, stop: Callable[[RunDir], Stop] | None = None, attempt: int = 1) -> None:
    """A worker that stops when we say so."""
    limits = read_model(run.limits, Limits).model_copy(update={"attempt": attempt})
    log = Pulse(run.events, attempt)
    chosen = stop(run) if stop else Stop(limits)
    try:
        Worker(run, run.read_recipe(), limits, log, chosen, ALONE).work()
    finally:
        log.close()


# ---- the whole -------------------------------------------------------------------------------


def test_a_run_goes_from_teacher_to_scores_and_says_each_stage_once(
    make_run: MakeRun, teacher: Path
) -> None:
    folder = make_run(**taught_by(teacher))

    assert run(folder.path) == 0

    said = events(folder)
    assert isinstance(said[0], WorkerStarted)
    assert (said[0].device, said[0].processes) == ("cpu", 1)
    assert said[0].versions.keys() == {"torch", "transformers"}
    assert stages(folder, StageStarted) == ["generate", "train", "evaluate"]
    assert stages(folder, StageDone) == ["generate", "train", "evaluate"]
    assert said[-1] == WorkerEnded(t=said[-1].t, attempt=1, status="done")
    done = read_model(folder.done, Done)
    assert (done.status, done.reason, done.steps, done.of_steps) == ("done", None, 4, 4)
    scores = read_model(folder.scores, Scores).scores
    assert scores["sums"].n == scores["sums"].of == 6
    assert len(folder.traces.read_text().splitlines()) == 24


def test_without_a_teacher_and_without_tasks_only_training_is_left(make_run: MakeRun) -> None:
    folder = make_run(evaluation=[])

    assert run(folder.path) == 0

    assert stages(folder, StageDone) == ["train"]
    assert not folder.scores.exists()


def test_a_run_that_is_done_is_left_alone(make_run: MakeRun) -> None:
    folder = make_run()
    run(folder.path)
    before = folder.events.read_bytes()

    assert run(folder.path) == 0

    assert folder.events.read_bytes() == before


def test_what_a_kill_kept_from_being_said_is_said_by_the_next_worker_and_not_done_again(
    make_run: MakeRun, teacher: Path
) -> None:
    folder = make_run(**taught_by(teacher))
    run(folder.path)
    folder.done.unlink()
    lines = folder.events.read_bytes().splitlines(keepends=True)
    until = next(i for i, line in enumerate(lines) if b'stage_done","stage":"train' in line)
    folder.events.write_bytes(b"".join(lines[:until]))
    student, answers = folder.student.stat(), (folder.answers / "sums.jsonl").read_bytes()

    assert run(folder.path) == 0

    assert Counter(stages(folder, StageDone)) == {"generate": 1, "train": 1, "evaluate": 1}
    assert stages(folder, StageStarted) == ["generate", "train"]
    assert folder.student.stat() == student
    assert (folder.answers / "sums.jsonl").read_bytes() == answers
    assert folder.done.exists()


# ---- one worker at a time --------------------------------------------------------------------


def test_a_second_worker_on_the_folder_is_refused_and_touches_nothing(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run()
    with folder.lock.open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)

        assert run(folder.path) == 3

    assert "another worker is at work in" in capsys.readouterr().err
    assert not folder.events.exists()


def test_a_lock_that_the_launcher_took_is_the_workers(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(evaluation=[])
    lock = os.open(folder.lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    monkeypatch.setenv(LOCK_VARIABLE, str(lock))

    assert run(folder.path) == 0

    with folder.lock.open() as free:
        fcntl.flock(free, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert LOCK_VARIABLE not in os.environ


# ---- limits ----------------------------------------------------------------------------------


def test_half_a_training_is_saved_evaluated_and_taken_up_again(make_run: MakeRun) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    whole = make_run("whole")
    run(whole.path)
    folder = make_run()

    work(folder, lambda run: StopAt(run, "train", 2, "budget"))

    done = read_model(folder.done, Done)
    assert (done.status, done.reason, done.steps, done.of_steps) == ("stopped", "budget", 2, 4)
    assert AutoModelForCausalLM.from_pretrained(folder.student).num_parameters() > 0
    assert AutoTokenizer.from_pretrained(folder.student).chat_template
    assert stages(folder, StageDone) == []  # StopAt goes on saying so: the evaluation ends too
    assert read_trained(folder.student) == Trained(steps=2, of_steps=4)

    # What the launcher does when the budget is raised.
    for path in (folder.done, folder.scores):
        path.unlink(missing_ok=True)
    work(folder, attempt=2)

    done = read_model(folder.done, Done)
    assert (done.status, done.steps) == ("done", 4)
    assert stages(folder, StageDone) == ["train", "evaluate"]
    weights = "model.safetensors"
    assert (folder.student / weights).read_bytes() == (whole.student / weights).read_bytes()
    assert folder.scores.read_bytes() == whole.scores.read_bytes()


def test_scores_of_a_half_trained_student_are_not_those_of_the_whole_one(
    make_run: MakeRun,
) -> None:
    folder = make_run()
    work(folder, lambda run: StopAt(run, "train", 2, "budget"))
    everything = {"value": 1, "stderr": 0.1, "n": 6, "of": 6}
    write_model(folder.scores, Scores.model_validate({"scores": {"sums": everything}}))
    folder.done.unlink()

    work(folder, attempt=2)

    assert stages(folder, StageDone) == ["train", "evaluate"]
    assert read_model(folder.scores, Scores).scores["sums"].value < 1


@pytest.mark.parametrize("scored", [(), ("sums",)], ids=["no task", "one task of two"])
def test_a_worker_killed_after_it_scored_what_there_was_time_for_is_followed_by_one_that_scores_all(
    make_run: MakeRun, scored: tuple[str, ...]
) -> None:
    folder = make_run(evaluation=[TASK, TASK | {"task": "more-sums"}])
    assert run(folder.path) == 0
    whole = read_model(folder.scores, Scores)
    of_some = {name: score for name, score in whole.scores.items() if name in scored}
    write_model(folder.scores, Scores(scores=of_some))
    for task in whole.scores.keys() - of_some.keys():
        (folder.answers / f"{task}.jsonl").unlink()
    folder.done.unlink()

    work(folder, attempt=2)

    assert read_model(folder.scores, Scores) == whole
    assert read_model(folder.done, Done).status == "done"


def test_money_that_ends_before_the_first_step_leaves_the_teachers_text_and_no_student(
    make_run: MakeRun, teacher: Path
) -> None:
    folder = make_run(**taught_by(teacher))

    work(folder, lambda run: StopAt(run, "train", 0, "budget"))

    done = read_model(folder.done, Done)
    assert (done.status, done.steps, done.of_steps) == ("stopped", 0, 4)
    assert not folder.student.exists()
    assert len(folder.traces.read_text().splitlines()) == 24


def test_money_that_ends_while_the_teacher_writes_keeps_what_it_wrote(
    make_run: MakeRun, teacher: Path
) -> None:
    training = TRAINING | {"steps": None, "epochs": 2}
    folder = make_run(**taught_by(teacher), training=training)

    work(folder, lambda run: StopAt(run, "generate", 8, "deadline"))

    done = read_model(folder.done, Done)
    assert (done.status, done.reason, done.steps) == ("stopped", "deadline", 0)
    assert done.of_steps == 6  # two passes over 24 answers in batches of 8
    assert 0 < len(folder.traces.read_text().splitlines()) < 24
    assert [event.reason for event in events(folder) if isinstance(event, Stopping)] == ["deadline"]

    folder.done.unlink()
    work(folder, attempt=2)

    rows = [Trace.model_validate_json(line).row for line in folder.traces.read_text().splitlines()]
    assert sorted(rows) == list(range(24))
    assert stages(folder, StageDone) == ["generate", "train", "evaluate"]


def test_an_evaluation_cut_short_ends_the_run_as_stopped_with_all_steps(
    make_run: MakeRun,
) -> None:
    folder = make_run(evaluation=[TASK | {"batch_size": 2}])

    work(folder, lambda run: StopAt(run, "evaluate", 6, "budget"))

    done = read_model(folder.done, Done)
    assert (done.status, done.steps, done.of_steps) == ("stopped", 4, 4)
    score = read_model(folder.scores, Scores).scores["sums"]
    assert 0 < score.n < score.of == 6


def test_a_limit_already_passed_stops_at_once(make_run: MakeRun) -> None:
    folder = make_run(limits={"started_at": time.time() - 100, "seconds": 10})

    assert run(folder.path) == 0

    done = read_model(folder.done, Done)
    assert (done.status, done.reason, done.steps) == ("stopped", "deadline", 0)
    assert events(folder)[-1] == WorkerEnded(t=events(folder)[-1].t, attempt=1, status="stopped")


def test_money_for_a_part_of_the_training_buys_a_scored_student_before_it_ends(
    make_run: MakeRun,
) -> None:
    cents_an_hour, seconds = 360, 40
    limits = {
        "started_at": 1_800_000_000,
        "usd_per_hour": cents_an_hour / 100,
        "machine_usd": cents_an_hour / 100 * seconds / 3600,
        "evaluation_s": 10,
    }
    folder = make_run(limits=limits, training=TRAINING | {"steps": 1_000_000})
    read = count(limits["started_at"])  # a second passes whenever somebody looks at the clock

    work(folder, lambda run: Stop(read_model(run.limits, Limits), lambda: next(read)))

    done = read_model(folder.done, Done)
    assert (done.status, done.reason) == ("stopped", "budget")
    assert 10 < done.steps < seconds / 2  # it looks twice before each step
    assert next(read) <= limits["started_at"] + seconds
    score = read_model(folder.scores, Scores).scores["sums"]
    assert score.n == score.of == 6


class Ring:
    """Goes when somebody collects garbage and not before, as a model split among processes does."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def no_collecting() -> Iterator[None]:
    """Garbage is collected when somebody asks for it, and never by chance."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collecting")
@pytest.mark.parametrize("reason", [None, "budget"])
def test_what_a_training_held_is_gone_before_the_student_answers(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, reason: Reason | None
) -> None:
    held: list[weakref.ref[Ring]] = []
    gone: list[bool] = []

    def train(context: Context, team: Team) -> None:
        model = Ring()
        held.append(weakref.ref(model))
        context.run.student.mkdir()
        write_model(context.run.student / NOTE, Trained(steps=2, of_steps=4))
        if reason:
            raise StageStopped(reason)

    monkeypatch.setattr("distill.train.train", train)
    monkeypatch.setattr("distill.evaluate.evaluate", lambda _: gone.append(held[0]() is None))

    work(make_run())

    assert gone == [True]


class Sender(Uploader):
    """Sends nothing, and remembers how long its worker would wait."""

    def __init__(self) -> None:
        self.waited_for: list[tuple[str, float]] = []

    def wait_for_checkpoint(self, within_s: float) -> None:
        self.waited_for.append(("checkpoint", within_s))

    def flush(self, within_s: float) -> bool:
        self.waited_for.append(("everything", within_s))
        return True


@pytest.mark.parametrize(
    ("steps_until_stop", "waited_s"), [(2, 70.0), (1000, 0.0)], ids=["stopped", "done"]
)
def test_a_checkpoint_is_waited_for_as_long_as_the_money_lasts_and_never_when_all_is_done(
    make_run: MakeRun, steps_until_stop: int, waited_s: float
) -> None:
    folder, sender = make_run(evaluation=[]), Sender()

    class StopThen(StopAt):
        def seconds_left(self) -> float:
            return 70.0

    stop = StopThen(folder, "train", steps_until_stop, "budget")
    limits, log = read_model(folder.limits, Limits), Pulse(folder.events, 1)
    with closing(log):
        Worker(folder, folder.read_recipe(), limits, log, stop, ALONE, sender).work()

    assert sender.waited_for == [("checkpoint", waited_s), ("everything", CLOSING_S)]


@pytest.mark.parametrize("stage", ["generate", "train", "evaluate"])
def test_a_person_who_asks_gets_everything_saved_and_no_end(
    make_run: MakeRun, teacher: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STILLHOUSE_HOME")  # no cache: the second run asks the teacher too
    whole = make_run("whole", **taught_by(teacher))
    run(whole.path)
    folder = make_run(**taught_by(teacher))

    with pytest.raises(StageStopped):
        work(folder, lambda run: StopAt(run, stage, 2, "interrupt"))
    assert not folder.done.exists()
    assert [event.reason for event in events(folder) if isinstance(event, Stopping)] == [
        "interrupt"
    ]

    work(folder, attempt=2)
    weights = "model.safetensors"
    assert (folder.student / weights).read_bytes() == (whole.student / weights).read_bytes()
    assert folder.scores.read_bytes() == whole.scores.read_bytes()
    assert Counter(stages(folder, StageDone)) == {"generate": 1, "train": 1, "evaluate": 1}


# ---- bad days --------------------------------------------------------------------------------


def test_data_that_are_missing_are_a_failure_that_names_them(make_run: MakeRun) -> None:
    data = {"kind": "jsonl", "path": "/no/such.jsonl", "prompt": "{q}", "completion": "{a}"}
    folder = make_run(data=data)

    assert run(folder.path) == 4

    failed = failure(folder)
    assert failed.code == "data"
    assert "/no/such.jsonl" in failed.message
    assert failed.remedy


def test_a_fault_in_a_task_is_found_before_the_teacher_is_asked(
    make_run: MakeRun, teacher: Path
) -> None:
    wrong = TASK["data"] | {"completion": "{result}"}  # type: ignore[operator]
    folder = make_run(**taught_by(teacher), evaluation=[TASK | {"data": wrong}])

    assert run(folder.path) == 4

    assert "there is no column 'result'" in failure(folder).message
    assert stages(folder, StageStarted) == []
    assert not folder.traces.exists()


def test_a_fault_of_ours_is_a_failure_too_and_its_traceback_is_in_the_log(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr("distill.train.train", broken)
    folder = make_run()

    assert run(folder.path) == 4

    assert failure(folder).code == "fault"
    assert failure(folder).message == "ZeroDivisionError: surprise"
    log = capsys.readouterr().err
    assert "Traceback" in log
    assert "in broken" in log


@contextmanager
def small_disk(largest_file: int) -> Iterator[None]:
    """No file may be above so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_said_and_what_is_done_stays(make_run: MakeRun, teacher: Path) -> None:
    training = TRAINING | {"checkpoint_every_steps": 2}
    folder = make_run(**taught_by(teacher), training=training)

    with small_disk(20_000):  # room for events, none for a checkpoint
        assert run(folder.path) == 4

    assert failure(folder).code == "disk_full"
    assert "a checkpoint" in failure(folder).message
    assert len(folder.traces.read_text().splitlines()) == 24
    assert list(folder.checkpoints.iterdir()) == []


def test_after_a_full_disk_the_run_goes_on_where_it_was(make_run: MakeRun, teacher: Path) -> None:
    folder = make_run(**taught_by(teacher))
    with small_disk(20_000):
        assert run(folder.path) == 4

    assert run(folder.path) == 0

    assert Counter(stages(folder, StageDone)) == {"generate": 1, "train": 1, "evaluate": 1}


@pytest.mark.parametrize("largest_file", [0, 100, 500])
def test_a_disk_without_room_for_events_is_said_on_stderr(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], largest_file: int
) -> None:
    folder = make_run()

    with small_disk(largest_file):
        code = run(folder.path)

    assert code == 4
    assert "there was no room to write" in capsys.readouterr().err
    assert run(folder.path) == 0


@pytest.mark.parametrize("name", ["recipe.json", "limits.json"])
@pytest.mark.parametrize("content", [None, "", "{", "{}", "[]"])
def test_a_folder_that_the_launcher_did_not_fill_is_invalid_input(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], name: str, content: str | None
) -> None:
    folder = make_run()
    (folder.path / name).unlink()
    if content is not None:
        (folder.path / name).write_text(content)

    assert run(folder.path) == 2

    assert name in capsys.readouterr().err
    assert not folder.events.exists()


def test_a_folder_that_is_not_there_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "nowhere") == 3
    assert "nowhere" in capsys.readouterr().err


def test_events_of_a_torn_line_are_mended(make_run: MakeRun) -> None:
    folder = make_run()
    folder.events.write_bytes(b'{"v":1,"t":1.0,"att')

    assert run(folder.path) == 0

    assert all(json.loads(line) for line in folder.events.read_text().splitlines())


def test_the_teachers_and_students_code_is_not_run_unasked(make_run: MakeRun) -> None:
    student = {"kind": "pretrained", "model": "owner/name", "trust_remote_code": True}
    folder = make_run(student=student)

    assert run(folder.path) == 4

    assert failure(folder).code == "remote_code"


def test_a_stage_is_given_its_world(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Context] = []
    monkeypatch.setattr("distill.train.train", lambda context, team: seen.append(context))
    folder = make_run(evaluation=[])

    assert run(folder.path) == 0

    assert (seen[0].device, seen[0].rank, seen[0].world) == ("cpu", 0, 1)
