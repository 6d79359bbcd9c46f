"""Figures that cannot be true: more FLOPs than the hardware has."""

from launcher.estimate.gpus import Gpu
from launcher.estimate.work import Machine, Precision, TrainingWork

TRAINING_OF_MATMUL = 0.9
"""Training never sustains more of the best measured matrix product: norms, softmax, the optimiser
and communication take their part of the time."""

BEST_MATMUL_SHARE = 0.87
"""Of the peak: what the A100 reaches, the best of the measured GPUs. The others may get there, as
their software gets better."""


def attainable_flops(gpu: Gpu, precision: Precision = "half") -> float:
    """The most that training can sustain on one GPU [FLOP/s].

    Nine tenths of the best matrix product that may be hoped for; in fp8 raised as the peak is.
    Where sources state different peaks, the higher counts.

    >>> from launcher.estimate.gpus import find_gpu
    >>> round(attainable_flops(find_gpu("A100-80GB")) / 1e12)
    244
    """
    best = max(gpu.best_matmul_flops or 0.0, BEST_MATMUL_SHARE * gpu.half_flops_at_most)
    if precision == "fp8" and gpu.fp8_flops:
        best *= gpu.fp8_flops / gpu.half_flops
    return TRAINING_OF_MATMUL * best


def above_attainable(work: TrainingWork, machine: Machine, gpu_hours: float) -> str | None:
    """Why `work` cannot have taken so few GPU-hours on this machine; `None` where it can.

    Only the FLOPs that the mathematics needs are held against it.

    >>> from launcher.estimate.gpus import find_gpu
    >>> from launcher.estimate.models import find_model
    >>> work = TrainingWork.of_model(find_model("meta-llama/Llama-3.1-8B"), train_tokens=1e9,
    ...                              sample_tokens=2048, samples_per_step=64, packed=True)
    >>> above_attainable(work, Machine(find_gpu("H100"), 8), gpu_hours=10)
    '1,383 TFLOP/s on each GPU would be needed, and H100 sustains 774 at most'
    >>> above_attainable(work, Machine(find_gpu("H100"), 8), gpu_hours=40) is None
    True
    """
    needed = work.train_tokens * work.flops.model / (gpu_hours * 3600)
    most = attainable_flops(machine.gpu, work.precision)
    if needed <= most:
        return None
    return (
        f"{needed / 1e12:,.0f} TFLOP/s on each GPU would be needed, "
        f"and {machine.gpu.name} sustains {most / 1e12:,.0f} at most"
    )
