"""What the machines of an attempt came to, by line. Pure.

Where the provider tells their times and prices, it is what they cost, even if that is more than was
set aside. What it does not tell is taken for the most that it can have been: up to what was set
aside, since every machine goes before that is used up.
"""

from collections import Counter
from collections.abc import Iterable

from launcher.machines.backend import Paid
from launcher.market.offers import Offer
from recipes.money import split_micro_usd
from recipes.rundir import AnyEvent
from tracking.books import Attempt
from tracking.entries import Line
from tracking.metering import machine_lines
from tracking.prices import Prices


def bill(
    events: list[AnyEvent], attempt: Attempt, paid: Iterable[Paid], reserved_micro_usd: int
) -> dict[Line, int]:
    """Micro-dollars by line.

    Args:
        events: of the attempt.
        paid: the times of its machines.
        reserved_micro_usd: what was set aside for it.
    """
    told: Counter[Line] = Counter()
    guessed: Counter[Line] = Counter()
    for machine in paid:
        begin, end = machine.started_at, max(machine.started_at, machine.ended_at)
        for since, until, usd_per_hour in _prices(machine, attempt).spans(begin, end):
            lines = machine_lines(events, attempt.number, since, until, usd_per_hour)
            (guessed if machine.guessed else told).update(lines)
    told.update(_at_most(guessed, max(0, reserved_micro_usd - told.total())))
    return dict(told)


def _prices(machine: Paid, attempt: Attempt) -> Prices:
    """Of what it stands for. Where they may have moved and nobody tells: the highest there is."""
    if machine.prices is not None:
        return machine.prices.times(machine.nodes)
    offer = Offer.from_json(attempt.offer)
    highest = max(attempt.prices.highest, offer.highest_usd_per_hour)
    return Prices.fixed(highest * machine.nodes / offer.nodes)


def _at_most(lines: Counter[Line], micro_usd: int) -> dict[Line, int]:
    """The same lines, less of each where they are more together."""
    if lines.total() <= micro_usd:
        return dict(lines)
    parts = split_micro_usd(micro_usd, {str(line): float(each) for line, each in lines.items()})
    return {line: parts[line] for line in lines}
