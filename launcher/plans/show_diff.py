"""Two recipes side by side, each on the offer chosen for it: for a screen, and for programs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from launcher.plans.differences import differences
from launcher.plans.plan import Plan, fit_json, over, summary
from recipes.durations import format_seconds
from recipes.money import SECONDS_PER_HOUR, format_usd
from recipes.recipe import Recipe

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_POINTS = ("p10", "p50", "p90")


@dataclass(frozen=True)
class Side:
    """One of the two: what it is called, its recipe with paths resolved, and its plan."""

    label: str
    recipe: Recipe
    plan: Plan

    @property
    def over(self) -> str | None:
        """By how much it does not fit its budget or its hours; `None` where it does."""
        return over(self.recipe.budget, self.plan.needed_usd, self.plan.needed_hours)


def sides(recipe_a: Recipe, plan_a: Plan, recipe_b: Recipe, plan_b: Plan) -> tuple[Side, Side]:
    """The two by their names; `A` and `B` where both are called the same."""
    same = recipe_a.name == recipe_b.name
    return (
        Side("A" if same else recipe_a.name, recipe_a, plan_a),
        Side("B" if same else recipe_b.name, recipe_b, plan_b),
    )


def render_diff(a: Side, b: Side) -> "RenderableType":
    """Dollars and hours of both, line by line, and the fields that differ."""
    from rich.console import Group
    from rich.text import Text

    fields = differences(a.recipe, b.recipe)
    heading = "fields that differ" if fields else "the recipes do not differ"
    return Group(
        *(Text(_offer(side)) for side in (a, b)),
        "",
        _table(a, b),
        Text("each P10 and P90 is its own plan's: one run need not be lucky when the other is"),
        "",
        Text(heading),
        *(Text(f"- {field}") for field in fields),
    )


def diff_json(a: Side, b: Side) -> dict[str, Any]:
    """Both plans as JSON, and what B comes to less what A does."""
    return {
        "a": _side_json(a),
        "b": _side_json(b),
        "difference": {
            "usd": (b.plan.usd - a.plan.usd).model_dump(mode="json"),
            "hours": (b.plan.hours - a.plan.hours).model_dump(mode="json"),
            "lines": {
                name: (b.plan.usd_of(name) - a.plan.usd_of(name)).model_dump(mode="json")
                for name in _line_names(a.plan, b.plan)
            },
        },
        "fields": [field.as_json() for field in differences(a.recipe, b.recipe)],
    }


# ---- parts -----------------------------------------------------------------------------------


def _side_json(side: Side) -> dict[str, Any]:
    return {"label": side.label, **summary(side.plan), **fit_json(side.plan, side.recipe.budget)}


def _offer(side: Side) -> str:
    offer = side.plan.offer
    fits = "fits its budget at P90" if side.over is None else f"does not fit: {side.over} over"
    return f"{side.label}: {offer.name} at {format_usd(offer.usd_per_hour)}/h; {fits}"


def _table(a: Side, b: Side) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", a.label, b.label, f"{b.label} - {a.label}"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, *cells in _line_rows(a.plan, b.plan):
        table.add_row(name, *cells)
    for point in _POINTS:
        dollars = [getattr(plan.usd, point) for plan in (a.plan, b.plan)]
        table.add_row(f"dollars {point.upper()}", *_usd_cells(*dollars), style=_style(point))
    for point in _POINTS:
        hours = [getattr(plan.hours, point) for plan in (a.plan, b.plan)]
        table.add_row(f"time {point.upper()}", *_time_cells(*hours), style=_style(point))
    return table


def _line_rows(a: Plan, b: Plan) -> Iterator[Sequence[str]]:
    """A line of the bill a row, likely dollars; one that a plan does not have is left blank."""
    for name in _line_names(a, b):
        usd_a, usd_b = a.usd_of(name).p50, b.usd_of(name).p50
        cells = _usd_cells(usd_a, usd_b)
        shown = (
            cell if any(line.name == name for line in plan.lines) else ""
            for plan, cell in zip((a, b), cells, strict=False)
        )
        yield name, *shown, cells[-1]


def _line_names(a: Plan, b: Plan) -> list[str]:
    more, fewer = (a, b) if len(a.lines) >= len(b.lines) else (b, a)
    return list(dict.fromkeys(line.name for line in (*more.lines, *fewer.lines)))


def _style(point: str) -> str | None:
    return "bold" if point == "p50" else None


def _usd_cells(a: Decimal, b: Decimal) -> tuple[str, str, str]:
    return format_usd(a), format_usd(b), f"{_sign(b - a)}{format_usd(abs(b - a))}"


def _time_cells(a: Decimal, b: Decimal) -> tuple[str, str, str]:
    return _time(a), _time(b), f"{_sign(b - a)}{_time(abs(b - a))}"


def _sign(difference: Decimal) -> str:
    """
    >>> [_sign(Decimal(each)) for each in (2, 0, -2)]
    ['+', '', '-']
    """
    return "" if difference == 0 else "+" if difference > 0 else "-"


def _time(hours: Decimal) -> str:
    return format_seconds(float(hours * SECONDS_PER_HOUR))
