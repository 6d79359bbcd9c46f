"""A figure that is not known exactly: ten, fifty and ninety times of a hundred it is below."""

import math
from dataclasses import dataclass
from typing import Self

Z90 = 1.2815515594457831
"""Nine tenths of a normal distribution lie below so many standard deviations above its mean."""


@dataclass(frozen=True)
class Quantiles:
    """P10 <= P50 <= P90, in one unit that its holder names."""

    p10: float
    p50: float
    p90: float

    def __post_init__(self) -> None:
        if not self.p10 <= self.p50 <= self.p90:
            raise ValueError(f"quantiles must not fall: {self.p10}, {self.p50}, {self.p90}")

    @classmethod
    def exactly(cls, value: float) -> Self:
        """A figure without spread."""
        return cls(value, value, value)

    @classmethod
    def around(cls, median: float, log_sd: float) -> Self:
        """A lognormal figure; `log_sd` is the standard deviation of its natural logarithm.

        >>> hours = Quantiles.around(10, 0.3)
        >>> round(hours.p10, 2), hours.p50, round(hours.p90, 2)
        (6.81, 10.0, 14.69)
        """
        factor = math.exp(Z90 * log_sd)
        return cls(median / factor, float(median), median * factor)

    def times(self, factor: float) -> Self:
        """The same figure in another unit, or so many of it. `factor` is at least 0."""
        return type(self)(self.p10 * factor, self.p50 * factor, self.p90 * factor)

    def plus(self, other: "Quantiles") -> Self:
        """Two figures that rise and fall together: the widest that their sum can be.

        Figures that do not depend on each other have a sum with less spread, so a budget that
        covers this P90 covers theirs.
        """
        return type(self)(self.p10 + other.p10, self.p50 + other.p50, self.p90 + other.p90)
