"""A price that moves: what is paid by the hour, and since when. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import accumulate
from typing import NamedTuple, Self

from recipes.money import machine_micro_usd


class Price(NamedTuple):
    since: float
    """[unix s]"""
    usd_per_hour: Decimal


@dataclass(frozen=True)
class Prices:
    """Prices of the same thing, each until the next one. The first holds before its time, too.

    Raises:
        ValueError: there is none, or they are not in the order of time.
    """

    changes: tuple[Price, ...]

    def __post_init__(self) -> None:
        times = [price.since for price in self.changes]
        if not times or times != sorted(times):
            raise ValueError("prices follow on each other, and there is one at least")

    @classmethod
    def fixed(cls, usd_per_hour: Decimal) -> Self:
        """A price that does not move."""
        return cls((Price(0.0, usd_per_hour),))

    @property
    def newest(self) -> Price:
        return self.changes[-1]

    @property
    def highest(self) -> Decimal:
        """[USD/h]"""
        return max(price.usd_per_hour for price in self.changes)

    def times(self, factor: int | Decimal) -> "Prices":
        return Prices(tuple(Price(at, usd * factor) for at, usd in self.changes))

    def never_falling(self) -> "Prices":
        """As if a price that has risen stayed there: the careful reading for what is still to pay.

        It holds whether a change counts at once, or from the next hour of a machine on.
        """
        highest = accumulate((price.usd_per_hour for price in self.changes), max)
        times = (price.since for price in self.changes)
        return Prices(tuple(Price(at, usd) for at, usd in zip(times, highest, strict=True)))

    def spans(self, start: float, end: float) -> Iterator[tuple[float, float, Decimal]]:
        """From `start` to `end` [unix s] in pieces of one price; one piece at least."""
        begin, usd_per_hour = start, self.changes[0].usd_per_hour
        for price in self.changes:
            if begin < price.since < end:
                yield begin, price.since, usd_per_hour
                begin = price.since
            if price.since < end:
                usd_per_hour = price.usd_per_hour
        yield begin, end, usd_per_hour

    def micro_usd(self, start: float, end: float) -> int:
        """What the time from `start` to `end` costs [micro-dollars]."""
        return sum(
            machine_micro_usd(usd, until - since) for since, until, usd in self.spans(start, end)
        )
