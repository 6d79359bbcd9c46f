"""Our figure and AWS's as a person reads them."""

from decimal import Decimal
from typing import TYPE_CHECKING

from launcher.machines.aws_costs import SOURCE
from launcher.reconcile import Day, Reconciled
from recipes.money import format_usd

if TYPE_CHECKING:
    from rich.console import RenderableType


def render_reconciled(found: Reconciled) -> "RenderableType":
    """Both figures, AWS's by day and by service, and why they may differ."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    figures = Table.grid(padding=(0, 2))
    for row in _figures(found):
        figures.add_row(*(Text(cell) for cell in row))
    parts: list[RenderableType] = [Text(found.run_id, style="bold"), Text(), figures]
    if found.billed_usd is not None:
        details = Table.grid(padding=(0, 2))
        details.add_column()
        details.add_column(justify="right")
        for day in found.days:
            details.add_row(day.day.isoformat(), format_usd(day.usd), _note(day))
        for service, usd in found.services.items():
            details.add_row(Text(service), format_usd(usd), "")
        parts += [Text(), details]
    if found.reasons:
        heading = "Why it is unknown" if found.billed_usd is None else "Likely reasons"
        parts += [Text(), Text(heading, style="bold")]
        reasons = Table.grid(padding=(0, 1))
        for reason in found.reasons:
            reasons.add_row("-", Text(reason))
        parts.append(reasons)
    return Group(*parts)


def _figures(found: Reconciled) -> list[tuple[str, str, str]]:
    elsewhere = (
        f"; {format_usd(found.elsewhere_usd)} more is not on AWS's bill"
        if found.elsewhere_usd
        else ""
    )
    rows = [
        ("metered", format_usd(found.metered_usd), f"by us, for machines on AWS{elsewhere}"),
        ("billed", format_usd(found.billed_usd), f"by {SOURCE}{_how_final(found)}"),
    ]
    difference = found.difference_usd
    if difference is not None:
        rows.append(("difference", _signed(difference), _share(difference, found.metered_usd)))
    return rows


def _how_final(found: Reconciled) -> str:
    if found.billed_usd is None:
        return ""
    return "; final" if found.final else "; not final"


def _signed(usd: Decimal) -> str:
    sign = "+" if usd > 0 else "-" if usd < 0 else ""
    return f"{sign}{format_usd(abs(usd))}"


def _share(difference: Decimal, metered: Decimal) -> str:
    return f"{100 * difference / metered:+.1f} % of our figure" if metered else ""


def _note(day: Day) -> str:
    if day.usd is None:
        return "no row" if day.final else "no row yet"
    return "final" if day.final else "not final"
