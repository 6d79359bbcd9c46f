"""What a sweep found, as a person reads it."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from launcher.sweep import REASONS, Judged, Swept

if TYPE_CHECKING:
    from rich.console import RenderableType


def render_sweep(swept: Swept) -> "RenderableType":
    """A table of what should not be there, and sentences on the rest."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = []
    if swept.orphans:
        table = Table(box=None, pad_edge=False, show_edge=False)
        for heading in ("What", "Id", "Where", "Run", "Expires", "Why"):
            table.add_column(heading, overflow="fold")
        for one in swept.orphans:
            table.add_row(*_row(one))
        parts.append(table)
    parts += [Text(sentence) for sentence in _sentences(swept)]
    return Group(*parts)


def _row(one: Judged) -> tuple[str, ...]:
    thing = one.thing
    expires = "unknown"
    if thing.expires_at is not None:
        expires = datetime.fromtimestamp(thing.expires_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return thing.kind, thing.id, thing.region, thing.run_id, expires, REASONS[one.verdict]


def _sentences(swept: Swept) -> Iterator[str]:
    if swept.is_clean:
        yield "nothing of ours is left that should not be"
    if swept.live:
        runs = dict.fromkeys(one.thing.run_id for one in swept.live)
        yield f"left alone, since they go on here: {', '.join(runs)}"
    for ghost in swept.ghosts:
        yield (
            f"the ledger thinks that {ghost.run_id} has machines, and AWS has none: "
            f"`still watch {ghost.run_id}` goes on with it, `still down {ghost.run_id}` closes it"
        )
    for place, why in swept.unasked:
        yield f"not looked at: {place}: {why}"
