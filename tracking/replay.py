"""Whether entries that come from elsewhere can be those of a ledger. Pure.

Our own ledger refuses what must not be while it is written. What comes in whole, from a run store,
is read from beginning to end by the same rules, so that nothing gets in that would have been
refused. A settlement above its reservation is truth, and gets in: the books show it.
"""

from collections.abc import Sequence

from recipes.money import format_usd, from_micro_usd
from tracking.entries import (
    AttemptEnded,
    AttemptStarted,
    BudgetRaised,
    Entry,
    Extended,
    Opened,
    Reserved,
    Settled,
)


def fault_in(run_id: str, entries: Sequence[Entry]) -> str | None:
    """What no ledger would have written, in words for people; `None` where all can be true."""
    if not entries or not isinstance(entries[0], Opened):
        return "the first entry does not open the run"
    replay = _Replay(run_id, entries[0].budget_micro_usd)
    seen: set[str] = set()
    for number, entry in enumerate(entries, 1):
        if entry.once in seen:
            return f"entry {number} is there twice ({entry.once})"
        if entry.once:
            seen.add(entry.once)
        if fault := replay.fault_of(entry):
            return f"entry {number} ({entry.kind}) {fault}"
    return None


class _Replay:
    """The money of one run, entry by entry [micro-dollars]."""

    def __init__(self, run_id: str, budget: int) -> None:
        self._run_id = run_id
        self._budget = budget
        self._spent = 0
        self._reservations = 0
        self._open: dict[str, int] = {}
        self._attempts: dict[int, float] = {}
        """When each began [unix s]."""

    def fault_of(self, entry: Entry) -> str | None:
        """Take in the next entry; what is wrong with it."""
        match entry:
            case BudgetRaised():
                self._budget += entry.micro_usd
            case Reserved():
                return self._reserve(entry)
            case Extended():
                return self._add(entry.reservation, entry.micro_usd)
            case Settled():
                if self._open.pop(entry.reservation, None) is None:
                    return f"settles {entry.reservation}, which is not open"
                self._spent += entry.micro_usd
            case AttemptStarted():
                if entry.reservation not in self._open:
                    return "starts a machine that nothing pays for"
                self._attempts[entry.attempt] = entry.started_at
            case AttemptEnded() if entry.attempt not in self._attempts:
                return f"ends attempt {entry.attempt}, which was not started"
            case AttemptEnded() if not entry.ended_at >= self._attempts[entry.attempt]:
                return f"ends attempt {entry.attempt} before it started"
            case _:
                pass
        return None

    def _reserve(self, entry: Reserved) -> str | None:
        self._reservations += 1
        if entry.reservation != f"{self._run_id}/{self._reservations}":
            return f"reserves {entry.reservation} out of turn"
        self._open[entry.reservation] = 0
        return self._add(entry.reservation, entry.micro_usd)

    def _add(self, reservation: str, micro_usd: int) -> str | None:
        if reservation not in self._open:
            return f"adds to {reservation}, which is not open"
        free = self._budget - self._spent - sum(self._open.values())
        if micro_usd > free:
            asked, left = (format_usd(from_micro_usd(usd)) for usd in (micro_usd, free))
            return f"reserves {asked} where {left} of the budget is free"
        self._open[reservation] += micro_usd
        return None
