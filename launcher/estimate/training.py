"""GPU-hours to train: FLOPs over what the GPUs reach, with its spread and what it rests on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from launcher.estimate.effects import Floats
from launcher.estimate.efficiency import Efficiency, fitted
from launcher.estimate.plausible import attainable_flops
from launcher.estimate.quantiles import Z90, Quantiles
from launcher.estimate.work import Fleet, Machine, TrainingWork

OUTSIDE_SD = 0.15
"""More spread for each factor of e beyond what runs have covered."""


@dataclass(frozen=True)
class TrainingEstimate:
    """Training alone: boot, download, saving and interruptions are not in it."""

    gpu_hours: Quantiles
    """[GPU-hours]"""
    hours: Quantiles
    """On the wall, all GPUs together [h]."""
    mfu: Quantiles
    """Share of the GPU's half-precision peak, model FLOPs counted."""
    notes: tuple[str, ...]
    """Where it rests on less than it should."""


@dataclass(frozen=True)
class FleetEstimate:
    """GPU-hours for every machine of a fleet, in its order [GPU-hours]."""

    p10: Floats
    p50: Floats
    p90: Floats


def estimate_training(
    work: TrainingWork, machine: Machine, efficiency: Efficiency | None = None
) -> TrainingEstimate:
    """GPU-hours of a training run on one machine.

    Args:
        work: what is trained.
        machine: the GPUs. Whether the work fits into their memory is for memory.py to say.
        efficiency: what is known of it; the published runs alone where left out.

    s1 (Qwen2.5-32B, 1,000 samples of 4,700 tokens, 5 epochs, 16 H100), which took 6.9 GPU-hours:

    >>> from launcher.estimate.gpus import find_gpu
    >>> from launcher.estimate.models import find_model
    >>> s1 = TrainingWork.of_model(find_model("Qwen/Qwen2.5-32B-Instruct"), train_tokens=23.5e6,
    ...                            sample_tokens=4700, samples_per_step=16, recompute=True)
    >>> estimate = estimate_training(s1, Machine(find_gpu("H100"), gpus_per_node=8, nodes=2))
    >>> estimate.gpu_hours.p10 < 6.93 < estimate.gpu_hours.p90
    True
    """
    known = efficiency or fitted()
    fleet = estimate_fleet(work, Fleet.of([machine]), known)
    hours = Quantiles(float(fleet.p10[0]), float(fleet.p50[0]), float(fleet.p90[0]))
    peak_hours = _gpu_hours(work.train_tokens * work.flops.model, machine.gpu.half_flops)
    return TrainingEstimate(
        gpu_hours=hours,
        hours=hours.times(1 / machine.gpus),
        mfu=Quantiles(*(peak_hours / each for each in (hours.p90, hours.p50, hours.p10))),
        notes=_notes(work, machine, known),
    )


def estimate_fleet(
    work: TrainingWork, fleet: Fleet, efficiency: Efficiency | None = None
) -> FleetEstimate:
    """GPU-hours of the same work on many machines at once."""
    known = efficiency or fitted()
    machines, which = fleet.distinct()
    mean, sd = known.log_share(work, machines)
    sd = np.hypot(sd, OUTSIDE_SD * _beyond(work, machines, known))
    peak = np.array([gpu.half_flops for gpu in fleet.kinds])[machines.kind]
    attainable = np.array([attainable_flops(gpu, work.precision) for gpu in fleet.kinds])
    most = np.log(attainable[machines.kind] / peak)
    shares = (np.exp(np.minimum(mean + z * sd, most)) for z in (Z90, 0.0, -Z90))
    hours = [
        (work.train_tokens * work.flops.hardware / peak / share / 3600)[which] for share in shares
    ]
    return FleetEstimate(*hours)


def _gpu_hours(flops: float, flops_per_s: float) -> float:
    return flops / flops_per_s / 3600


# ---- what runs have covered ------------------------------------------------------------------


@dataclass(frozen=True)
class _Range:
    """What the measured runs cover of one figure."""

    what: str
    lowest: float
    highest: float

    def beyond(self, value: Floats | float) -> Floats:
        """By how many factors of e a value lies outside; 0 inside."""
        over = np.maximum(np.log(value / self.highest), np.log(self.lowest / value))
        return np.maximum(over, 0.0)


def _ranges(known: Efficiency) -> tuple[_Range, _Range, _Range]:
    def covered(what: str, values: Sequence[float]) -> _Range:
        return _Range(what, min(values), max(values))

    rows = known.evidence
    return (
        covered("parameters", [row.work.active_params for row in rows]),
        covered("tokens a sample", [row.work.sample_tokens for row in rows]),
        covered("GPUs", [float(row.machine.gpus) for row in rows]),
    )


def _beyond(work: TrainingWork, fleet: Fleet, known: Efficiency) -> Floats:
    if not known.evidence:
        return np.zeros(len(fleet))
    params, tokens, gpus = _ranges(known)
    fixed = params.beyond(work.active_params) + tokens.beyond(work.sample_tokens)
    return fixed + gpus.beyond(fleet.gpus.astype(np.float64))


def _notes(work: TrainingWork, machine: Machine, known: Efficiency) -> tuple[str, ...]:
    notes = []
    rows = known.evidence
    if machine.gpu.name not in {row.machine.gpu.name for row in rows}:
        notes.append(f"no measured run used {machine.gpu.name}: judged by its peak and its memory")
    if work.framework not in {row.work.framework for row in rows}:
        notes.append(f"no measured run used {work.framework}: judged by runs of similar kernels")
    if work.active_params < work.params and not any(
        row.work.active_params < row.work.params for row in rows
    ):
        notes.append("no measured run trained a mixture of experts")
    if rows:
        figures = (work.active_params, work.sample_tokens, float(machine.gpus))
        for span, value in zip(_ranges(known), figures, strict=True):
            if float(span.beyond(value)) > math.log(1.05):
                notes.append(
                    f"{value:,.0f} {span.what} lie outside what was measured "
                    f"({span.lowest:,.0f} to {span.highest:,.0f})"
                )
    return tuple(notes)
