"""What is told of a run to a person who is not looking: which news, in which words. Pure.

When it is told says `launcher.runs.tell`, to whom `launcher.runs.messengers`.
"""

from decimal import Decimal
from typing import Any, Literal, get_args

from recipes.money import format_usd, from_micro_usd
from recipes.recipe import Part
from tracking.books import Books
from tracking.entries import Noted

Kind = Literal[
    "started",
    "interrupted",
    "budget_50",
    "budget_80",
    "budget_100",
    "stopped",
    "done",
    "failed",
    "teardown_unproved",
]
"""`interrupted`: a machine was taken away, and the run goes on on another one. `stopped`: at its
budget or its hours, or by a person."""

KINDS: tuple[Kind, ...] = get_args(Kind)

MARKS: dict[int, Kind] = {50: "budget_50", 80: "budget_80", 100: "budget_100"}
"""Shares of the budget that are told when they are passed [%]."""

MARK_NOTE = "budget_mark_told"
"""The note in a run's books that says which share of which budget was told last."""

LONGEST = 1000
"""More of an error than this many characters is left to the receipt."""


class Notice(Part):
    """One piece of news. In JSON its dollars are strings."""

    run_id: str
    kind: Kind
    text: str
    """For people: the run, what happened, its dollars."""
    spent_usd: Decimal
    """Settled, and what runs now by the price of its machine [USD]."""
    budget_usd: Decimal
    time: float
    """When it happened [unix seconds]."""


def notice(books: Books, kind: Kind, what: str, now: float, running_micro_usd: int = 0) -> Notice:
    """News of a run in words.

    Args:
        what: a sentence on what happened; an error, for one.
        now: unix seconds.
        running_micro_usd: what the attempt under way has cost until now; not in the books yet.
    """
    spent = from_micro_usd(books.spent_micro_usd + running_micro_usd)
    budget = from_micro_usd(books.budget_micro_usd)
    short = what if len(what) <= LONGEST else f"{what[:LONGEST]} …"
    # Most errors of a run name it themselves.
    said = short if books.run_id in short else f"{books.run_id}: {short}"
    return Notice(
        run_id=books.run_id,
        kind=kind,
        text=f"{said} [{kind}; {format_usd(spent)} of {format_usd(budget)} spent]",
        spent_usd=spent,
        budget_usd=budget,
        time=now,
    )


def mark_to_tell(books: Books, running_micro_usd: int) -> int | None:
    """The share of the budget [%] that has to be told now; `None` where there is none.

    Each share is told once for each budget, also across restarts, since the books say which was
    told; where two are passed at once the higher one is told alone. A budget that was raised is
    another budget: half of it is news again.
    """
    budget = books.budget_micro_usd
    spent = books.spent_micro_usd + running_micro_usd
    passed = [percent for percent in MARKS if 100 * spent >= percent * budget]
    if not passed or spent == 0:
        return None
    return passed[-1] if passed[-1] > _told(books) else None


def mark_told(books: Books, percent: int) -> Noted:
    """What to write down when a share of the budget is told."""
    return Noted(key=MARK_NOTE, value=f"{percent} % of {books.budget_micro_usd}")


def _told(books: Books) -> int:
    percent, _, budget = books.notes.get(MARK_NOTE, "").partition(" % of ")
    return int(percent) if budget == str(books.budget_micro_usd) else 0


def for_slack(notice: Notice) -> dict[str, Any]:
    """What Slack's incoming webhooks take. Words of a stranger cannot call a channel's members.

    >>> told = Notice(run_id="r", kind="failed", text="<!channel> & co", spent_usd=Decimal(1),
    ...     budget_usd=Decimal(2), time=0.0)
    >>> for_slack(told)
    {'text': '&lt;!channel&gt; &amp; co'}
    """
    text = notice.text
    for sign, harmless in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(sign, harmless)
    return {"text": text}


def as_json(notice: Notice) -> dict[str, Any]:
    """What any other webhook, and a command, are given."""
    return notice.model_dump(mode="json")
