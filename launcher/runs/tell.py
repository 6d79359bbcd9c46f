"""Tells what happens to a run, as it happens: once each, and never at the run's expense.

A share of the budget is in the ledger before it is told, so that whoever drives the run next does
not tell it again. Whatever goes wrong here the run goes on.
"""

from contextlib import suppress

from launcher.runs.house import House
from launcher.runs.notices import MARKS, Kind, mark_to_tell, mark_told, notice
from recipes.errors import StillhouseError


def tell(house: House, run_id: str, kind: Kind, what: str) -> None:
    """Tell one piece of news, if anybody is to be told."""
    if house.notify is None:
        return
    with suppress(StillhouseError):  # a ledger that is busy says so to those who need it
        house.notify(notice(house.ledger.books(run_id), kind, what, house.clock()))


def tell_budget(house: House, run_id: str, running_micro_usd: int = 0) -> None:
    """Tell the share of the budget that was passed since this was last asked.

    Args:
        running_micro_usd: what the attempt under way has cost until now; not in the books yet.
    """
    if house.notify is None:
        return
    with suppress(StillhouseError):  # then at the next look
        books = house.ledger.books(run_id)
        percent = mark_to_tell(books, running_micro_usd)
        if percent is None:
            return
        house.ledger.append(run_id, mark_told(books, percent))
        what = f"{percent} % of the budget is used"
        house.notify(notice(books, MARKS[percent], what, house.clock(), running_micro_usd))
