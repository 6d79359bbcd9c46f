"""What a run comes to by what it has shown so far: the plan, with its rest priced anew. Pure.

What is over is known, what goes on is judged by its own speed once that was measured for some
minutes, and what has not begun is as it was planned.
"""

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import NamedTuple

from launcher.plans.plan import HISTORY_SPREAD, ZERO, CostLine, Plan, Quantiles
from recipes.money import SECONDS_PER_HOUR, from_micro_usd, machine_micro_usd
from recipes.rundir import AnyEvent, ApiUsage, Progress, StageDone, StageStarted, WorkerStarted

LEAST_S = 60.0
"""A stage's own speed counts after so many seconds of it ..."""

LEAST_SHARE = 0.1
"""... or after so large a part of it, where it is shorter."""

LEAST_UNITS = 3
"""And never by fewer steps or answers than these."""


class _Mark(NamedTuple):
    t: float
    done: int


@dataclass(frozen=True)
class Pace:
    """How far an attempt is, and how fast the stage that goes on is."""

    stage: str = "boot"
    since: float | None = None
    """When that stage began [unix s]; `None`: with the machine."""
    total: int = 0
    """Units of the stage; 0 is not known yet."""
    first: _Mark | None = None
    last: _Mark | None = None
    asked_micro_usd: int = 0
    """What the teacher's endpoint was paid in this attempt."""
    over: bool = False
    """Whether all of the stage is done."""

    def see(self, event: AnyEvent) -> "Pace":
        """The pace after one more event."""
        match event:
            case WorkerStarted():
                return Pace()  # of another attempt
            case StageStarted(stage=stage):
                return Pace(stage, event.t, asked_micro_usd=self.asked_micro_usd)
            case Progress(total=total, done=done) if total:
                return self._at(_Mark(event.t, done), total)
            case StageDone():
                return replace(self, over=True)
            case ApiUsage(micro_usd=micro_usd):
                return replace(self, asked_micro_usd=self.asked_micro_usd + micro_usd)
            case _:
                return self

    def _at(self, mark: _Mark, total: int) -> "Pace":
        """A count that is repeated says that the worker lives, not that it has moved."""
        moved = self.last is None or mark.done > self.last.done
        return replace(
            self, total=total, first=self.first or mark, last=mark if moved else self.last
        )

    @property
    def share(self) -> float:
        """Of the stage that goes on, how much is done."""
        if self.over:
            return 1.0
        return self.last.done / self.total if self.last and self.total else 0.0

    @property
    def seconds_per_unit(self) -> float | None:
        """As measured in this stage [s]; `None` where it is too early to say."""
        if self.first is None or self.last is None:
            return None
        seconds, units = self.last.t - self.first.t, self.last.done - self.first.done
        long_enough = seconds >= LEAST_S or units >= LEAST_SHARE * self.total
        return seconds / units if units >= LEAST_UNITS and seconds > 0 and long_enough else None


class Spent(NamedTuple):
    """What is paid and used by now, and at what price it goes on."""

    usd: Decimal
    """Settled before this attempt [USD]."""
    hours: Decimal
    """Of earlier attempts [h]."""
    usd_per_hour: Decimal
    """Of this attempt's machines."""
    started_at: float
    """When they began to cost money [unix s]."""
    now: float
    """[unix s]"""

    @property
    def seconds(self) -> float:
        """Of this attempt [s]."""
        return max(0.0, self.now - self.started_at)


class Projection(NamedTuple):
    """What the whole run will have cost and taken."""

    usd: Quantiles
    hours: Quantiles
    measured: bool
    """Whether the stage that goes on is judged by its own speed."""


def project(plan: Plan, pace: Pace, spent: Spent) -> Projection:
    """Price the rest of a run anew.

    Rests go wrong together here: the careful reading for a budget.

    Args:
        plan: as the run was launched.
        pace: of the attempt that goes on.
        spent: until now, earlier attempts included.
    """
    at_home = not spent.usd_per_hour and bool(plan.offer.usd_per_hour)
    if at_home and pace.stage == "boot":  # an endpoint is asked before a machine is rented
        pace = replace(pace, stage="generate")
    rest = [(line, _rest(plan, line, pace, spent)) for line in plan.lines if line.unit == "h"]
    running = machine_micro_usd(spent.usd_per_hour, spent.seconds)
    usd = spent.usd + from_micro_usd(running + pace.asked_micro_usd)
    hours = spent.hours + _hours(spent.seconds)
    to_pay = sum((_usd(plan, line, each, spent) for line, each in rest), _to_ask(plan, pace))
    to_wait = sum((each for _, each in rest), ZERO)
    measured = pace.seconds_per_unit is not None
    return Projection(_plus(to_pay, usd), _plus(to_wait, hours), measured)


def _rest(plan: Plan, line: CostLine, pace: Pace, spent: Spent) -> Quantiles:
    """Hours of a line that are still to come."""
    order = [each.name for each in plan.lines]
    here = order.index(pace.stage) if pace.stage in order else 0
    if line.name in ("lost", "save"):  # as much of it as there is of the training
        done = pace.share if pace.stage == "train" else float("train" in order[:here])
        return line.quantity.times(Decimal(repr(1 - done)))
    at = order.index(line.name)
    if at != here:
        return line.quantity if at > here else ZERO
    if pace.seconds_per_unit is not None and pace.last is not None and not pace.over:
        left_s = (pace.total - pace.last.done) * pace.seconds_per_unit
        return _around(_hours(max(0.0, left_s - (spent.now - pace.last.t))))
    if pace.share:
        return line.quantity.times(Decimal(repr(1 - pace.share)))
    return _less(line.quantity, spent.now - (pace.since or spent.started_at))


def _around(likely: Decimal) -> Quantiles:
    """A rest judged by the part before it, as a whole run is judged by earlier ones."""
    faster, slower = (Decimal(repr(factor)) for factor in HISTORY_SPREAD)
    return Quantiles(p10=likely / faster, p50=likely, p90=likely * slower)


def _less(hours: Quantiles, seconds: float) -> Quantiles:
    gone = _hours(max(0.0, seconds))
    p10, p50, p90 = (max(Decimal(0), each - gone) for each in (hours.p10, hours.p50, hours.p90))
    return Quantiles(p10=p10, p50=p50, p90=p90)


def _hours(seconds: float) -> Decimal:
    return Decimal(repr(seconds)) / SECONDS_PER_HOUR


def _usd(plan: Plan, line: CostLine, hours: Quantiles, spent: Spent) -> Quantiles:
    """At this attempt's price, where the line is one of the machine that was planned for it."""
    of_machine = line.usd_per_unit == plan.offer.usd_per_hour and spent.usd_per_hour
    return hours.times(spent.usd_per_hour if of_machine else line.usd_per_unit)


def _to_ask(plan: Plan, pace: Pace) -> Quantiles:
    """What the teacher's endpoint is still to be paid [USD]."""
    planned = plan.usd_of("teacher_api")
    if pace.stage not in ("boot", "generate"):
        return ZERO
    if pace.first and pace.last and pace.asked_micro_usd:
        # Answers of an earlier attempt and of the cache are done, and were not paid in this one.
        paid, left = pace.last.done - pace.first.done, pace.total - pace.last.done
        if paid >= max(LEAST_UNITS, LEAST_SHARE * (pace.total - pace.first.done)):
            return _around(from_micro_usd(pace.asked_micro_usd) * left / paid)
    return planned.times(Decimal(repr(1 - pace.share)))


def _plus(rest: Quantiles, known: Decimal) -> Quantiles:
    return rest + Quantiles(p10=known, p50=known, p90=known)
