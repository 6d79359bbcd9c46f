"""What makes a GPU reach more or less of its peak in training, each as one number.

The share of hardware FLOPs that is reached is taken as a product of effects. Here stands what each
effect is, what it should be from how the machine works, and how much that may be doubted;
efficiency.py moves the expectations by what runs have shown.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from launcher.estimate.memory import HALF, NF4
from launcher.estimate.work import Fleet, TrainingWork

Floats = NDArray[np.float64]


class Effect(NamedTuple):
    name: str
    expected: float
    """Coefficient before any run is seen; of the natural logarithm of the share."""
    doubt: float
    """Standard deviation of that expectation."""
    never_helps: bool
    """More machines must not make a GPU faster: the coefficient is kept at 0 or above."""
    why: str


EFFECTS = (
    Effect("one", math.log(0.5), 0.3, False, "a well-kept trainer reaches about half of the peak"),
    Effect(
        "memory_balance",
        -0.5,
        0.25,
        False,
        "between a step bound by computing (0) and one bound by memory traffic (-1); "
        "ln of FLOP/byte, as against an A100",
    ),
    Effect(
        "best_matmul",
        1.0,
        0.25,
        False,
        "training cannot beat the best measured matrix product; ln of its share, as against 0.8",
    ),
    Effect("model_size", 0.0, 0.05, False, "larger matrices run a little better; ln, against 7B"),
    Effect(
        "short_samples",
        1.0,
        0.25,
        False,
        "a pass costs as much as EXTRA_TOKENS more, whatever its length; -ln(1 + extra / length)",
    ),
    Effect("unpacked", -0.2, 0.2, False, "ranks wait for the one with the longest sample"),
    Effect("many_nodes", 0.03, 0.03, True, "stragglers and slower links, for each doubling"),
    Effect(
        "thin_step",
        0.1,
        0.1,
        True,
        "over several nodes a step of few tokens a GPU does not hide its communication",
    ),
    Effect("slow_links", 0.3, 0.2, True, "weights sharded over GPUs that PCIe alone joins"),
    Effect("fp8", 0.35, 0.15, False, "twice the peak for matrix products, not for the rest"),
    Effect("qlora", -0.2, 0.2, False, "4-bit weights are unpacked for every product"),
    Effect("offloaded", -0.3, 0.2, False, "the optimiser's state crosses PCIe each step"),
    Effect("native", 0.1, 0.2, False, "kernels written or tuned for the chip"),
    Effect("eager", -0.3, 0.2, False, "one kernel after the other, each through memory"),
    Effect("unfused_attention", -0.3, 0.3, False, "the matrix of scores passes through memory"),
    Effect("fused_more", 0.2, 0.2, False, "fused norms and loss; said by the run's authors"),
    Effect("logits", -0.2, 0.3, False, "a second distribution over the vocabulary"),
    Effect("mixture", -0.4, 0.3, False, "experts see few tokens each; none of the runs is one"),
    Effect("steady_state", 0.15, 0.15, False, "no start, evaluation, saving or restart counted"),
)

EXTRA_TOKENS_WHOLE = 200.0
"""Launching the kernels of a 7B model and reading its weights takes an A100 about 35 ms forward and
backward, and a token 0.26 ms."""

EXTRA_TOKENS_SHARDED = 700.0
"""Gathering and scattering sharded weights moves 6 bytes a parameter; over 200 GB/s this takes as
long as 8 FLOPs a parameter and token on 700 tokens, on an A100 at half of its peak."""

THIN_STEP_TOKENS = 4096.0
A100_BALANCE = 156.0
USUAL_MATMUL_SHARE = 0.8

WHOLE_ON_ONE_GPU = 0.7
"""Share of its memory that the frozen weights under adapters may take, for a copy on each GPU."""


def effects(work: TrainingWork, fleet: Fleet) -> Floats:
    """The effects of EFFECTS on each machine of the fleet: a row a machine."""
    kinds = fleet.kinds
    balance = np.array([math.log(gpu.balance / A100_BALANCE) for gpu in kinds])
    matmul = np.array([_best_matmul(gpu.best_matmul_flops, gpu.half_flops) for gpu in kinds])
    slow = np.array([not gpu.fast_links for gpu in kinds], dtype=np.bool_)
    sharded = _sharded(work, fleet)
    extra = np.where(sharded, EXTRA_TOKENS_SHARDED, EXTRA_TOKENS_WHOLE)
    thin = np.log1p(THIN_STEP_TOKENS * fleet.gpus / work.step_tokens)
    of_machine = {
        "memory_balance": balance[fleet.kind],
        "best_matmul": matmul[fleet.kind],
        "short_samples": -np.log1p(extra / work.sample_tokens) * (not work.packed),
        "many_nodes": -np.log2(fleet.nodes),
        "thin_step": -np.where(fleet.nodes > 1, thin, 0.0),
        "slow_links": -1.0 * (slow[fleet.kind] & sharded & (fleet.gpus > 1)),
    }
    of_work = _effects_of_work(work)
    columns = [of_machine.get(e.name, np.full(len(fleet), of_work.get(e.name))) for e in EFFECTS]
    return np.stack(columns, axis=1).astype(np.float64)


def _sharded(work: TrainingWork, fleet: Fleet) -> NDArray[np.bool_]:
    """Whether the weights are spread over GPUs, for each machine: full training over several, and
    adapters where the weights under them are too large for one."""
    if work.method == "full":
        return fleet.gpus > 1
    frozen = work.params * (NF4 if work.method == "qlora" else HALF)
    memory = np.array([gpu.memory_bytes for gpu in fleet.kinds])
    return (frozen > WHOLE_ON_ONE_GPU * memory)[fleet.kind]


def _effects_of_work(work: TrainingWork) -> dict[str, float]:
    eager = work.kernels == "eager"
    return {
        "one": 1.0,
        "model_size": math.log(work.active_params / 7e9),
        "unpacked": float(not work.packed),
        "fp8": float(work.precision == "fp8"),
        "qlora": float(work.method == "qlora"),
        "offloaded": float(work.offloaded),
        "native": float(work.kernels == "native"),
        "eager": float(eager),
        "unfused_attention": float(eager and work.fusion == "nothing"),
        "fused_more": float(eager and work.fusion == "attention_and_loss"),
        "logits": float(work.learns_logits),
        "mixture": float(work.active_params < work.params),
        "steady_state": float(work.steady_state),
    }


def _best_matmul(best: float | None, peak: float) -> float:
    return math.log(best / peak / USUAL_MATMUL_SHARE) if best else 0.0
