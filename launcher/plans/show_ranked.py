"""The planner's answer for people (a screen, a pull request) and for programs.

Which offer and why, its lines, what it rests on, the runners-up, and what does not fit and by how
much.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from launcher.plans.notes import price_note
from launcher.plans.plan import fit_json, summary
from launcher.plans.planner import Misfit, Option, Ranked
from launcher.plans.show_plan import headline, markdown_lines, markdown_row, render_lines
from recipes.durations import format_seconds
from recipes.money import SECONDS_PER_HOUR, format_usd

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

RUNNERS_UP = 5
"""So many offers are shown behind the chosen one."""

_COLUMNS = ("", "offer", "$/h", "P50", "P90", "time", "")


def render_ranked(ranked: Ranked, offers: int = RUNNERS_UP) -> "RenderableType":
    """Everything, for a screen.

    Args:
        offers: so many of the next best ones are shown.
    """
    from rich.console import Group
    from rich.text import Text

    plan, budget = ranked.chosen, ranked.recipe.budget
    blocks: list[RenderableType] = [
        Text(headline(plan, budget)),
        Text(why(ranked)),
        "",
        render_lines(plan),
        "",
        Text("assumptions"),
        *(Text(f"- {assumption}") for assumption in _assumptions(ranked)),
    ]
    if len(ranked) > 1 and offers:
        blocks += ["", _table(ranked.options(0, offers + 1)), Text(_legend(ranked, offers))]
    if ranked.misfits:
        blocks += ["", Text("cannot run on")]
        blocks += [Text(f"- {_misfit(misfit)}") for misfit in ranked.misfits]
    return Group(*blocks)


def markdown_ranked(ranked: Ranked, offers: int = RUNNERS_UP) -> str:
    """The same in GitHub's Markdown, for a pull request."""
    return "\n".join(_markdown(ranked, offers)) + "\n"


def ranked_json(ranked: Ranked, offers: int = RUNNERS_UP) -> dict[str, Any]:
    """The chosen plan as JSON, with `why`, the ranked `options` and the `misfits`."""
    return {
        **summary(ranked.chosen),
        **fit_json(ranked.chosen, ranked.recipe.budget),
        "why": why(ranked),
        "options": [
            {
                "rank": rank,
                **option.offer.as_json(),
                "usd": option.usd.model_dump(mode="json"),
                "hours": option.hours.model_dump(mode="json"),
                "over": option.over,
                "on_frontier": option.on_frontier,
            }
            for rank, option in enumerate(ranked.options(0, offers + 1), 1)
        ],
        "offers_that_fit": ranked.fitting,
        "offers": len(ranked),
        "misfits": [
            {"kind": misfit.kind, "reason": misfit.reason, "offers": misfit.offers}
            for misfit in ranked.misfits
        ],
    }


def why(ranked: Ranked) -> str:
    """Why the chosen offer was chosen."""
    first, *others = ranked.options(0, 2)
    limit = "budget and hours" if ranked.recipe.budget.hours is not None else "budget"
    fit = "fits" if max(ranked.fitting, 1) == 1 else "fit"
    begun = " and can be begun with it" if ranked.careful > ranked.fitting else ""
    if not ranked.fitting:
        return f"none of {_offers(len(ranked))} {fit} {limit} at P90{begun}; this is the cheapest"
    text = f"the cheapest run of {_offers(ranked.fitting)} that {fit} {limit} at P90{begun}"
    if ranked.fitting == 1 or not others:
        return text
    second = others[0]
    dearer = format_usd(second.usd.p50 - first.usd.p50)
    return f"{text}; the next, {second.offer.name}, costs {dearer} more"


# ---- parts -----------------------------------------------------------------------------------


def _assumptions(ranked: Ranked) -> Sequence[str]:
    return price_note(ranked.chosen.offer, ranked.now), *ranked.chosen.assumptions


def _offers(count: int) -> str:
    return "1 offer" if count == 1 else f"{count:,} offers"


def _misfit(misfit: Misfit) -> str:
    return f"{misfit.kind} ({_offers(misfit.offers)}): {misfit.reason}"


def _legend(ranked: Ranked, offers: int) -> str:
    parts = ["* no other offer that fits is both cheaper and faster"] if ranked.fitting else []
    rest = len(ranked) - offers - 1
    if rest > 0:
        parts.append(f"{rest:,} more with --offers {len(ranked) - 1}")
    return "; ".join(parts)


def _cells(rank: int, option: Option) -> Sequence[str]:
    return (
        f"{rank}{'*' if option.on_frontier else ''}",
        option.offer.name,
        format_usd(option.offer.usd_per_hour),
        format_usd(option.usd.p50),
        format_usd(option.usd.p90),
        format_seconds(float(option.hours.p50) * SECONDS_PER_HOUR),
        "" if option.over is None else f"{option.over} over",
    )


def _table(options: Sequence[Option]) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, heading in enumerate(_COLUMNS):
        table.add_column(heading, justify="right" if 2 <= number <= 5 else "left")
    for rank, option in enumerate(options, 1):
        table.add_row(*_cells(rank, option), style="bold" if rank == 1 else None)
    return table


def _markdown(ranked: Ranked, offers: int) -> Iterator[str]:
    budget = ranked.recipe.budget
    yield from markdown_lines(ranked.chosen, budget, _assumptions(ranked), why(ranked))
    if len(ranked) > 1 and offers:
        yield "\n| | offer | $/h | P50 | P90 | time | |\n|---|---|--:|--:|--:|--:|---|"
        for rank, option in enumerate(ranked.options(0, offers + 1), 1):
            yield markdown_row(_cells(rank, option))
        yield f"\n{_legend(ranked, offers)}"
    if ranked.misfits:
        yield "\nCannot run on:\n"
        yield from (f"- {_misfit(misfit)}" for misfit in ranked.misfits)
