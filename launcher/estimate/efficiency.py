"""What share of its peak a GPU reaches in training: physics, corrected by runs that were measured.

The effects of effects.py have an expectation and a doubt; runs move the expectations as far as the
doubt allows: Bayesian linear regression of the logarithm of the share, solved exactly. GPUs,
frameworks and single set-ups have a deviation of their own on top, so that runs of the same kind
inform each other more than others, and what nobody has run has a wider spread.

One's own finished runs are more rows of the same kind: `fit((*published(), *own))`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from launcher.estimate.effects import EFFECTS, Floats, effects
from launcher.estimate.evidence import Evidence, published
from launcher.estimate.work import Fleet, Machine, TrainingWork

GPU_SD = 0.1
FRAMEWORK_SD = 0.15
SETUP_SD = 0.24
REPEAT_SD = 0.07
"""Standard deviations of what is particular to a GPU, a framework, a set-up, and to one run of it.
Of the natural logarithm; chosen by hand, cross-validation hardly depends on them."""


@dataclass(frozen=True)
class Efficiency:
    """What the runs say about every effect, and about each GPU, framework and set-up among them."""

    levels: tuple[tuple[str, ...], ...]
    """Columns after those of EFFECTS: ("gpu", name), ("framework", name), ("setup", ...)."""
    mean: Floats
    covariance: Floats
    evidence: tuple[Evidence, ...]

    def log_share(self, work: TrainingWork, fleet: Fleet) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the logarithm of the share, for each machine."""
        columns, unseen_variance = _columns(work, fleet, self.levels)
        mean = columns @ self.mean
        variance = np.einsum("ij,jk,ik->i", columns, self.covariance, columns) + unseen_variance
        return mean, np.sqrt(variance + REPEAT_SD**2)

    def coefficients(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation of each effect's coefficient."""
        spread = np.sqrt(np.diag(self.covariance))
        return {
            effect.name: (float(self.mean[i]), float(spread[i])) for i, effect in enumerate(EFFECTS)
        }


def fit(evidence: Sequence[Evidence], *, looseness: float = 1.0) -> Efficiency:
    """The posterior after `evidence`: exact, no randomness, the order does not matter.

    Args:
        evidence: measured runs; none at all leaves the expectations.
        looseness: factor on the doubts about all effects; above 1 the runs count for more.
    """
    levels = tuple(dict.fromkeys(level for row in evidence for level in _levels(row)))
    prior_mean = np.array([e.expected for e in EFFECTS] + [0.0] * len(levels))
    prior_sd = np.array(
        [looseness * e.doubt for e in EFFECTS] + [_level_sd(level) for level in levels]
    )
    precision = np.diag(prior_sd**-2.0)
    weighted = precision @ prior_mean
    for row in evidence:
        columns, _ = _columns(row.work, Fleet.of([row.machine]), levels, row.id)
        precision += columns.T @ columns / REPEAT_SD**2
        weighted += columns[0] * math.log(row.share) / REPEAT_SD**2
    covariance = np.linalg.inv(precision).astype(np.float64)
    mean = covariance @ weighted
    for index, effect in enumerate(EFFECTS):
        if effect.never_helps:
            mean[index] = max(mean[index], 0.0)
    return Efficiency(levels, mean, covariance, tuple(evidence))


@cache
def fitted() -> Efficiency:
    """The posterior after all published runs."""
    return fit(published())


# ---- levels ----------------------------------------------------------------------------------


def _levels(row: Evidence) -> tuple[tuple[str, ...], ...]:
    machine = row.machine
    return (
        ("gpu", machine.gpu.name),
        ("framework", row.work.framework),
        _setup(row.work.setup or row.id, machine),
    )


def _setup(name: str, machine: Machine) -> tuple[str, ...]:
    return "setup", name, machine.gpu.name, str(machine.gpus_per_node), str(machine.nodes)


def _level_sd(level: tuple[str, ...]) -> float:
    return {"gpu": GPU_SD, "framework": FRAMEWORK_SD, "setup": SETUP_SD}[level[0]]


def _columns(
    work: TrainingWork, fleet: Fleet, levels: Sequence[tuple[str, ...]], row_id: str = ""
) -> tuple[Floats, Floats]:
    """Columns of effects and levels for each machine; and the variance of levels nobody has met."""
    member = np.zeros((len(fleet), len(levels)))
    unseen = np.full(len(fleet), GPU_SD**2 + FRAMEWORK_SD**2 + SETUP_SD**2)
    names = np.array([gpu.name for gpu in fleet.kinds])[fleet.kind]
    setup = work.setup or row_id
    for index, level in enumerate(levels):
        match level:
            case "gpu", gpu:
                belongs = names == gpu
            case "framework", framework:
                belongs = np.full(len(fleet), work.framework == framework)
            case _, name, gpu, per_node, nodes if name == setup:
                belongs = (names == gpu) & (fleet.nodes == int(nodes))
                belongs &= fleet.gpus_per_node == int(per_node)
            case _:
                continue
        member[:, index] = belongs
        unseen -= belongs * _level_sd(level) ** 2
    return np.hstack([effects(work, fleet), member]), unseen
