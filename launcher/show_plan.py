"""A plan for people: its headline, and the whole table."""

from decimal import Decimal
from typing import TYPE_CHECKING

from launcher.plan import CostLine, Plan, Quantiles
from launcher.view import format_seconds
from recipes.money import SECONDS_PER_HOUR, format_usd
from recipes.recipe import Budget

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


def headline(plan: Plan, budget: Budget) -> str:
    """The plan in two lines."""
    usd, hours = plan.usd, plan.hours
    return (
        f"{plan.recipe} on {plan.offer.name} at {format_usd(plan.offer.usd_per_hour)}/h: "
        f"{format_usd(usd.p50)} ({format_usd(usd.p10)} to {format_usd(usd.p90)}) and "
        f"{_time(hours.p50)} ({_time(hours.p10)} to {_time(hours.p90)})\n"
        f"budget {format_usd(budget.usd)}"
        + (f" and {_time(budget.hours)}" if budget.hours is not None else "")
        + f" · plan {plan.hash}"
    )


def render_plan(plan: Plan, budget: Budget) -> "RenderableType":
    """Headline, cost lines with quantity and unit price, assumptions."""
    from rich.console import Group
    from rich.text import Text

    notes = [Text(f"- {assumption}") for assumption in plan.assumptions]
    return Group(
        Text(headline(plan, budget)), "", render_lines(plan), "", Text("assumptions"), *notes
    )


def render_lines(plan: Plan) -> "Table":
    """The cost lines and their total."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("line", "quantity", "each", "P10", "P50", "P90"):
        table.add_column(heading, justify="left" if heading == "line" else "right")
    for line in plan.lines:
        table.add_row(*line_cells(line))
    table.add_row(*total_cells(plan), style="bold")
    return table


def line_cells(line: CostLine) -> tuple[str, ...]:
    """A line of the bill: its name, quantity, unit price, and dollars."""
    return line.name, _quantity(line), _price(line), *_usd_cells(line.usd)


def total_cells(plan: Plan) -> tuple[str, ...]:
    """The last line of the bill."""
    return "total", _time(plan.hours.p50), "", *_usd_cells(plan.usd)


def _usd_cells(usd: Quantiles) -> tuple[str, str, str]:
    return format_usd(usd.p10), format_usd(usd.p50), format_usd(usd.p90)


def _quantity(line: CostLine) -> str:
    if line.unit == "h":
        return _time(line.quantity.p50)
    return f"{line.quantity.p50:.3g} {line.unit}"


def _price(line: CostLine) -> str:
    return f"{format_usd(line.usd_per_unit)}/{line.unit}"


def _time(hours: Decimal) -> str:
    return format_seconds(float(hours * SECONDS_PER_HOUR))
