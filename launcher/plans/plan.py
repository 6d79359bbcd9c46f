"""A recipe on a machine, priced before it runs: named lines, P10/P50/P90, assumptions, a hash.

Pure. How fast the machine is arrives as a `Calibration` (measured by a short trial) or as the stage
times of earlier runs of the same work; `plans/speeds.py` fetches them. This module decides what
that means in dollars; `launcher.plans.fits` decides whether that is too much.
"""

import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, Self

from pydantic import Field

from launcher.machines.least import LEAST_HOURS, beginning_usd
from launcher.market.offers import LOCAL, Offer
from recipes.calibration import Calibration, StageSpeed
from recipes.money import SECONDS_PER_HOUR
from recipes.recipe import Budget, Part, Recipe
from recipes.rundir import STAGES, Stage

TRIAL_SPREAD = (1.25, 1.6)
"""A whole stage beside a trial of some seconds: up to 1.25 times faster, 1.6 times slower.

A few seconds see one moment of a machine that does other things too.
"""

FINEST = Decimal("0.000001")
"""What a plan takes is held against limits so finely [USD, h]; finer digits are of rounding."""

SLOWEST = 3.0
"""One unit of a trial may be slower than that beside its median; a whole stage is not."""

HISTORY_SPREAD = (1.15, 1.25)
"""The same for times of whole earlier runs on this machine, once there is one."""


class Quantiles(Part):
    """Likely low, middle and high. One run in ten is below `p10`, one in ten above `p90`."""

    p10: Decimal
    p50: Decimal
    p90: Decimal

    def __add__(self, other: Self) -> "Quantiles":
        """The sum, as if both were high or low together: the careful reading for a budget."""
        return Quantiles(
            p10=self.p10 + other.p10, p50=self.p50 + other.p50, p90=self.p90 + other.p90
        )

    def __sub__(self, other: Self) -> "Quantiles":
        """Point by point. Of two runs that do not go together it is no quantile of anything."""
        return Quantiles(
            p10=self.p10 - other.p10, p50=self.p50 - other.p50, p90=self.p90 - other.p90
        )

    def times(self, factor: Decimal) -> "Quantiles":
        return Quantiles(p10=self.p10 * factor, p50=self.p50 * factor, p90=self.p90 * factor)


ZERO = Quantiles(p10=Decimal(0), p50=Decimal(0), p90=Decimal(0))


class CostLine(Part):
    """One line of the bill: `quantity` of `unit`, each at `usd_per_unit`."""

    name: str
    quantity: Quantiles
    unit: Literal["h", "Mtok"]
    usd_per_unit: Decimal

    @property
    def usd(self) -> Quantiles:
        return self.quantity.times(self.usd_per_unit)


_SEEN: Any = {"offer": {"as_of": True}, "alternatives": {"__all__": {"offer": {"as_of": True}}}}
"""Where a plan says when its prices were seen, as pydantic's `exclude` takes it."""


class Alternative(Part):
    """An offer that the work can be done on."""

    offer: Offer
    careful_hours: dict[str, Decimal]
    """P90 of each line of a plan for it [h]."""


class Plan(Part):
    """What a run will cost and how long it will take."""

    version: Literal[1] = 1
    recipe: str
    offer: Offer
    lines: tuple[CostLine, ...]
    assumptions: tuple[str, ...]
    work: str
    """Hash of the work itself, budget and name aside: runs that share it take equally long."""
    inputs: dict[str, str] = Field(default_factory=dict)
    """Hash of each data file and model folder, by its field in the recipe."""
    fixed_hours: dict[str, Decimal] = Field(default_factory=dict)
    """Of a line's P90 what stays when there is less to do, as loading does [h]; only by a trial."""
    units: dict[Stage, int]
    """How many units each stage has: answers, steps, answers."""
    prompt_bytes: int | None = None
    """Of all prompts together, each once; `None` where no teacher is asked."""
    longest_prompt_bytes: int | None = None
    """Of the longest prompt; `None` where no teacher is asked, or it is unknown."""
    checkpoint_s: float = Field(gt=0)
    """Seconds of training between two checkpoints."""
    save_s: float | None = Field(default=None, ge=0)
    """Likely seconds to write one of them to the disk; `None` is unknown."""
    upload_s: float | None = Field(default=None, ge=0)
    """Likely seconds to send the student to the run store; `None` is unknown."""
    alternatives: tuple[Alternative, ...] = ()
    """What can be rented, should a machine not be to be had or be taken away: the plan's own offer,
    then the next best ones. Empty on a machine of one's own."""

    @property
    def usd(self) -> Quantiles:
        return sum((line.usd for line in self.lines), ZERO)

    @property
    def hours(self) -> Quantiles:
        return sum((line.quantity for line in self.lines if line.unit == "h"), ZERO)

    @property
    def least_usd(self) -> Decimal:
        """With less of a budget its machines are not begun [USD], however short the work is."""
        if self.offer.cloud == LOCAL:
            return Decimal(0)
        return self.usd_of("teacher_api").p90 + beginning_usd(self.offer)

    @property
    def needed_usd(self) -> Decimal:
        """The budget it takes, in whole micro-dollars [USD]."""
        return max(self.usd.p90, self.least_usd).quantize(FINEST)

    @property
    def least_hours(self) -> Decimal:
        """With less of a limit its machines are not begun [h]: the answers of a teacher behind an
        API at P90, and the least that must be left then."""
        if self.offer.cloud == LOCAL:
            return Decimal(0)
        asks = any(line.name.startswith("teacher_api") for line in self.lines)
        waits = [line.quantity.p90 for line in self.lines if line.name == "generate" and asks]
        return sum(waits, LEAST_HOURS)

    @property
    def needed_hours(self) -> Decimal:
        """The limit it takes, to four milliseconds [h]."""
        return max(self.hours.p90, self.least_hours).quantize(FINEST)

    def begins(self, budget: Budget) -> bool:
        """Whether its machines are begun with so much money and so many hours."""
        enough = budget.hours is None or self.least_hours <= budget.hours
        return enough and self.least_usd <= budget.usd

    def usd_of(self, name: str) -> Quantiles:
        """What the lines whose name begins so come to."""
        return sum((line.usd for line in self.lines if line.name.startswith(name)), ZERO)

    def seconds_of(self, name: str) -> float | None:
        """Seconds of a line at P90; `None` where the plan has no such line."""
        hours = [line.quantity.p90 for line in self.lines if line.name == name]
        return float(sum(hours)) * SECONDS_PER_HOUR if hours else None

    def unit_price(self, name: str) -> Decimal | None:
        """Price of one unit of a line; `None` where the plan has no such line."""
        return next((line.usd_per_unit for line in self.lines if line.name == name), None)

    @property
    def hash(self) -> str:
        """Twelve hex digits that change with anything in the plan but when its prices were seen."""
        same = self.model_dump_json(exclude=_SEEN)
        return hashlib.sha256(same.encode()).hexdigest()[:12]


def work_key(recipe: Recipe, device: str, inputs: Mapping[str, str]) -> str:
    """Hash of everything that decides how long the work takes on a kind of device.

    Args:
        inputs: hash of each data file and model folder, by its field.
    """
    work = recipe.model_dump_json(exclude={"name", "description", "budget", "hardware"})
    files = json.dumps(dict(inputs), sort_keys=True)
    return hashlib.sha256(f"{device}\n{work}\n{files}".encode()).hexdigest()[:16]


def plan_from_trial(
    recipe: Recipe,
    offer: Offer,
    trial: Calibration,
    work: str,
    inputs: Mapping[str, str] | None = None,
) -> Plan:
    """Price the work by what a trial of some seconds measured on this machine.

    Args:
        work: its key, by `work_key`.
        inputs: hash of each data file and model folder, by its field; none where left out.
    """
    hours: dict[str, Quantiles] = {
        stage: _stage_hours(trial.stages[stage]) for stage in STAGES if stage in trial.stages
    }
    assumptions = [
        f"{stage}: {speed.units:,} {speed.unit} at "
        f"{statistics.median(speed.seconds_per_unit) * 1000:.3g} ms each and "
        f"{speed.fixed_s:.1f} s for loading and saving, from a trial on this machine"
        for stage, speed in trial.stages.items()
    ]
    faster, slower = TRIAL_SPREAD
    assumptions.append(
        f"a trial of seconds sees one moment of the machine: a stage may be {faster} times faster "
        f"or {slower} times slower"
    )
    boot = _spread(trial.boot_s, *TRIAL_SPREAD)
    return Plan(
        recipe=recipe.name,
        offer=offer,
        lines=_lines({"boot": boot, **hours}, offer),
        assumptions=tuple(assumptions),
        work=work,
        inputs=dict(inputs or {}),
        fixed_hours={stage: _fixed_hours(speed) for stage, speed in trial.stages.items()},
        units={stage: speed.units for stage, speed in trial.stages.items()},
        prompt_bytes=trial.prompt_bytes,
        longest_prompt_bytes=trial.longest_prompt_bytes,
        checkpoint_s=checkpoint_interval_s(trial.checkpoint_s),
        save_s=trial.checkpoint_s,
    )


def plan_from_history(
    recipe: Recipe,
    offer: Offer,
    past: Sequence[Mapping[str, float]],
    like: Plan,
) -> Plan:
    """Price the work by whole earlier runs of the same work.

    Args:
        past: one map a run, line -> seconds; at least one.
        like: the plan by a trial: what none of the runs tells is taken from it.
    """
    faster, slower = HISTORY_SPREAD
    hours = {line.name: line.quantity for line in like.lines}
    for name in ("boot", *STAGES):
        seen = [seconds[name] for seconds in past if seconds.get(name)]
        if seen:
            low, middle, high = min(seen), statistics.median(seen), max(seen)
            hours[name] = _quantile_hours(
                min(low, middle / faster), middle, max(high, middle * slower)
            )
    runs = "1 earlier run" if len(past) == 1 else f"{len(past)} earlier runs"
    assumptions = [
        f"times are those of {runs} of the same work on this machine",
        f"the next one may be {faster} times faster or {slower} times slower than their median",
    ]
    return like.model_copy(
        update={
            "recipe": recipe.name,
            "offer": offer,
            "lines": _lines(hours, offer),
            "assumptions": tuple(assumptions),
        }
    )


def with_line(plan: Plan, line: CostLine, assumption: str) -> Plan:
    """The plan with one more line of cost."""
    lines = (*plan.lines, line)
    return with_assumption(plan.model_copy(update={"lines": lines}), assumption)


def with_assumption(plan: Plan, assumption: str) -> Plan:
    """The plan with one more sentence on what it rests on."""
    return plan.model_copy(update={"assumptions": (*plan.assumptions, assumption)})


def over(budget: Budget, needed_usd: Decimal, needed_hours: Decimal) -> str | None:
    """By how much a run passes its budget or its hours; `None` where it fits.

    Args:
        needed_usd: the budget that it takes [USD].
        needed_hours: the limit that it takes [h].
    """
    parts = []
    if needed_usd > budget.usd:
        parts.append(f"${needed_usd - budget.usd:,.2f}")
    if budget.hours is not None and needed_hours > budget.hours:
        parts.append(format_hours(needed_hours - budget.hours))
    return " and ".join(parts) or None


def summary(plan: Plan) -> dict[str, Any]:
    """The plan as JSON for programs: dollars and hours as strings of decimals."""
    return {
        **plan.model_dump(mode="json"),
        "offer": plan.offer.as_json(),
        "hash": plan.hash,
        "usd": plan.usd.model_dump(mode="json"),
        "hours": plan.hours.model_dump(mode="json"),
        "least_usd": str(plan.least_usd),
        "needed_usd": str(plan.needed_usd),
        "least_hours": str(plan.least_hours),
        "needed_hours": str(plan.needed_hours),
    }


def fit_json(plan: Plan, budget: Budget) -> dict[str, Any]:
    """Whether it fits, and by how much it does not, as JSON for programs."""
    passes = over(budget, plan.needed_usd, plan.needed_hours)
    return {"fits": passes is None, "over": passes}


def format_hours(hours: Decimal) -> str:
    """Hours for people, where a limit is meant.

    >>> format_hours(Decimal("0.125")), format_hours(Decimal(4))
    ('7.5 min', '4.0 h')
    """
    return f"{hours:.1f} h" if hours >= 2 else f"{hours * 60:.1f} min"


def _lines(hours: Mapping[str, Quantiles], offer: Offer) -> tuple[CostLine, ...]:
    return tuple(
        CostLine(name=name, quantity=quantity, unit="h", usd_per_unit=offer.usd_per_hour)
        for name, quantity in hours.items()
    )


def checkpoint_interval_s(checkpoint_s: float) -> float:
    """Seconds between checkpoints on a machine nobody takes away: 2 % of the time at most.

    At least 5 s, at most 10 minutes. For spot machines Young/Daly's interval takes its place.

    >>> checkpoint_interval_s(0.4)
    20.0
    """
    return min(600.0, max(5.0, 50 * checkpoint_s))


def _stage_hours(speed: StageSpeed) -> Quantiles:
    ordered = sorted(speed.seconds_per_unit)
    middle = speed.fixed_s + speed.units * statistics.median(ordered)
    low = speed.fixed_s + speed.units * ordered[0]
    high = speed.fixed_s + speed.units * ordered[-1]
    faster, slower = TRIAL_SPREAD
    return _quantile_hours(
        min(low, middle / faster), middle, max(min(high, SLOWEST * middle), middle * slower)
    )


def _fixed_hours(speed: StageSpeed) -> Decimal:
    """Of the P90 above [h]. With the rest in proportion to the units no fewer of them take longer
    than so reckoned."""
    capped = max(speed.seconds_per_unit) > SLOWEST * statistics.median(speed.seconds_per_unit)
    _, slower = TRIAL_SPREAD
    return _quantile_hours(0, 0, speed.fixed_s * (SLOWEST if capped else slower)).p90


def _spread(seconds: float, faster: float, slower: float) -> Quantiles:
    return _quantile_hours(seconds / faster, seconds, seconds * slower)


def _quantile_hours(low_s: float, middle_s: float, high_s: float) -> Quantiles:
    p10, p50, p90 = (
        (Decimal(repr(seconds)) / SECONDS_PER_HOUR).quantize(Decimal("1e-9"))
        for seconds in (low_s, middle_s, high_s)
    )
    return Quantiles(p10=p10, p50=p50, p90=p90)
