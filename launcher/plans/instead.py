"""What would fit instead of a plan that does not: less work there, or other machines. Pure."""

from collections.abc import Callable
from dataclasses import replace

from launcher.estimate.efficiency import Efficiency
from launcher.market.offers import Offer
from launcher.plans.fits import fewer_samples, fewer_steps
from launcher.plans.planner import Ranked, plan_offers
from launcher.plans.work_of import Facts
from recipes.money import format_usd
from recipes.recipe import Recipe

NODES = (1, 2, 4, 8)
"""Numbers of machines that are tried where the ones asked for do not fit."""


def less_work(
    recipe: Recipe, offer: Offer, facts: Facts, now: float, efficiency: Efficiency | None = None
) -> str:
    """How much less work would fit on an offer, planned anew; empty where none does.

    Fewer samples where their number decides how much is trained, else fewer steps.
    """

    def fits(smaller: Recipe, known: Facts) -> bool:
        return plan_offers(smaller, [offer], known, now, efficiency=efficiency).fitting > 0

    steps = recipe.training.steps
    if steps is None:
        rows = facts.rows.count
        return fewer_samples(_most(rows, lambda count: fits(recipe, _fewer(facts, count))), rows)
    return fewer_steps(_most(steps, lambda count: fits(_shorter(recipe, count), facts)), steps)


def other_machines(elsewhere: Ranked) -> str:
    """A sentence on the best run among other machines than those that were asked for; empty where
    none fits either."""
    if not elsewhere.fitting:
        return ""
    (best,) = elsewhere.options(0, 1)
    offer, hours = best.offer, best.hours.p50
    return (
        f"Or take {offer.accelerators * offer.nodes} {offer.gpu} and {hours:.1f} h instead "
        f"(hardware.accelerators {offer.gpu}:{offer.accelerators}, hardware.nodes {offer.nodes}): "
        f"{format_usd(best.usd.p50)}, at P90 {format_usd(best.usd.p90)}."
    )


def _most(whole: int, fits: Callable[[int], bool]) -> int:
    """The largest count below `whole` that fits, by halving; 0 where not even one does."""
    low, high = 0, whole
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _fewer(facts: Facts, count: int) -> Facts:
    rows = facts.rows
    prompt_bytes = round(rows.prompt_bytes * count / rows.count)
    return replace(facts, rows=replace(rows, count=count, prompt_bytes=prompt_bytes))


def _shorter(recipe: Recipe, steps: int) -> Recipe:
    training = recipe.training.model_copy(update={"steps": steps})
    return recipe.model_copy(update={"training": training})
