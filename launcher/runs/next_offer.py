"""What to rent next: for a run's first machine, when an offer yields none, when one is taken away.

Pure: the plan says what there is, the books say what happened. An offer that has just been asked in
vain is passed over, another zone than the one that was just lost comes first, and nothing is rented
that could not be begun with what is left, or whose careful estimate for what is left to do is above
what is left of budget and hours.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from launcher.machines.least import beginning_usd
from launcher.market.offers import Offer
from launcher.plans.plan import Alternative, Plan
from launcher.runs.attempts import ANSWERED
from recipes.money import from_micro_usd
from tracking.books import NO_MACHINE, Attempt, Books
from tracking.entries import AttemptStarted, Line, Settled, StateChanged

ON_THE_WAY = frozenset({"planned", "starting", "provisioning"})
"""States of a run that is being given a machine: they do not end a round of asking for one."""


def next_offer(plan: Plan, books: Books) -> Offer | None:
    """The best offer for the next attempt of a run; `None` where nothing is left to try."""
    if not plan.alternatives:
        return plan.offer
    in_vain, lost = _asked_in_vain(books), _lost_zone(books)
    left = _left(plan, books)
    open_ = [
        each
        for each in plan.alternatives
        if each.offer.name not in in_vain and (left is None or left.allows(each))
    ]
    elsewhere = [each for each in open_ if _zone(each.offer) != lost]
    best = next(iter(elsewhere or open_), None)
    return best.offer if best else None


# ---- what happened ---------------------------------------------------------------------------


def _asked_in_vain(books: Books) -> set[str]:
    """Names of the offers that had no machine since the run last had one or came to an end."""
    attempts = {attempt.number: attempt for attempt in books.attempts}
    names: set[str] = set()
    for recorded in books.entries:
        match recorded.entry:
            case StateChanged(state=state) if state not in ON_THE_WAY:
                names.clear()
            case AttemptStarted(attempt=number) if attempts[number].how == NO_MACHINE:
                names.add(attempts[number].offer_name or "")
            case _:
                continue
    return names


def _lost_zone(books: Books) -> tuple[str | None, ...] | None:
    """Where the last machine was taken away; `None` where the last attempt was not."""
    had = [attempt for attempt in books.attempts if attempt.how not in (None, NO_MACHINE)]
    if not had or had[-1].how not in ("lost", "interrupted") or not had[-1].offer.get("spot"):
        return None
    return _zone(Offer.from_json(had[-1].offer))


def _zone(offer: Offer) -> tuple[str | None, ...]:
    return offer.cloud, offer.region, offer.zone


# ---- what is left ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Left:
    """What is left to spend, and what is left to do."""

    usd: Decimal
    """For machines [USD]."""
    hours: Decimal | None
    """`None`: no limit."""
    train: Decimal
    """Share of the training."""
    done: frozenset[str]
    """Lines that are over."""

    def allows(self, alternative: Alternative) -> bool:
        """Whether the careful estimate of the rest fits what is left."""
        hours = sum(
            (
                each * (self.train if name == "train" else 1)
                for name, each in alternative.careful_hours.items()
                if name not in self.done
            ),
            Decimal(0),
        )
        offer = alternative.offer
        fits = max(hours * offer.usd_per_hour, beginning_usd(offer)) <= self.usd
        return fits and (self.hours is None or hours <= self.hours)


def _left(plan: Plan, books: Books) -> _Left | None:
    """`None` where the run never fitted: a person took what it would come to (--accept-partial)."""
    budget, limit = from_micro_usd(books.budget_micro_usd), books.opened.hours
    if plan.usd.p90 > budget or (limit is not None and plan.hours.p90 > limit):
        return None
    spent = from_micro_usd(books.spent_micro_usd)
    asked = from_micro_usd(books.lines.get("teacher_api", 0))
    still_to_ask = max(Decimal(0), plan.usd_of("teacher_api").p90 - asked)
    has = frozenset(line for line, micro_usd in books.lines.items() if micro_usd)
    answered = "train" in has or ANSWERED in {attempt.how for attempt in books.attempts}
    return _Left(
        usd=budget - spent - (Decimal(0) if answered else still_to_ask),
        hours=None if limit is None else limit - books.hours_used,
        train=Decimal(0) if "evaluate" in has else 1 - _trained(plan, books),
        done=frozenset({"generate"} if answered else ()),
    )


def _trained(plan: Plan, books: Books) -> Decimal:
    """Share of the training that is done and kept: the least that its paid hours can have been."""
    careful = {each.offer.name: each.careful_hours["train"] for each in plan.alternatives}
    own = plan.alternatives[0].careful_hours["train"]
    shares = (
        hours / careful.get(attempt.offer_name or "", own)
        for attempt, hours in _paid_hours(books, "train")
    )
    return min(Decimal(1), sum(shares, Decimal(0)))


def _paid_hours(books: Books, line: Line) -> Iterator[tuple[Attempt, Decimal]]:
    """Hours of each attempt that its settled money for a line stands for."""
    settled = {
        recorded.entry.reservation: recorded.entry.lines
        for recorded in books.entries
        if isinstance(recorded.entry, Settled)
    }
    for attempt in books.attempts:
        micro_usd = settled.get(attempt.reservation or "", {}).get(line, 0)
        if micro_usd and attempt.usd_per_hour:
            yield attempt, from_micro_usd(micro_usd) / attempt.usd_per_hour
