"""A plan in a file: what `still plan --save` writes and `still launch --plan` runs.

It holds the recipe too, its paths resolved, so that what has changed since can be named. A saved
plan is run as it stands or not at all; only prices may move, and these by so much and no more.
"""

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from launcher.market.offers import LOCAL, Offer
from launcher.plans.differences import differences
from launcher.plans.plan import Plan
from recipes.errors import InvalidInputError, RefusedError
from recipes.money import format_usd
from recipes.recipe import Part, Recipe
from recipes.rundir import read_model, write_model

TOLERANCE = 10
"""So much dearer may a saved plan have become, where nobody says otherwise [%]."""

_PLACE = attrgetter(
    "cloud", "region", "zone", "instance_type", "accelerator", "accelerators", "nodes", "spot"
)
"""What makes two offers the same one at two times."""

_OWN_PRICE = "hardware.usd_per_hour"


class SavedPlan(Part):
    """A plan and the recipe it is for."""

    version: Literal[1] = 1
    hash: str
    """Of the plan, to notice a file that was changed by hand."""
    saved_at: float = Field(ge=0)
    """[unix s]"""
    recipe: Recipe
    plan: Plan


class PriceMovedError(RefusedError):
    """An hour, or a token, is dearer by now than the plan may bear, so nothing was launched."""

    def __init__(self, what: str, was: Decimal, now: Decimal, unit: str, tolerance: int) -> None:
        self.what = what
        self.was = was
        self.now = now
        self.unit = unit
        self.tolerance = tolerance
        super().__init__(what, was, now, unit, tolerance)

    def __str__(self) -> str:
        moved = f"{self._percent:.1f} % more" if self.was else "which is new"
        allow = f", or allow it with --tolerance {int(self._percent) + 1}" if self.was else ""
        return (
            f"{self.what} costs {format_usd(self.now)}/{self.unit} now and "
            f"{format_usd(self.was)}/{self.unit} in the plan: {moved}, and {self.tolerance} % is "
            f"tolerated. Nothing was started. Plan again with `still plan --save`{allow}."
        )

    @property
    def _percent(self) -> Decimal:
        return 100 * (self.now / self.was - 1)


def save_plan(path: Path, recipe: Recipe, plan: Plan, now: float) -> None:
    """Write a plan, whole or not at all.

    Args:
        recipe: with its paths resolved.

    Raises:
        InvalidInputError: the file cannot be written.
    """
    saved = SavedPlan(hash=plan.hash, saved_at=now, recipe=recipe, plan=plan)
    try:
        write_model(path, saved)
    except OSError as error:
        raise InvalidInputError(f"--save {path}: cannot be written: {error.strerror}") from error


def read_saved(path: Path) -> SavedPlan:
    """Read what `save_plan` wrote.

    Raises:
        InvalidInputError: it is not there, is no saved plan, or was changed by hand.
    """
    try:
        saved = read_model(path, SavedPlan)
    except InvalidInputError as error:
        raise InvalidInputError(
            f"--plan: {error}. `still plan RECIPE --save FILE` writes a plan"
        ) from error
    if saved.hash != saved.plan.hash:
        raise InvalidInputError(
            f"--plan: {path} was changed after it was written: its plan has the hash "
            f"{saved.plan.hash} and the file says {saved.hash}. "
            "`still plan RECIPE --save FILE` writes it again"
        )
    return saved


def check_same_recipe(saved: SavedPlan, recipe: Recipe) -> None:
    """Refuse a recipe that is not the one that was planned, the price of one's own machine aside.

    Raises:
        RefusedError: with the fields that differ.
    """
    changed = [
        each
        for each in differences(saved.recipe, recipe)
        if not (recipe.hardware.local and each.field == _OWN_PRICE)
    ]
    if changed:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise RefusedError(
            f"the plan {saved.hash} is for another recipe than this {recipe.name}: "
            f"{'; '.join(map(str, changed[:5]))}{more}. Nothing was started. Plan this one with "
            "`still plan --save`, or give the flags and the file that were planned"
        )


def as_saved(saved: SavedPlan, today: Plan, offers: Iterable[Offer], tolerance: int) -> Plan:
    """The saved plan at today's prices, to be run.

    Where no price has moved it is the very plan, with its hash. A lower price is taken as it is.

    Args:
        today: a plan of the same recipe made now, on whichever offer.
        offers: all there are now.
        tolerance: how much dearer an hour or a token may be than in the plan [%].

    Raises:
        RefusedError: its offer is gone, its machine, its data or its models are others now.
        PriceMovedError: its offer or its teacher costs more than is tolerated.
    """
    plan = saved.plan
    _check_same_work(plan, today)
    there = {_PLACE(offer): offer for offer in reversed(list(offers))}
    offer = there.get(_PLACE(plan.offer))
    if offer is None:
        raise RefusedError(
            f"{plan.offer.name} of the plan {saved.hash} is not offered any more. Nothing was "
            f"started. Plan again with `still plan --save`: the best now is {today.offer.name} at "
            f"{format_usd(today.offer.usd_per_hour)}/h"
        )
    _check_prices(plan, today, offer, tolerance)
    return _at_prices(plan, today, there)


def _check_same_work(plan: Plan, today: Plan) -> None:
    names = sorted({*plan.inputs, *today.inputs})
    changed = [name for name in names if plan.inputs.get(name) != today.inputs.get(name)]
    if changed:
        raise RefusedError(
            f"{' and '.join(changed)}: what lies there has changed since it was planned, and may "
            "be other work. Nothing was started. Plan again with `still plan --save`"
        )
    if plan.offer.cloud == LOCAL and plan.work != today.work:
        raise RefusedError(
            "the plan was made on another machine than this one, whose speed is its own. Nothing "
            "was started. Plan here with `still plan --save`"
        )
    if plan.units != today.units:
        was, now = (
            ", ".join(f"{stage} {count:,}" for stage, count in each.units.items())
            for each in (plan, today)
        )
        raise RefusedError(
            f"the data have changed since they were planned: the work was {was} and is {now}. "
            "Nothing was started. Plan again with `still plan --save`"
        )


def _check_prices(plan: Plan, today: Plan, offer: Offer, tolerance: int) -> None:
    moved = [(plan.offer.name, plan.offer.usd_per_hour, offer.usd_per_hour, "h")]
    moved += [(f"the {name}", was, now, "Mtok") for name, was, now in _token_prices(plan, today)]
    for what, was, now, unit in moved:
        if 100 * now > (100 + tolerance) * was:
            raise PriceMovedError(what, was, now, unit, tolerance)


def _token_prices(plan: Plan, today: Plan) -> Iterator[tuple[str, Decimal, Decimal]]:
    for line in plan.lines:
        if line.unit == "Mtok":
            now = today.unit_price(line.name)
            yield line.name, line.usd_per_unit, line.usd_per_unit if now is None else now


def _at_prices(plan: Plan, today: Plan, there: Mapping[Any, Offer]) -> Plan:
    """The plan with what every line and every alternative costs now; those gone are left out."""
    prices = {name: now for name, _, now in _token_prices(plan, today)}
    offer = _priced(plan.offer, there)
    lines = tuple(
        line.model_copy(update={"usd_per_unit": prices.get(line.name, offer.usd_per_hour)})
        if line.name in prices or line.usd_per_unit == plan.offer.usd_per_hour
        else line
        for line in plan.lines
    )
    alternatives = tuple(
        each.model_copy(update={"offer": _priced(each.offer, there)})
        for each in plan.alternatives
        if _PLACE(each.offer) in there
    )
    return plan.model_copy(update={"offer": offer, "lines": lines, "alternatives": alternatives})


def _priced(offer: Offer, there: Mapping[Any, Offer]) -> Offer:
    """An offer as it was planned, or as it is now where its price has moved."""
    now = there[_PLACE(offer)]
    return offer if now.usd_per_hour == offer.usd_per_hour else now
