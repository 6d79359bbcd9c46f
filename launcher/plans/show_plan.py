"""A plan for people: its headline, and the whole table."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from launcher.plans.plan import CostLine, Plan, Quantiles
from recipes.durations import format_seconds
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


def markdown_plan(plan: Plan, budget: Budget) -> str:
    """The same in GitHub's Markdown, for a pull request."""
    return "\n".join(markdown_lines(plan, budget, plan.assumptions)) + "\n"


def markdown_lines(
    plan: Plan, budget: Budget, assumptions: Sequence[str], why: str = ""
) -> Iterator[str]:
    """Line by line.

    Args:
        assumptions: what it rests on, and what is to be said of its price.
        why: a sentence on why this offer.
    """
    first, _, rest = headline(plan, budget).partition("\n")
    yield f"**{first}**"
    yield f"\n{rest}. {why[:1].upper()}{why[1:]}{'.' if why else ''}".rstrip() + "\n"
    yield "| line | quantity | each | P10 | P50 | P90 |\n|---|--:|--:|--:|--:|--:|"
    for line in plan.lines:
        yield markdown_row(line_cells(line))
    yield markdown_row([f"**{cell}**" if cell else "" for cell in total_cells(plan)])
    yield "\n<details><summary>assumptions</summary>\n"
    yield from (f"- {assumption}" for assumption in assumptions)
    yield "\n</details>"


def markdown_row(cells: Sequence[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


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
