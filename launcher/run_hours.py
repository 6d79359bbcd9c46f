"""How long a whole run takes on one kind of machine, line by line, and whether it can run there.

Pure. Each line has a spread of its own; the lines of one run do not go wrong together, so that the
spread of the whole is smaller than the sum of theirs (`together`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from launcher.estimate.generation import Writing, estimate_writing
from launcher.estimate.gpus import Gpu
from launcher.estimate.interruptions import best_interval, expected_completion
from launcher.estimate.memory import generating_need, training_need
from launcher.estimate.overheads import (
    DISK_BYTES_PER_S,
    DOWNLOAD_BYTES_PER_S,
    LOAD_SECONDS_PER_GB,
    PROVISION_SECONDS,
    SETUP_SECONDS,
    UPLOAD_BYTES_PER_S,
    checkpoint_bytes,
    transfer_seconds,
    weight_bytes,
)
from launcher.estimate.quantiles import Z90, Quantiles
from launcher.estimate.training import estimate_fleet
from launcher.estimate.work import Fleet, Machine
from launcher.work_of import ANSWER_SHARE, Answers, Work

SPOT_HOURS_BETWEEN = 6.0
"""Mean hours until one spot machine is taken away.

The median of five V100 traces of AWS, 2023, in zones where spot could be had most of the time: 3.2,
5.7, 6.1, 10.5 and 16.7 machine-hours for each loss (traces of "Can't Be Late", Wu et al., NSDI
2024). Nobody publishes it for newer GPUs. Machines of one cluster count as independent, which is
the careful reading: in these traces they often go together."""

LOSS_PIECE_BYTES = 2**26
"""The worker takes the loss in pieces whose logits are so large in float32 [bytes]."""

FLOAT32_SLOWDOWN = 16.0
"""Products in float32 beside bfloat16: 67 against 989 TFLOP/s on an H100, 19.5 against 312 on an
A100 (NVIDIA's datasheets)."""

PASS_SECONDS_PER_LAYER = Quantiles(1e-3, 2.5e-3, 6e-3)
"""Forward, backward and optimiser of one layer, however small it is: launching its kernels [s]. An
assumption; three times what a forward pass takes when text is written."""

MEAN_SHIFT = 1 / (math.sqrt(2 * math.pi) * Z90)
"""How far the mean lies above the middle, as a share of (P90 - P50) - (P50 - P10)."""

LONGEST_INTERVAL_S = 600.0
"""On a machine that nobody takes away: a checkpoint as often as this [s] ..."""

CHECKPOINT_SHARE = 0.02
"""... but for no more than this share of the time."""


@dataclass(frozen=True)
class Kind:
    """Machines on which the same run takes equally long, whatever they cost."""

    gpu: Gpu
    gpus_per_node: int
    nodes: int
    spot: bool

    @property
    def gpus(self) -> int:
        return self.gpus_per_node * self.nodes

    @property
    def machine(self) -> Machine:
        return Machine(self.gpu, self.gpus_per_node, self.nodes)

    def __str__(self) -> str:
        nodes = f" on {self.nodes} machines" if self.nodes > 1 else ""
        return f"{self.gpu.name}:{self.gpus_per_node}{nodes}"


@dataclass(frozen=True)
class RunHours:
    """A whole run on one kind of machine."""

    kind: Kind
    alone: Mapping[str, Quantiles]
    """Each line by itself [h], in the order of the run."""
    interval_s: float
    """Training between two checkpoints [s]."""
    checkpoints: int
    """Written on the way."""
    interruptions: float
    """To be expected."""
    spot_hours_between: float
    """Mean hours until one spot machine is taken away."""

    @cached_property
    def lines(self) -> Mapping[str, Quantiles]:
        """Each line's part when the whole run is at its P10, P50 and P90 [h].

        Long answers of a teacher take long to write and long to learn.
        """
        return together(self.alone, in_step=frozenset({"generate", "train"}))

    @property
    def total(self) -> Quantiles:
        return add_up(self.lines.values())


def together(
    alone: Mapping[str, Quantiles], in_step: frozenset[str] = frozenset()
) -> dict[str, Quantiles]:
    """Lines that vary independently, as parts of their sum's quantiles.

    Distances from the mean add as squares, so that the sum's P90 is the sum of the means and
    sqrt(sum of squares); each line gets of that what it contributes (Euler's allocation). The mean
    is that of two halves of a normal distribution, one a side. Below the middle the distances from
    the middle itself add so. The parts sum to the whole exactly, the middle is the sum of the
    middles, and a line alone keeps its own spread. A test holds it against simulated runs.

    Args:
        alone: each line by itself.
        in_step: names of lines that rise and fall together; these count as one line.

    >>> both = together({"train": Quantiles(7, 10, 13), "boot": Quantiles(2, 6, 10)})
    >>> round(both["train"].p90, 2), round(both["boot"].p90, 2)
    (11.8, 9.2)
    """
    groups = [[name] for name in alone if name not in in_step]
    groups += [[name for name in alone if name in in_step]]
    ups = [sum(alone[name].p90 - alone[name].p50 for name in group) for group in groups]
    downs = [sum(alone[name].p50 - alone[name].p10 for name in group) for group in groups]
    means = [MEAN_SHIFT * max(0.0, up - down) for up, down in zip(ups, downs, strict=True)]
    above = _by_line(groups, _shares(ups, means))
    below = _by_line(groups, _shares(downs, [0.0] * len(downs)))
    return {
        name: Quantiles(
            each.p50 - below[name] * (each.p50 - each.p10),
            each.p50,
            each.p50 + above[name] * (each.p90 - each.p50),
        )
        for name, each in alone.items()
    }


def _by_line(groups: Sequence[Sequence[str]], figures: Sequence[float]) -> dict[str, float]:
    return {name: figure for group, figure in zip(groups, figures, strict=True) for name in group}


def _shares(distances: Sequence[float], means: Sequence[float]) -> list[float]:
    """Which share of its own distance from the middle each line has in the whole's."""
    apart = [distance - mean for distance, mean in zip(distances, means, strict=True)]
    whole = math.hypot(*apart)
    return [
        (mean + own * own / whole) / distance if distance and whole else 0.0
        for distance, mean, own in zip(distances, means, apart, strict=True)
    ]


def add_up(parts: Iterable[Quantiles]) -> Quantiles:
    """The sum of figures that rise and fall together, or of parts of `together`."""
    total = Quantiles.exactly(0.0)
    for part in parts:
        total = total.plus(part)
    return total


# ---- whether it can run there ----------------------------------------------------------------


def why_not(work: Work, kind: Kind) -> str | None:
    """Why the work cannot be done there; `None` where it can."""
    gpu, training = kind.gpu, work.recipe.training
    if gpu.name.startswith("MI"):
        return "the node's setup installs PyTorch for NVIDIA only"
    if not gpu.bf16 and training.dtype == "bfloat16":
        return f"{gpu.name} does not compute in bfloat16, which training.dtype asks for"
    need = training_need(
        work.student,
        longest_tokens=work.longest_tokens,
        samples_at_once=_samples_at_once(work, kind.gpus),
        gpus=kind.gpus,
        recompute=training.gradient_checkpointing,
        loss_chunk_tokens=max(64, LOSS_PIECE_BYTES // (4 * work.student.vocab)),
    )
    if need.short_by(gpu):
        return _too_small("training", need.total, gpu)
    return _cannot_write(work, gpu)


def _cannot_write(work: Work, gpu: Gpu) -> str | None:
    for answers in (*([work.generation] if work.generation else []), *work.exams):
        at_once = min(answers.at_once, answers.count)
        length = answers.prompt_tokens + answers.most_tokens
        need = generating_need(answers.model, tokens_at_once=at_once * length)
        if need.short_by(gpu):
            doing = (
                f"{at_once} answers of {answers.most_tokens:,} tokens at once "
                f"({answers.field}.batch_size)"
            )
            return _too_small(doing, need.total, gpu)
    return None


def _too_small(doing: str, needed: float, gpu: Gpu) -> str:
    has = gpu.memory_bytes
    return (
        f"{doing} needs {needed / 1e9:,.0f} GB on each GPU, {(needed - has) / 1e9:,.1f} more than "
        f"the {has / 1e9:,.0f} of {gpu.name}"
    )


def _samples_at_once(work: Work, gpus: int) -> int:
    """Samples in one forward pass of a GPU, as the worker shares a step out."""
    wanted = work.recipe.training.micro_batch_size or work.samples_a_step
    return min(wanted, math.ceil(work.samples_a_step / gpus))


# ---- how long it takes -----------------------------------------------------------------------


def hours_of(
    work: Work, kinds: Sequence[Kind], spot_hours_between: float = SPOT_HOURS_BETWEEN
) -> list[RunHours | None]:
    """How long the work takes on each kind of machine, training estimated for all at once.

    `None` where the machines are taken away so often that the work would in practice never end.
    All kinds must be such that the work can be done there (`why_not`).
    """
    boot, hand_over = boot_hours(work.download_bytes), _hand_over_hours(work)
    write = transfer_seconds(checkpoint_bytes(work.student.params, "full"), DISK_BYTES_PER_S)
    checkpoint = write.times(1 / 3600)

    @cache
    def generate(gpu: Gpu) -> Quantiles | None:
        return _answer_hours(work.generation, gpu) if work.generation else None

    @cache
    def evaluate(gpu: Gpu) -> Quantiles | None:
        return _exam_hours(work, gpu) if work.exams else None

    def on(kind: Kind, train: Quantiles) -> RunHours | None:
        stages = {"boot": boot, "generate": generate(kind.gpu), "train": train}
        known = {name: hours for name, hours in stages.items() if hours is not None}
        exams = evaluate(kind.gpu)
        other = sum(hours.p50 for hours in (*known.values(), hand_over, exams) if hours)
        between = spot_hours_between / kind.nodes if kind.spot else None
        losses = _losses(work, between, train.p50, other - train.p50, boot.p50, checkpoint.p50)
        if math.isinf(losses.count):
            return None
        save = hand_over.plus(checkpoint.times(losses.pieces - 1))
        lines = {**known, "save": save, **({"evaluate": exams} if exams else {})}
        return RunHours(
            kind=kind,
            alone={**lines, **({"lost": losses.hours} if kind.spot else {})},
            interval_s=max(5.0, train.p50 / losses.pieces * 3600),
            checkpoints=losses.pieces - 1,
            interruptions=losses.count,
            spot_hours_between=spot_hours_between,
        )

    return [on(*pair) for pair in zip(kinds, train_hours(work, kinds), strict=True)]


def boot_hours(download_bytes: float) -> Quantiles:
    """From the request for nodes to the first step of the work [h]. Waiting for capacity is not
    billed, and not in it."""
    load = Quantiles.exactly(download_bytes / 1e9 * LOAD_SECONDS_PER_GB)
    parts = {
        "provision": PROVISION_SECONDS,
        "setup": SETUP_SECONDS,
        "download": transfer_seconds(download_bytes, DOWNLOAD_BYTES_PER_S),
        "load": load,
    }
    return add_up(together(parts).values()).times(1 / 3600)


def train_hours(work: Work, kinds: Sequence[Kind]) -> list[Quantiles]:
    """Hours on the wall to train, for each kind of machine."""
    if not kinds:
        return []
    fleet = estimate_fleet(work.training, Fleet.of([kind.machine for kind in kinds]))
    columns = zip(kinds, fleet.p10, fleet.p50, fleet.p90, strict=True)
    return [
        _train_hours(work, kind, Quantiles(float(p10), float(p50), float(p90)))
        for kind, p10, p50, p90 in columns
    ]


def _train_hours(work: Work, kind: Kind, gpu_hours: Quantiles) -> Quantiles:
    """Widened by the number of tokens, and never below what launching the kernels takes."""
    training, gpus = work.recipe.training, kind.gpus
    at_once = _samples_at_once(work, gpus)
    rounds = math.ceil(math.ceil(work.samples_a_step / at_once) / gpus)
    idle = rounds * gpus * at_once / work.samples_a_step  # all wait for those that have more to do
    slower = FLOAT32_SLOWDOWN if training.dtype == "float32" else 1.0
    hours = _and_spread(gpu_hours, work.token_spread).times(idle * slower / gpus)
    launches = work.steps * rounds * work.student.layers / 3600
    least = PASS_SECONDS_PER_LAYER.times(launches)
    return Quantiles(*map(max, _each(hours), _each(least)))


def _exam_hours(work: Work, gpu: Gpu) -> Quantiles:
    load_h = weight_bytes(work.student.params) / 1e9 * LOAD_SECONDS_PER_GB / 3600
    exams = {exam.field: _answer_hours(exam, gpu) for exam in work.exams}
    return add_up(together(exams).values()).plus(Quantiles.exactly(load_h))


def _answer_hours(answers: Answers, gpu: Gpu) -> Quantiles:
    """Hours of one GPU to write the answers. The batch waits for the longest of its answers."""

    def hours(share: float) -> Quantiles:
        longest = max(1.0, share * answers.most_tokens)
        writing = Writing(
            answers=answers.count,
            prompt_tokens=answers.prompt_tokens,
            answer_tokens=longest,
            longest_answer_tokens=longest,
            samples_at_once=answers.at_once,
        )
        estimate = estimate_writing(answers.model, writing, gpu)
        assert estimate is not None, "`why_not` has left out what does not fit"
        return estimate.gpu_hours

    likely = hours(ANSWER_SHARE.p50)
    by_length = Quantiles(hours(ANSWER_SHARE.p10).p50, likely.p50, hours(ANSWER_SHARE.p90).p50)
    return _and_spread(likely, by_length.times(1 / likely.p50))


def _hand_over_hours(work: Work) -> Quantiles:
    """Writing the student, and its upload, which the machine waits for [h]."""
    size = weight_bytes(work.student.params)
    parts = {
        "write": transfer_seconds(size, DISK_BYTES_PER_S),
        "upload": transfer_seconds(size, UPLOAD_BYTES_PER_S),
    }
    return add_up(together(parts).values()).times(1 / 3600)


def _and_spread(quantiles: Quantiles, factor: Quantiles) -> Quantiles:
    """A figure times an uncertain factor around 1, independent of it: logarithms add squares."""
    up = math.hypot(math.log(quantiles.p90 / quantiles.p50), math.log(factor.p90))
    down = math.hypot(math.log(quantiles.p50 / quantiles.p10), math.log(factor.p10))
    return Quantiles(quantiles.p50 * math.exp(-down), quantiles.p50, quantiles.p50 * math.exp(up))


def _each(quantiles: Quantiles) -> tuple[float, float, float]:
    return quantiles.p10, quantiles.p50, quantiles.p90


# ---- what is lost ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Losses:
    pieces: int
    """Training goes in so many, with a checkpoint between two."""
    hours: Quantiles
    """Work done twice, and coming back."""
    count: float
    """Interruptions to be expected."""


def _losses(
    work: Work, between: float | None, train: float, other: float, boot: float, checkpoint: float
) -> _Losses:
    """How training is best cut into pieces, and what interruptions cost then. All in hours.

    Args:
        between: mean time between interruptions; `None` where nobody takes the machines away.
        other: everything but training; answers are kept batch by batch, so that an interruption
            there costs the way back and little more.
    """
    every = work.recipe.training.checkpoint_every_steps
    fixed = math.ceil(work.steps / every) if every else None
    if between is None:
        interval = max(LONGEST_INTERVAL_S / 3600, checkpoint / CHECKPOINT_SHARE)
        pieces = fixed or max(1, min(work.steps, math.floor(train / interval)))
        return _Losses(pieces, Quantiles.exactly(0.0), 0.0)
    fetch = transfer_seconds(checkpoint_bytes(work.student.params, "full"), DOWNLOAD_BYTES_PER_S)

    def expected(pieces: int) -> float:
        back = boot + (fetch.p50 / 3600 if pieces > 1 else 0.0)
        return _training_with_losses(train, pieces, checkpoint, back, between)

    best = train / best_interval(checkpoint, between)
    near = {1, *(min(work.steps, max(1, math.floor(best) + step)) for step in range(-1, 4))}
    pieces = fixed or min(sorted(near), key=expected)
    hours = expected(pieces)
    if math.isinf(hours):
        return _Losses(pieces, Quantiles.exactly(math.inf), math.inf)
    lost = hours - train - (pieces - 1) * checkpoint + other / between * boot
    count = (hours + other) / between
    spread = Z90 * lost / math.sqrt(count)
    return _Losses(pieces, Quantiles(max(0.0, lost - spread), lost, lost + spread), count)


def _training_with_losses(
    train: float, pieces: int, checkpoint: float, back: float, between: float
) -> float:
    """Expected hours of training under interruptions; after the last piece comes the student and no
    checkpoint."""
    interval = train / pieces
    first = expected_completion(
        train - interval,
        interval=interval,
        checkpoint=checkpoint,
        restart=back,
        mean_between=between,
    )
    last = expected_completion(
        interval, interval=interval, checkpoint=0.0, restart=back, mean_between=between
    )
    return first.hours + last.hours
