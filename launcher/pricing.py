"""What a recipe costs: here, or on everything that can be rented today.

The edge of `launcher.plans`: it reads the recipe's files, looks at offers, measures this machine.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.outside import Outside
from launcher.plans.plan import Plan, over
from launcher.plans.speeds import Trial, plan_here, run_trial
from recipes.errors import RefusedError
from recipes.money import format_usd
from recipes.recipe import Recipe

if TYPE_CHECKING:
    from launcher.estimate.efficiency import Efficiency
    from launcher.market.look import Terms
    from launcher.plans.planner import Ranked


@dataclass(frozen=True)
class Planned:
    """A recipe with its paths resolved, and its plan."""

    recipe: Recipe
    plan: Plan
    ranked: "Ranked | None" = None
    """All offers, where machines are rented."""


class Pricing:
    """Prices recipes in the world as it is.

    Args:
        outside: clock, home, ledger, offers, screen.
        trial: measures how fast this machine does a recipe's work.
    """

    def __init__(self, outside: Outside, trial: Trial | None = None) -> None:
        self._outside = outside
        self._trial = trial
        self.allow_remote_code = False
        """Whether a person lets code that comes with a model run in a trial."""

    def plan(self, recipe: Recipe, folder: Path) -> Planned:
        """Resolve a recipe's paths and price it: here, or on everything that could be rented.

        Raises:
            InvalidInputError: a file it names is not there.
            RefusedError: it can be done nowhere, or could not be priced.
        """
        return self.price(self._resolve(recipe, folder))

    def plan_as_saved(self, recipe: Recipe, folder: Path, file: Path, tolerance: int) -> Planned:
        """The plan of a file, where it still holds for this recipe at today's prices.

        Args:
            tolerance: how much dearer an hour or a token may be by now [%].

        Raises:
            InvalidInputError: the file is no plan.
            RefusedError: the plan does not hold any more.
        """
        from launcher.plans.saved import as_saved, check_same_recipe, read_saved

        saved, resolved = read_saved(file), self._resolve(recipe, folder)
        check_same_recipe(saved, resolved)
        made = self.price(resolved)
        offers = made.ranked.offers if made.ranked else (made.plan.offer,)
        plan = as_saved(saved, made.plan, offers, tolerance)
        was, now = saved.plan.offer.usd_per_hour, plan.offer.usd_per_hour
        if now != was:
            self._outside.progress.print(
                f"an hour costs {format_usd(now)} now; it was {format_usd(was)} when this was "
                "planned",
                markup=False,
                highlight=False,
            )
        return Planned(resolved, plan)

    def check_fits(self, made: Planned, *, accept_partial: bool = False) -> None:
        """Refuse a plan that does not fit budget or hours, with what would.

        Args:
            accept_partial: whether it is enough that it can begin.

        Raises:
            OverBudgetPlanError: it does not fit.
        """
        from launcher.plans.fits import check_begins, check_fits, less_by_lines

        plan, recipe = made.plan, made.recipe
        fits = over(recipe.budget, plan.needed_usd, plan.needed_hours) is None
        if fits or (accept_partial and plan.begins(recipe.budget)):
            return
        less, instead = (
            (less_by_lines(plan, recipe), "") if recipe.hardware.local else self._would_fit(made)
        )
        check_begins(plan, recipe, instead)
        if not accept_partial:
            check_fits(plan, recipe, less, instead)

    def _would_fit(self, made: Planned) -> tuple[str, str]:
        """Less work on the same machines, and other machines for all of it, in words."""
        from launcher.market.look import on_nodes
        from launcher.plans.instead import NODES, less_work, other_machines
        from launcher.plans.planner import plan_offers
        from launcher.plans.read_facts import read_facts

        recipe, facts = made.recipe, read_facts(made.recipe, self._outside.home.fingerprints)
        efficiency = self._efficiency()
        less = less_work(recipe, made.plan.offer, facts, self._outside.clock(), efficiency)
        terms: Terms = "any" if recipe.hardware.spot else "on_demand"
        try:
            single = self._outside.offers("any", 1, terms).offers
            offers = [each for nodes in NODES for each in on_nodes(single, nodes)]
            elsewhere = plan_offers(
                recipe, offers, facts, self._outside.clock(), efficiency=efficiency
            )
        except RefusedError:
            return less, ""
        return less, other_machines(elsewhere)

    def _efficiency(self) -> "Efficiency":
        """What published runs and our own say of how fast GPUs train."""
        from launcher.estimate.efficiency import fit, fitted
        from launcher.estimate.evidence import published
        from launcher.plans.own_runs import own_evidence

        own = own_evidence(self._outside.home, self._outside.ledger.runs())
        return fit((*published(), *own)) if own else fitted()

    def _resolve(self, recipe: Recipe, folder: Path) -> Recipe:
        from launcher.resolve import resolve_paths

        return resolve_paths(recipe, folder, self._outside.home.path)

    def price(self, recipe: Recipe) -> Planned:
        """Price a recipe whose paths are resolved; errors as of `plan`."""
        return self._plan_here(recipe) if recipe.hardware.local else self._plan_rented(recipe)

    def _plan_here(self, recipe: Recipe) -> Planned:
        from launcher.plans.teacher_price import with_teacher_api

        with self._outside.busy("measuring how fast this machine is"):
            plan = plan_here(
                recipe,
                self._outside.home,
                self._outside.ledger.runs(),
                self._trial or run_trial(self._outside.home),
                self.allow_remote_code,
            )
        return Planned(recipe, with_teacher_api(plan, recipe))

    def _plan_rented(self, recipe: Recipe) -> Planned:
        from launcher.plans.planner import plan_offers
        from launcher.plans.read_facts import read_facts

        hardware = recipe.hardware
        facts = read_facts(recipe, self._outside.home.fingerprints)
        terms: Terms = "any" if hardware.spot else "on_demand"
        found = self._outside.offers(hardware.accelerators, hardware.nodes, terms)
        for warning in found.warnings:
            self._outside.progress.print(f"warning: {warning}", markup=False, highlight=False)
        ranked = plan_offers(
            recipe, found.offers, facts, self._outside.clock(), efficiency=self._efficiency()
        )
        return Planned(recipe, ranked.chosen, ranked)
