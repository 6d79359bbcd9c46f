"""Sums and products of figures that are not known exactly, and that do not go wrong together."""

import math
from collections.abc import Iterable, Mapping, Sequence

from launcher.estimate.quantiles import Z90, Quantiles

MEAN_SHIFT = 1 / (math.sqrt(2 * math.pi) * Z90)
"""How far the mean lies above the middle, as a share of (P90 - P50) - (P50 - P10)."""


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


def and_spread(quantiles: Quantiles, factor: Quantiles) -> Quantiles:
    """A figure times an uncertain factor around 1, independent of it: logarithms add squares."""
    up = math.hypot(math.log(quantiles.p90 / quantiles.p50), math.log(factor.p90))
    down = math.hypot(math.log(quantiles.p50 / quantiles.p10), math.log(factor.p10))
    return Quantiles(quantiles.p50 * math.exp(-down), quantiles.p50, quantiles.p50 * math.exp(up))
