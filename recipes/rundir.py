"""The folder of a run: what launcher and worker say to each other, in files and not in calls.

    recipe.json       the recipe, as it was launched            launcher, once
    limits.json       what this attempt may spend               launcher, before each start
    events.jsonl      what happens, one JSON object a line      worker, appended
    traces.jsonl      what the teacher wrote                    worker, appended
    checkpoints/      step-00000200/, whole when it holds `complete`
    student/          the finished model, tokenizer and chat template
    answers/          TASK.jsonl: what the student answered
    scores.json       task -> value, standard error, n
    done.json         how it ended; written last
    worker.lock       locked (flock) as long as a worker lives
    worker.log        what the worker printed

The same folder lies on a laptop and on a rented node. Files are written aside, synced and renamed;
`events.jsonl` and `traces.jsonl` are appended a whole line at a time; a torn last line is dropped.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import IO, Annotated, Literal, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from recipes.errors import InvalidInputError
from recipes.faults import printable
from recipes.paths import with_paths
from recipes.recipe import Part, Recipe

Stage = Literal["generate", "train", "evaluate"]
STAGES: tuple[Stage, ...] = ("generate", "train", "evaluate")

StopReason = Literal["budget", "deadline"]

Ending = Literal["done", "stopped", "interrupted", "failed", "answered"]
"""How an attempt ends in good order. `answered`: the teacher's answers were all there was to do."""


class Limits(Part):
    """What one attempt of the worker may spend and do. A new attempt gets new limits."""

    version: Literal[1] = 1

    attempt: int = Field(ge=1)
    """1 for the first start of the worker, one more at each resume."""

    started_at: float
    """When the machine began to cost money [unix seconds]."""

    usd_per_hour: Decimal = Field(ge=0)
    """What all machines of this attempt cost together [USD/h]."""

    machine_usd: Decimal = Field(ge=0)
    """What the machines may cost in this attempt, saving included [USD]."""

    seconds: float | None = Field(default=None, gt=0)
    """How long this attempt may take [s]; no limit where left out."""

    api_usd: Decimal = Field(default=Decimal(0), ge=0)
    """What a teacher behind an API may cost in this attempt [USD]."""

    api_usd_per_million_input_tokens: Decimal | None = None
    api_usd_per_million_output_tokens: Decimal | None = None

    checkpoint_every_s: float = Field(default=60.0, gt=0)
    """Seconds of training between checkpoints, where the recipe does not give steps."""

    evaluation_s: float | None = Field(default=None, ge=0)
    """How long the evaluation is thought to take [s]: set aside when training ends early. Unknown
    where left out."""

    save_s: float | None = Field(default=None, ge=0)
    """How long writing a checkpoint is thought to take [s], until one was written. Unknown where
    left out."""

    upload_s: float | None = Field(default=None, ge=0)
    """How long sending the student to `store` is thought to take [s]. Unknown where left out."""

    only: Literal["generate"] | None = None
    """The one stage to do: answers of a teacher behind an API are asked for at home, so that its
    key never lies on a rented machine. All stages where left out."""

    allow_remote_code: bool = False
    """A person said `--trust-remote-code`. The recipe has to say so too."""

    store: str | None = None
    """Where the run's files are kept besides this machine's disk: a folder, or `s3://bucket/prefix`,
    of this run alone. Nowhere else where left out."""

    def stop_at(self) -> tuple[float, StopReason] | None:
        """When everything has to be saved [unix seconds], and which limit that is."""
        ends: list[tuple[float, StopReason]] = []
        if self.usd_per_hour > 0:
            affordable_s = float(self.machine_usd / self.usd_per_hour) * 3600
            ends.append((self.started_at + affordable_s, "budget"))
        if self.seconds is not None:
            ends.append((self.started_at + self.seconds, "deadline"))
        return min(ends) if ends else None


# ---- events ----------------------------------------------------------------------------------


class Event(Part):
    """One line of `events.jsonl`."""

    v: Literal[1] = 1
    t: float
    """When [unix seconds]."""
    attempt: int = Field(ge=1)


class WorkerStarted(Event):
    kind: Literal["worker_started"] = "worker_started"
    pid: int
    device: str
    """For example `cpu` or `cuda:NVIDIA H100 80GB HBM3`."""
    processes: int = 1
    """Processes that train together, one a GPU."""
    versions: dict[str, str] = Field(default_factory=dict)


class StageStarted(Event):
    kind: Literal["stage_started"] = "stage_started"
    stage: Stage


class Progress(Event):
    """Where a stage is; at least once a second while anything moves."""

    kind: Literal["progress"] = "progress"
    stage: Stage
    done: int = Field(ge=0)
    total: int = Field(ge=0)
    unit: str
    """What is counted: `answers`, `steps`."""
    tokens_per_s: float | None = None
    left_s: float | None = None
    """Seconds the stage still needs."""


class TrainStep(Event):
    kind: Literal["train_step"] = "train_step"
    step: int
    steps: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    """Tokens that went through the student so far, padding aside."""
    completion_tokens: int
    """Of these, tokens with a loss."""
    tokens_per_s: float
    mfu: float | None = None
    """Share of the device's peak; `None` where the peak is not known."""
    memory_bytes: int | None = None
    """The most held so far by one GPU, or by the process on a CPU [bytes]; `None` is unknown."""


class Generated(Event):
    """What the teacher's stage came to, over all attempts."""

    kind: Literal["generated"] = "generated"
    answers: int
    cached: int
    """Of these, taken from an earlier run: they cost nothing now."""
    truncated: int
    """Of these, cut off at `max_new_tokens`: not trained on."""
    input_tokens: int
    output_tokens: int


class ApiReserved(Event):
    """A request is about to be sent. `api_usage` with the same number settles it.

    One that is never settled belongs to a worker that was killed: its attempt is settled with it at
    this worst case (`asked_micro_usd`).
    """

    kind: Literal["api_reserved"] = "api_reserved"
    request: int = Field(ge=0)
    """Counts over all attempts."""
    input_tokens: int = Field(ge=0)
    output_tokens: int = Field(ge=0)
    micro_usd: int = Field(ge=0)
    """The most that it can cost."""


class ApiUsage(Event):
    """A request is settled; amounts are of this request alone, 0 where it was not billed."""

    kind: Literal["api_usage"] = "api_usage"
    request: int = Field(default=0, ge=0)
    input_tokens: int = Field(ge=0)
    output_tokens: int = Field(ge=0)
    micro_usd: int = Field(ge=0)


class CheckpointSaved(Event):
    kind: Literal["checkpoint_saved"] = "checkpoint_saved"
    step: int
    size_bytes: int
    seconds: float


class CheckpointStored(Event):
    """A checkpoint is in the run store: losing the machine now costs only what comes after it."""

    kind: Literal["checkpoint_stored"] = "checkpoint_stored"
    step: int
    size_bytes: int
    seconds: float


class CheckpointLoaded(Event):
    """Training goes on from `step`; what was done after it is done again."""

    kind: Literal["checkpoint_loaded"] = "checkpoint_loaded"
    step: int


class StageDone(Event):
    kind: Literal["stage_done"] = "stage_done"
    stage: Stage


class Scored(Event):
    kind: Literal["scored"] = "scored"
    task: str
    value: float
    stderr: float
    n: int
    """Problems answered."""
    of: int
    """Problems there are; more than `n` where time ran out."""
    truncated: int
    """Answers cut off at `max_new_tokens`; they count as they stand."""


class Warned(Event):
    kind: Literal["warned"] = "warned"
    code: str
    message: str


class Failed(Event):
    """The worker cannot go on. Everything finished so far stays."""

    kind: Literal["failed"] = "failed"
    code: str
    message: str
    remedy: str
    """What to change."""


class Stopping(Event):
    """The worker saves and ends before the work is done."""

    kind: Literal["stopping"] = "stopping"
    reason: Literal["budget", "deadline", "interrupt"]


class WorkerEnded(Event):
    """The last line of an attempt that ended in good order."""

    kind: Literal["worker_ended"] = "worker_ended"
    status: Ending


AnyEvent = Annotated[
    WorkerStarted
    | StageStarted
    | Progress
    | TrainStep
    | Generated
    | ApiReserved
    | ApiUsage
    | CheckpointSaved
    | CheckpointStored
    | CheckpointLoaded
    | StageDone
    | Scored
    | Warned
    | Failed
    | Stopping
    | WorkerEnded,
    Field(discriminator="kind"),
]
_EVENT: TypeAdapter[AnyEvent] = TypeAdapter(AnyEvent)


# ---- results ---------------------------------------------------------------------------------


class Score(Part):
    value: float = Field(ge=0, le=1)
    stderr: float = Field(ge=0)
    """Standard error of `value`."""
    n: int = Field(ge=0)
    of: int = Field(ge=0)
    truncated: int = Field(default=0, ge=0)


class Scores(Part):
    version: Literal[1] = 1
    scores: dict[str, Score]


class Done(Part):
    """How the work ended; written last, so that a run with it needs nothing more."""

    version: Literal[1] = 1
    status: Literal["done", "stopped"]
    reason: StopReason | None = None
    """Which limit stopped it."""
    steps: int = Field(ge=0)
    """Optimiser steps behind the saved student."""
    of_steps: int = Field(ge=0)
    finished_at: float


class Trace(Part):
    """One answer of the teacher: a line of `traces.jsonl`."""

    key: str
    """Of (teacher, prompt, sampling, which answer): what a cache finds it by."""
    row: int
    """Number of the prompt in the data."""
    prompt: str
    text: str
    input_tokens: int = Field(ge=0)
    output_tokens: int = Field(ge=0)
    finish: Literal["stop", "length"]
    cached: bool = False


# ---- the folder ------------------------------------------------------------------------------


def _inside(name: str) -> "cached_property[Path]":
    return cached_property(lambda run: run.path / name)


class RunDir:
    """Paths of one run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    recipe = _inside("recipe.json")
    plan = _inside("plan.json")
    limits = _inside("limits.json")
    events = _inside("events.jsonl")
    traces = _inside("traces.jsonl")
    checkpoints = _inside("checkpoints")
    student = _inside("student")
    answers = _inside("answers")
    scores = _inside("scores.json")
    done = _inside("done.json")
    lock = _inside("worker.lock")
    log = _inside("worker.log")

    def read_recipe(self) -> Recipe:
        """The recipe. Paths in it that begin with `./` start at this folder."""

        def here(_field: str, path: str) -> str:
            return str(self.path.absolute() / path) if path.startswith("./") else path

        return with_paths(read_model(self.recipe, Recipe), here, here)


Model = TypeVar("Model", bound=BaseModel)


def read_model(path: Path, model: type[Model]) -> Model:
    """Read a JSON file as `model`.

    Raises:
        InvalidInputError: not there, not JSON, or not such a model; names the file and the field.
    """
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = "".join(f"{part}." for part in first["loc"]).rstrip(".")
        raise InvalidInputError(
            f"{path} is not a valid {model.__name__}: {where}{': ' * bool(where)}{first['msg']}"
        ) from error


def write_model(path: Path, model: BaseModel) -> None:
    """Write a JSON file so that it is there whole or not at all, also after a power cut."""
    write_atomically(path, (model.model_dump_json(indent=2) + "\n").encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Write aside, sync, rename, sync the folder. Mode 600."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames inside a folder last."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_for_appending(path: Path) -> IO[bytes]:
    """Open a file of lines; a last line that a kill cut off is dropped first."""
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
    whole = _end_of_last_line(file)
    file.seek(whole)
    file.truncate()
    return file


def _end_of_last_line(file: IO[bytes]) -> int:
    position = file.seek(0, os.SEEK_END)
    while position > 0:
        start = max(0, position - 65536)
        file.seek(start)
        newline = file.read(position - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        position = start
    return 0


class EventLog:
    """The worker's pen. One line an event; `sync` makes all so far survive a power cut."""

    def __init__(self, path: Path, attempt: int) -> None:
        self._file = open_for_appending(path)
        self.attempt = attempt

    def write(self, event: Event) -> None:
        self._file.write(event.model_dump_json(exclude_none=True).encode() + b"\n")
        self._file.flush()

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self.sync()
        self._file.close()


def read_lines(path: Path, offset: int = 0) -> Iterator[tuple[bytes, int]]:
    """Whole lines of a file from `offset`, each with the offset behind it; none without a file."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield line, offset


def attempt_events(run: RunDir, attempt: int) -> list[AnyEvent]:
    """What one start of the worker has said, in order; up to the first line that cannot be read, if
    there is one: what a machine has cost has to be settled whatever it has written."""
    events: list[AnyEvent] = []
    with suppress(InvalidInputError):
        for event, _ in read_events(run.events):
            if event.attempt == attempt:
                events.append(event)
    return events


def asked_micro_usd(events: Iterable[AnyEvent]) -> int:
    """What one start of the worker has spent on a teacher behind an API [micro-dollars].

    Requests that it never settled may have been answered, and billed: they count at their worst.
    """
    spent, under_way = 0, dict[int, int]()
    for event in events:
        if isinstance(event, ApiReserved):
            under_way[event.request] = event.micro_usd
        elif isinstance(event, ApiUsage):
            under_way.pop(event.request, None)
            spent += event.micro_usd
    return spent + sum(under_way.values())


def read_events(path: Path, offset: int = 0) -> Iterator[tuple[AnyEvent, int]]:
    """Events from `offset`, each with the offset behind it, to go on from there.

    Raises:
        InvalidInputError: a line is not an event of this version.
    """
    for line, end in read_lines(path, offset):
        try:
            yield _EVENT.validate_json(line), end
        except ValidationError as error:
            shown = printable(line[:80].decode(errors="replace").rstrip())
            raise InvalidInputError(
                f"{path} holds a line that is no event of version 1, before byte {end}: {shown}"
            ) from error
