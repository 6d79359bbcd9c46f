"""How long a whole run takes on one kind of machine, line by line. Pure.

Each line has a spread of its own; the lines of one run do not go wrong together, so that the spread
of the whole is smaller than the sum of theirs (`launcher.plans.spread`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from launcher.estimate.efficiency import Efficiency
from launcher.estimate.flops import FLOAT32_SLOWDOWN
from launcher.estimate.generation import Writing, estimate_writing
from launcher.estimate.gpus import Gpu
from launcher.estimate.interruptions import best_interval, expected_completion
from launcher.estimate.overheads import (
    DISK_BYTES_PER_S,
    DOWNLOAD_BYTES_PER_S,
    LOAD_SECONDS_PER_GB,
    PROVISION_SECONDS,
    SETUP_SECONDS,
    UPLOAD_BYTES_PER_S,
    checkpoint_bytes,
    transfer_seconds,
)
from launcher.estimate.quantiles import Z90, Quantiles
from launcher.estimate.training import estimate_fleet
from launcher.estimate.work import Fleet
from launcher.plans.kinds import Kind, Sharing
from launcher.plans.spread import add_up, and_spread, together
from launcher.plans.work_of import ANSWER_SHARE, Answers, Work

SPOT_HOURS_BETWEEN = 6.0
"""Mean hours until one spot machine is taken away.

The median of five V100 traces of AWS, 2023, in zones where spot could be had most of the time: 3.2,
5.7, 6.1, 10.5 and 16.7 machine-hours for each loss (traces of "Can't Be Late", Wu et al., NSDI
2024). Nobody publishes it for newer GPUs. Machines of one cluster count as independent, which is
the careful reading: in these traces they often go together."""

PASS_SECONDS_PER_LAYER = Quantiles(1e-3, 2.5e-3, 6e-3)
"""Forward, backward and optimiser of one layer, however small it is: launching its kernels [s]. An
assumption; three times what a forward pass takes when text is written."""

LONGEST_INTERVAL_S = 600.0
"""On a machine that nobody takes away: a checkpoint as often as this [s] ..."""

CHECKPOINT_SHARE = 0.02
"""... but for no more than this share of the time."""


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


# ---- how long it takes -----------------------------------------------------------------------


def hours_of(
    work: Work,
    kinds: Sequence[Kind],
    spot_hours_between: float = SPOT_HOURS_BETWEEN,
    efficiency: Efficiency | None = None,
) -> list[RunHours | None]:
    """How long the work takes on each kind of machine, training estimated for all at once.

    `None` where the machines are taken away so often that the work would in practice never end.
    All kinds must be such that the work can be done there (`why_not`).
    """
    boot, hand_over = boot_hours(work.download_bytes), _hand_over_hours(work)
    checkpoint = checkpoint_seconds(work).times(1 / 3600)

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

    return [on(*pair) for pair in zip(kinds, train_hours(work, kinds, efficiency), strict=True)]


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


def checkpoint_seconds(work: Work) -> Quantiles:
    """Writing a checkpoint to the disk [s]."""
    return transfer_seconds(checkpoint_bytes(work.student.params, "full"), DISK_BYTES_PER_S)


def upload_seconds(work: Work) -> Quantiles:
    """Sending the student to the run store [s]."""
    return transfer_seconds(work.student_bytes, UPLOAD_BYTES_PER_S)


def train_hours(
    work: Work, kinds: Sequence[Kind], efficiency: Efficiency | None = None
) -> list[Quantiles]:
    """Hours on the wall to train, for each kind of machine; by the published runs where no other
    efficiency is given."""
    if not kinds:
        return []
    fleet = estimate_fleet(work.training, Fleet.of([kind.machine for kind in kinds]), efficiency)
    columns = zip(kinds, fleet.p10, fleet.p50, fleet.p90, strict=True)
    return [
        _train_hours(work, kind, Quantiles(float(p10), float(p50), float(p90)))
        for kind, p10, p50, p90 in columns
    ]


def _train_hours(work: Work, kind: Kind, gpu_hours: Quantiles) -> Quantiles:
    """Widened by the number of tokens, and never below what launching the kernels takes."""
    training, gpus = work.recipe.training, kind.gpus
    sharing = Sharing.of(training, work.samples_a_step, gpus)
    slower = FLOAT32_SLOWDOWN if training.dtype == "float32" else 1.0
    hours = and_spread(gpu_hours, work.token_spread).times(sharing.slower * slower / gpus)
    launches = work.steps * sharing.rounds * work.student.layers / 3600
    least = PASS_SECONDS_PER_LAYER.times(launches)
    return Quantiles(*map(max, _each(hours), _each(least)))


def _exam_hours(work: Work, gpu: Gpu) -> Quantiles:
    load_h = work.student_bytes / 1e9 * LOAD_SECONDS_PER_GB / 3600
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
            computes_in=answers.computes_in,
        )
        estimate = estimate_writing(answers.model, writing, gpu)
        assert estimate is not None, "`why_not` has left out what does not fit"
        return estimate.gpu_hours

    likely = hours(ANSWER_SHARE.p50)
    by_length = Quantiles(hours(ANSWER_SHARE.p10).p50, likely.p50, hours(ANSWER_SHARE.p90).p50)
    return and_spread(likely, by_length.times(1 / likely.p50))


def _hand_over_hours(work: Work) -> Quantiles:
    """Writing the student, and its upload, which the machine waits for [h]."""
    parts = {
        "write": transfer_seconds(work.student_bytes, DISK_BYTES_PER_S),
        "upload": upload_seconds(work),
    }
    return add_up(together(parts).values()).times(1 / 3600)


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
