"""Offers for people and for programs."""

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from launcher.market.look import Found
from launcher.market.offers import Offer
from recipes.money import format_usd

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

SHOWN = 20
"""So many rows are shown unless all are asked for."""


def render_offers(found: Found, now: float, limit: int | None = SHOWN) -> "RenderableType":
    """A table, the cheapest first, and what should be known of its prices.

    Args:
        now: unix seconds; the age of a price counts from here.
        limit: so many rows at most; `None`: all.
    """
    from rich.console import Group
    from rich.text import Text

    shown = found.offers[:limit]
    notes = [f"warning: {warning}" for warning in found.warnings]
    if len(shown) < len(found.offers):
        notes.insert(0, f"and {len(found.offers) - len(shown):,} dearer ones; --all shows them")
    return Group(
        Text(_heading(found)),
        "",
        _table(found, shown, now),
        *([""] if notes else []),
        *(Text(note) for note in notes),
    )


def offers_json(found: Found) -> dict[str, Any]:
    """All offers; dollars as strings of decimals, `null` where unknown, times in unix seconds."""
    return {
        "wanted": str(found.wanted),
        "offers": [
            {
                "rank": rank,
                **offer.as_json(),
                "usd_per_node_hour": _usd_text(offer.usd_per_node_hour),
                "usd_per_gpu_hour": _usd_text(offer.usd_per_gpu_hour),
            }
            for rank, offer in enumerate(found.offers, 1)
        ],
        "warnings": list(found.warnings),
    }


def format_age(as_of: float | None, now: float) -> str:
    """How old a price is.

    >>> [format_age(1_000_000 - s, 1_000_000) for s in (5, 240, 7_300, 400_000)]
    ['now', '4 min old', '2 h old', '5 days old']
    >>> format_age(None, 0)
    'of unknown age'
    """
    if as_of is None:
        return "of unknown age"
    seconds = max(0.0, now - as_of)
    if seconds < 60:
        return "now"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min old"
    if seconds < 2 * 86_400:
        return f"{seconds / 3600:.0f} h old"
    return f"{seconds / 86_400:.0f} days old"


def _heading(found: Found) -> str:
    count = len(found.offers)
    return f"{found.wanted}: " + ("1 offer" if count == 1 else f"{count:,} offers")


def _table(found: Found, shown: Sequence[Offer], now: float) -> "Table":
    """Columns that would say the same in every row are left out."""
    from rich.table import Table

    several_nodes, several_gpus = found.wanted.nodes > 1, found.wanted.gpu is None
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("#", justify="right")
    table.add_column("machine", overflow="fold")
    if several_gpus:
        table.add_column("GPUs")
    table.add_column("where", overflow="fold")
    table.add_column("terms")
    for heading in (*(["$/h a node"] if several_nodes else []), "$/h", "$/h a GPU"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("price by")
    for rank, offer in enumerate(shown, 1):
        table.add_row(
            str(rank),
            f"{offer.cloud} {offer.instance_type}",
            *([f"{offer.gpu}:{offer.accelerators}"] if several_gpus else []),
            offer.zone or offer.region,
            "spot" if offer.spot else "on demand",
            *([format_usd(offer.usd_per_node_hour)] if several_nodes else []),
            format_usd(offer.usd_per_hour),
            format_usd(offer.usd_per_gpu_hour),
            f"{offer.source}, {format_age(offer.as_of, now)}",
        )
    return table


def _usd_text(usd: Decimal | None) -> str | None:
    """To the micro-dollar: a third of a price has no end."""
    return None if usd is None else str(round(usd, 6))
