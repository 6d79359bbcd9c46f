"""Rehearse a recipe: run its first steps on one real machine, and price the whole of it again."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from launcher.market.offers import LOCAL
from launcher.outside import Outside
from launcher.plans.plan import Plan, over
from launcher.plans.rehearsal import (
    REHEARSAL_OF,
    Measured,
    measure,
    rehearsal_of,
    step_counts,
)
from launcher.plans.show_diff import Side, diff_json
from launcher.pricing import Planned
from recipes.errors import InvalidInputError, RefusedError
from recipes.money import format_usd, named_usd
from recipes.rundir import attempt_events
from tracking.entries import Noted


class DearRehearsalError(RefusedError):
    """Even a few steps come to more than may be spent on them, so nothing was started."""

    def __init__(self, plan: Plan, usd: Decimal, boot: Decimal) -> None:
        self.plan = plan
        self.usd = usd
        self.boot = boot
        super().__init__(plan, usd, boot)

    def __str__(self) -> str:
        plan, offer = self.plan, self.plan.offer
        here = ", or rehearse on this machine with --local --usd-per-hour USD"
        least = ""
        if plan.least_usd > plan.usd.p90:
            least = f" {offer.name} is not begun with less than {format_usd(plan.least_usd)}."
        return (
            f"{plan.units['train']} steps on {offer.name} come to "
            f"{format_usd(plan.usd.p50)}, and one time in ten to more than "
            f"{format_usd(plan.usd.p90)}; --usd is {format_usd(self.usd)}. Of that, "
            f"{format_usd(self.boot)} is for starting the machine.{least} Nothing was started. "
            f"Give --usd {plan.needed_usd.quantize(Decimal('0.01'), 'ROUND_UP')}"
            f"{here * (offer.cloud != LOCAL)}."
        )


@dataclass(frozen=True)
class Rehearsed:
    """What came of a rehearsal."""

    run_id: str
    measured: Measured | None
    """`None` where it ended before a second step."""
    after: Planned
    """The recipe, priced again with what was measured."""


def plan_rehearsal(outside: Outside, made: Planned, usd: str) -> Planned:
    """Plan the first steps of a recipe on one machine of the kind that was chosen for it; on as
    many as the recipe asks for where it does not fit on one.

    Raises:
        InvalidInputError: `usd` is no amount above 0.
        DearRehearsalError: it comes to more.
        RefusedError: the recipe cannot be run there.
    """
    amount = _amount(usd)
    refused: RefusedError | None = None
    for nodes in dict.fromkeys((1, made.recipe.hardware.nodes)):
        try:
            return _affordable(outside, made, amount, nodes)
        except DearRehearsalError:
            raise
        except RefusedError as error:  # too large for so few machines
            refused = error
    assert refused is not None, "each number of machines was refused"
    raise refused


def _affordable(outside: Outside, made: Planned, usd: Decimal, nodes: int) -> Planned:
    plan = None
    for steps in step_counts(made.plan):
        recipe = rehearsal_of(made.recipe, made.plan, usd, steps, nodes)
        planned = outside.pricing.price(recipe)
        plan = planned.plan
        if over(recipe.budget, plan.needed_usd, plan.needed_hours) is None:
            return planned
    assert plan is not None, "there is a number of steps to try"
    raise DearRehearsalError(plan, usd, plan.usd_of("boot").p50)


def open_rehearsal(outside: Outside, planned: Planned, of: Plan, store: str | None) -> str:
    """Record a rehearsal as a run of its own; its id."""
    run_id = outside.driving.open_run(planned, store)
    outside.ledger.append(run_id, Noted(key=REHEARSAL_OF, value=of.work))
    return run_id


def look_back(outside: Outside, run_id: str, made: Planned) -> Rehearsed:
    """What a rehearsal measured, and the recipe priced again with it."""
    attempts = outside.ledger.books(run_id).attempts
    events = attempt_events(outside.home.run(run_id), attempts[-1].number) if attempts else []
    return Rehearsed(run_id, measure(events), outside.pricing.price(made.recipe))


def before_and_after(made: Planned, rehearsed: Rehearsed) -> tuple[Side, Side]:
    """The two plans of one recipe, to be shown side by side."""
    after = rehearsed.after
    return Side("before", made.recipe, made.plan), Side("after", after.recipe, after.plan)


def rehearsal_json(outside: Outside, made: Planned, rehearsed: Rehearsed) -> dict[str, Any]:
    """For programs: receipt, measurement, the plan before (`a`) and after (`b`)."""
    return {
        "run_id": rehearsed.run_id,
        "receipt": outside.receipt(rehearsed.run_id).model_dump(mode="json"),
        "measured": rehearsed.measured.as_json() if rehearsed.measured else None,
        **diff_json(*before_and_after(made, rehearsed)),
    }


def _amount(usd: str) -> Decimal:
    try:
        return named_usd(usd)
    except ValueError as error:
        raise InvalidInputError(f"--usd {usd}: {error}") from error
