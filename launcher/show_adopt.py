"""The runs of a run store, as a person and as a program reads them."""

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from launcher.runs.adopt import Stored
from recipes.durations import format_seconds
from recipes.money import format_usd, from_micro_usd
from tracking.show import runs_json

if TYPE_CHECKING:
    from rich.console import RenderableType


def render_stored(runs: Iterable[Stored], known: Collection[str], now: float) -> "RenderableType":
    """A line a run.

    Args:
        known: runs that this home knows.
        now: [unix s]
    """
    from rich.box import SIMPLE
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE, pad_edge=False, show_edge=False, header_style="bold")
    for heading in ("Run", "State", "Spent", "Budget", "Driver", "Heard of", "Here"):
        table.add_column(heading, overflow="fold")
    faults = []
    for one in runs:
        here = "yes" if one.run_id in known else "no"
        table.add_row(*(Text(cell) for cell in (one.run_id, *_cells(one, now), here)))
        if one.fault:
            faults.append(Text(f"{one.run_id}: {one.fault}"))
    return Group(table, *faults)


def _cells(one: Stored, now: float) -> tuple[str, ...]:
    driver = one.driver.host if one.driver else "unknown"
    if one.books is None:
        return "damaged", "unknown", "unknown", driver, "unknown"
    spent, budget = one.books.spent_micro_usd, one.books.budget_micro_usd
    heard = "unknown" if one.heard_at is None else f"{_ago(now - one.heard_at)} ago"
    usd = (format_usd(from_micro_usd(amount)) for amount in (spent, budget))
    return one.books.state, *usd, driver, heard


def _ago(seconds: float) -> str:
    days = int(max(0.0, seconds) // 86400)
    return f"{days} d" if days > 1 else format_seconds(max(0.0, seconds))


def stored_json(runs: Iterable[Stored], known: Collection[str]) -> list[dict[str, Any]]:
    """As `still ls --json`, with who drove a run last; of damaged books nothing is known."""
    return [
        {
            "run_id": one.run_id,
            **(runs_json([one.books])[0] if one.books else {}),
            "driver": one.driver.host if one.driver else None,
            "heard_at": one.heard_at,
            "known": one.run_id in known,
            "fault": one.fault,
        }
        for one in runs
    ]
