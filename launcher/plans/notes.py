"""What a plan for rented machines rests on, as sentences that a person can argue with."""

from collections.abc import Iterator

from launcher.estimate.efficiency import Efficiency
from launcher.estimate.evidence import OWN
from launcher.estimate.flops import FLOAT32_SLOWDOWN
from launcher.estimate.overheads import (
    DISK_BYTES_PER_S,
    DOWNLOAD_BYTES_PER_S,
    PROVISION_SECONDS,
    SETUP_SECONDS,
    UPLOAD_BYTES_PER_S,
    checkpoint_bytes,
)
from launcher.estimate.quantiles import Quantiles
from launcher.estimate.training import estimate_training
from launcher.market.offers import Offer
from launcher.market.show_offers import format_age
from launcher.plans.run_hours import RunHours
from launcher.plans.work_of import ANSWER_SHARE, Work
from recipes.durations import format_seconds
from recipes.money import format_usd
from recipes.recipe import ApiTeacher


def price_note(offer: Offer, now: float) -> str:
    """What an hour costs, who says so, and how old that is: of the moment, and so not in a plan."""
    age = format_age(offer.as_of, now)
    return f"price: {format_usd(offer.usd_per_hour)}/h by {offer.source}, {age}"


def assumptions(work: Work, offer: Offer, run: RunHours, efficiency: Efficiency) -> Iterator[str]:
    """Everything that a plan takes for granted beside its price, one sentence each."""
    yield from work.notes
    yield from _training(work, run, efficiency)
    yield from _answers(work)
    yield (
        f"boot: provisioning {_range(PROVISION_SECONDS)} s, setup {_range(SETUP_SECONDS)} s, "
        f"{work.download_bytes / 1e9:,.1f} GB at {_range(DOWNLOAD_BYTES_PER_S.times(1e-9))} GB/s; "
        "waiting for a machine is not billed"
    )
    yield (
        f"save: disk {_range(DISK_BYTES_PER_S.times(1e-9))} GB/s, upload "
        f"{_range(UPLOAD_BYTES_PER_S.times(1e-9))} GB/s; {_checkpoints(work, run)}"
    )
    if offer.spot:
        each = f"each machine once in {run.spot_hours_between:g} h"
        yield (
            f"lost: taken away {each} (AWS, V100, 2023; unknown for newer GPUs), so "
            f"{run.interruptions:.2f} times in this run; the middle is the mean"
        )
    yield (
        "lines vary independently: a line's P10 and P90 are its part when the whole run is at its "
        "P10 or P90"
    )
    yield "left out: storage and egress of the run store; machines are billed by the second"


def _training(work: Work, run: RunHours, efficiency: Efficiency) -> Iterator[str]:
    alone, kind = run.alone["train"], run.kind
    yield (
        f"training by itself: {_range(alone.times(kind.gpus))} GPU-hours, "
        f"{_times(alone)} on {kind.gpus} {kind.gpu.name}"
    )
    own = sum(row.project == OWN and row.machine.gpu == kind.gpu for row in efficiency.evidence)
    if own:
        runs = "1 run" if own == 1 else f"{own} runs"
        yield f"training: corrected by {runs} of your own on {kind.gpu.name}"
    for note in estimate_training(work.training, kind.machine, efficiency).notes:
        yield f"training: {note}"
    if work.recipe.training.dtype == "float32":
        yield (
            f"training: float32 was not measured; taken as {FLOAT32_SLOWDOWN:g} times slower than "
            "bfloat16"
        )


def _answers(work: Work) -> Iterator[str]:
    teacher = work.recipe.teacher
    if isinstance(teacher, ApiTeacher):
        yield (
            f"generate: {teacher.base_url} is sent the prompts and the key in "
            f"{teacher.api_key_env}, from this machine, before anything is rented; "
            f"{work.asked:,} answers"
        )
    if work.generation and work.generation.computes_in == "float32":
        yield (
            f"generate: float32 was not measured; its products are taken as {FLOAT32_SLOWDOWN:g} "
            "times slower than bfloat16's, its weights as twice as many bytes"
        )
    if work.generation:
        yield f"generate: {work.generation.count:,} answers on one GPU, while the others wait"
    for exam in work.exams:
        share = ANSWER_SHARE
        yield (
            f"evaluate: {exam.count:,} answers of {exam.what} on one GPU, {share.p10:.0%}, "
            f"{share.p50:.0%} or {share.p90:.0%} of {exam.most_tokens:,} tokens long"
        )


def _checkpoints(work: Work, run: RunHours) -> str:
    size = checkpoint_bytes(work.student.params, "full") / 1e9
    if not run.checkpoints:
        return f"no checkpoint of {size:,.3g} GB on the way: one would cost more than it saves"
    many = "1 checkpoint" if run.checkpoints == 1 else f"{run.checkpoints:,} checkpoints"
    return f"{many} of {size:,.3g} GB on the way, after every {format_seconds(run.interval_s)}"


def _times(hours: Quantiles) -> str:
    low, middle, high = (format_seconds(h * 3600) for h in (hours.p10, hours.p50, hours.p90))
    return f"{middle} ({low} to {high})"


def _range(quantiles: Quantiles) -> str:
    return f"{quantiles.p50:.3g} ({quantiles.p10:.3g} to {quantiles.p90:.3g})"
