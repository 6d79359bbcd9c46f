"""A recipe and what could be rented -> plans, the cheapest run first.

Pure. Every offer is priced as a whole run and not by the hour: boot, generate, train, save,
evaluate, and what interruptions cost. How long these take depends on the kind of machine only, so
100,000 offers are some hundred kinds and a multiplication.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, cached_property
from itertools import islice
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from launcher.estimate import quantiles as estimate
from launcher.estimate.efficiency import Efficiency, fitted
from launcher.estimate.gpus import find_gpu
from launcher.machines.least import beginning_usd
from launcher.market.offers import Offer
from launcher.plans.kinds import Kind, why_not
from launcher.plans.notes import assumptions
from launcher.plans.plan import Alternative, CostLine, Plan, Quantiles, over, work_key
from launcher.plans.run_hours import (
    SPOT_HOURS_BETWEEN,
    RunHours,
    checkpoint_seconds,
    hours_of,
    upload_seconds,
)
from launcher.plans.teacher_price import with_teacher_api
from launcher.plans.work_of import Facts, Work, work_of
from recipes.errors import RefusedError
from recipes.recipe import Recipe

Floats = NDArray[np.float64]

ALTERNATIVES = 24
"""So many of the best offers a plan carries ..."""

STAYING = 8
"""... and so many of those on demand, whatever their rank: spot machines may all be gone."""


@dataclass(frozen=True)
class Misfit:
    """A kind of machine that the work cannot be done on."""

    kind: str
    reason: str
    offers: int
    """So many offers are of it."""


@dataclass(frozen=True)
class Option:
    """One offer and what the run comes to there, endpoint included."""

    offer: Offer
    usd: Quantiles
    hours: Quantiles
    over: str | None
    """By how much it does not fit the recipe's budget or hours; `None` where it does."""
    on_frontier: bool
    """No other offer that fits is both cheaper and faster."""


@dataclass(frozen=True)
class Ranked:
    """All offers on which the work can be done. Ranks count from 0: those that fit budget and hours
    first, each group by its dollars at P50."""

    recipe: Recipe
    work: Work
    offers: tuple[Offer, ...]
    """In the order of their ranks."""
    runs: tuple[RunHours, ...]
    """Of the kinds of machines there are."""
    run_of: NDArray[np.intp]
    """Which of `runs` each rank is."""
    usd: Floats
    """P10, P50 and P90 of each rank [USD]. For ranking; a plan has exact ones."""
    hours: Floats
    """The same in hours."""
    careful_api_usd: Decimal
    """What a teacher behind an API takes at P90, on whichever machine [USD]."""
    least_hours: Decimal
    """With less of a limit none is begun [h]."""
    fitting: int
    """So many of the first ranks fit budget and hours, and can be begun with them."""
    careful: int
    """So many of all ranks fit budget and hours at P90, whether they can be begun or not."""
    frontier: NDArray[np.bool_]
    misfits: tuple[Misfit, ...]
    efficiency: Efficiency
    """What was known of how fast the machines train."""
    now: float
    """When it was made [unix s]."""

    def __len__(self) -> int:
        return len(self.offers)

    @cached_property
    def chosen(self) -> Plan:
        """The cheapest run that fits, else the cheapest of all; with its alternatives."""
        return self.plan(0)

    def plan(self, rank: int) -> Plan:
        """The whole plan for one offer."""
        offer, run = self.offers[rank], self.runs[self.run_of[rank]]
        plan = _plan(self.recipe, self.work, offer, run, self.efficiency)
        ranks = dict.fromkeys([rank, *range(len(self))[:ALTERNATIVES], *self._staying()])
        alternatives = tuple(self._alternative(each) for each in ranks)
        return with_teacher_api(plan.model_copy(update={"alternatives": alternatives}), self.recipe)

    def options(self, first: int = 0, last: int | None = None) -> list[Option]:
        """What the offers of some ranks come to."""
        return [self._option(rank) for rank in range(len(self))[first:last]]

    def _option(self, rank: int) -> Option:
        usd = _decimals(self.usd[rank], "0.000001")
        hours = _decimals(self.hours[rank], "0.000001")
        offer = self.offers[rank]
        needed_usd = max(usd.p90, self.careful_api_usd + beginning_usd(offer))
        needed_hours = max(hours.p90, self.least_hours)
        return Option(
            offer,
            usd,
            hours,
            over=None
            if rank < self.fitting
            else over(self.recipe.budget, needed_usd, needed_hours),
            on_frontier=bool(self.frontier[rank]),
        )

    def _staying(self) -> Iterator[int]:
        """The first ranks that are on demand."""
        on_demand = (rank for rank, offer in enumerate(self.offers) if not offer.spot)
        return islice(on_demand, STAYING)

    def _alternative(self, rank: int) -> Alternative:
        lines = self.runs[self.run_of[rank]].lines
        careful = {name: _exact(hours).p90 for name, hours in lines.items()}
        return Alternative(offer=self.offers[rank], careful_hours=careful)


def plan_offers(
    recipe: Recipe,
    offers: Sequence[Offer],
    facts: Facts,
    now: float,
    *,
    spot_hours_between: float = SPOT_HOURS_BETWEEN,
    efficiency: Efficiency | None = None,
) -> Ranked:
    """Price every offer as a whole run of the recipe, and rank them.

    Args:
        recipe: with its paths resolved.
        offers: what could be rented; spot is left out where the recipe does not allow it.
        facts: of the recipe's data and models (`launcher.plans.read_facts`).
        now: unix seconds; the age of a price counts from here.
        spot_hours_between: mean hours until one spot machine is taken away.
        efficiency: how fast machines train, as measured; by the published runs where left out.

    Raises:
        RefusedError: the work can be done on none of them, and why; a teacher without a price.
    """
    work = work_of(recipe, facts)
    allowed = [offer for offer in offers if recipe.hardware.spot or not offer.spot]
    kinds, which = _kinds(allowed)
    reasons: list[str | None] = [_why_not(work, kind) for kind in kinds]
    possible = [number for number, reason in enumerate(reasons) if reason is None]
    efficiency = efficiency or fitted()
    known = [_known(kinds[number]) for number in possible]
    timed = hours_of(work, known, spot_hours_between, efficiency)
    for number, run in zip(possible, timed, strict=True):
        if run is None:
            reasons[number] = "taken away so often that the work would never end"
    runs = {n: run for n, run in zip(possible, timed, strict=True) if run is not None}
    misfits = _misfits(kinds, reasons, which)
    if not runs:
        raise _nowhere(recipe, misfits)
    return _ranked(recipe, work, allowed, which, runs, misfits, now, efficiency)


# ---- kinds of machines -----------------------------------------------------------------------


_Unknown = str
"""What a GPU is called that is not in our table."""

_SAME_MACHINE = attrgetter("cloud", "accelerator", "instance_type", "accelerators", "nodes", "spot")
"""Offers that agree in these differ in place and price only."""


def _kinds(offers: Sequence[Offer]) -> tuple[list[Kind | _Unknown], NDArray[np.intp]]:
    """The kinds of machines that are offered, and which of them each offer is."""
    machines = list(map(_SAME_MACHINE, offers))
    kinds: dict[Kind | _Unknown, int] = {}
    numbers = {
        machine: kinds.setdefault(_kind(offer), len(kinds))
        for machine, offer in dict(zip(machines, offers, strict=True)).items()
    }
    which = np.fromiter(map(numbers.__getitem__, machines), dtype=np.intp, count=len(machines))
    return list(kinds), which


_known_gpu = cache(find_gpu)


def _kind(offer: Offer) -> Kind | _Unknown:
    gpu = _known_gpu(offer.gpu or "")
    if gpu is None:
        return offer.accelerator or "no GPU"
    return Kind(gpu, offer.accelerators, offer.nodes, offer.spot)


def _why_not(work: Work, kind: Kind | _Unknown) -> str | None:
    if isinstance(kind, str):
        return "its speed is unknown: it is not in the table of GPUs"
    return why_not(work, kind)


def _known(kind: Kind | _Unknown) -> Kind:
    assert isinstance(kind, Kind), "an unknown GPU has a reason against it"
    return kind


def _misfits(
    kinds: Sequence[Kind | _Unknown], reasons: Sequence[str | None], which: NDArray[np.intp]
) -> tuple[Misfit, ...]:
    """One for each kind of machine; spot and on demand are the same machine."""
    counts = np.bincount(which, minlength=len(kinds))
    found: dict[tuple[str, str], int] = {}
    for kind, reason, count in zip(kinds, reasons, counts, strict=True):
        if reason is not None:
            found[str(kind), reason] = found.get((str(kind), reason), 0) + int(count)
    return tuple(Misfit(kind, reason, count) for (kind, reason), count in found.items())


def _nowhere(recipe: Recipe, misfits: Sequence[Misfit]) -> RefusedError:
    asked = f"{recipe.hardware.nodes} x {recipe.hardware.accelerators}"
    if not misfits:
        return RefusedError(
            f"{recipe.name} asks for {asked} without spot machines, and there is no other offer. "
            "Nothing was started. Set hardware.spot to true, or ask for other GPUs"
        )
    reasons = "; ".join(f"{misfit.kind}: {misfit.reason}" for misfit in misfits[:5])
    return RefusedError(
        f"{recipe.name} can run on no offer of {asked}. Nothing was started. {reasons}. "
        "More GPUs (hardware.accelerators, hardware.nodes), training.gradient_checkpointing, a "
        "lower training.max_tokens or micro_batch_size need less memory on each"
    )


# ---- ranking ---------------------------------------------------------------------------------


def _ranked(
    recipe: Recipe,
    work: Work,
    offers: Sequence[Offer],
    which: NDArray[np.intp],
    runs: Mapping[int, RunHours],
    misfits: tuple[Misfit, ...],
    now: float,
    efficiency: Efficiency,
) -> Ranked:
    place = np.full(int(which.max(initial=0)) + 1, -1, dtype=np.intp)
    place[list(runs)] = np.arange(len(runs))
    can = np.flatnonzero(place[which] >= 0)
    run_of = place[which[can]]
    table = np.array([_each(run.total) for run in runs.values()])
    prices = np.array([float(offers[index].usd_per_hour) for index in can.tolist()])
    any_offer, any_run = offers[int(can[0])], next(iter(runs.values()))
    # A teacher's tokens and hours are the same on every machine.
    anywhere = with_teacher_api(_plan(recipe, work, any_offer, any_run, efficiency), recipe)
    api_usd, least_hours = anywhere.usd_of("teacher_api"), anywhere.least_hours
    api_floats = np.array([float(each) for each in (api_usd.p10, api_usd.p50, api_usd.p90)])
    usd = prices[:, None] * table[run_of] + api_floats
    hours = table[run_of] + np.array(_each(work.home_hours))
    budget = recipe.budget
    careful = usd[:, 2] <= float(budget.usd)
    if budget.hours is not None:
        careful &= hours[:, 2] <= float(budget.hours)
    fits, for_machines_usd = careful.copy(), budget.usd - api_usd.p90
    if budget.hours is not None and least_hours > budget.hours:
        fits[:] = False
    for rank in np.flatnonzero(fits).tolist():
        fits[rank] = beginning_usd(offers[int(can[rank])]) <= for_machines_usd
    order = np.lexsort((hours[:, 1], usd[:, 1], ~fits))
    fitting = int(fits.sum())
    return Ranked(
        recipe=recipe,
        work=work,
        offers=tuple(offers[index] for index in can[order].tolist()),
        runs=tuple(runs.values()),
        run_of=run_of[order],
        usd=usd[order],
        hours=hours[order],
        careful_api_usd=api_usd.p90,
        least_hours=least_hours,
        fitting=fitting,
        careful=int(careful.sum()),
        frontier=_frontier(hours[order, 1], fitting),
        misfits=misfits,
        efficiency=efficiency,
        now=now,
    )


def _frontier(hours: Floats, fitting: int) -> NDArray[np.bool_]:
    """Of ranks in order of their dollars: faster than everything that fits and is cheaper."""
    fastest_so_far = np.minimum.accumulate(hours[:fitting])
    before = np.concatenate([[np.inf], fastest_so_far[:-1]])[:fitting]
    return np.concatenate([hours[:fitting] < before, np.zeros(len(hours) - fitting, np.bool_)])


# ---- plans -----------------------------------------------------------------------------------


def _plan(recipe: Recipe, work: Work, offer: Offer, run: RunHours, efficiency: Efficiency) -> Plan:
    at_home = {"generate": work.home_hours} if work.asked else {}
    lines = [
        *_lines(at_home, Decimal(0)),
        *_lines(run.lines, offer.usd_per_hour),
    ]
    units = {
        "generate": work.asked or (work.generation.count if work.generation else 0),
        "train": work.steps,
        "evaluate": sum(exam.count for exam in work.exams),
    }
    return Plan.model_validate(
        {
            "recipe": recipe.name,
            "offer": offer,
            "lines": tuple(lines),
            "assumptions": tuple(assumptions(work, offer, run, efficiency)),
            "work": work_key(recipe, _device(offer), work.inputs),
            "inputs": dict(work.inputs),
            "units": {stage: count for stage, count in units.items() if count},
            "prompt_bytes": work.prompt_bytes,
            "longest_prompt_bytes": work.longest_prompt_bytes,
            "checkpoint_s": round(run.interval_s, 1),
            "save_s": round(checkpoint_seconds(work).p50, 1),
            "upload_s": round(upload_seconds(work).p50, 1),
        }
    )


def _device(offer: Offer) -> str:
    return f"{offer.gpu}:{offer.accelerators} x{offer.nodes}"


def _lines(hours: Mapping[str, estimate.Quantiles], usd: Decimal) -> list[CostLine]:
    return [
        CostLine(name=name, quantity=_exact(each), unit="h", usd_per_unit=usd)
        for name, each in hours.items()
    ]


def _exact(hours: estimate.Quantiles) -> Quantiles:
    """Hours as they stand in a plan: rounded once, to four milliseconds."""
    return _decimals(_each(hours), "0.000001")


def _decimals(figures: Iterable[float], step: str) -> Quantiles:
    p10, p50, p90 = (Decimal(repr(float(figure))).quantize(Decimal(step)) for figure in figures)
    return Quantiles(p10=p10, p50=p50, p90=p90)


def _each(quantiles: estimate.Quantiles) -> tuple[float, float, float]:
    return quantiles.p10, quantiles.p50, quantiles.p90
