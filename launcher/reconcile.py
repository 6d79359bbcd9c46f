"""A run's dollars by us and by AWS, side by side. Pure: AWS's word comes in as days.

AWS's figure never replaces ours: it becomes an entry of its own in the ledger. What AWS has no row
for is unknown, and not $0.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from launcher.machines.aws import RUN_TAG
from launcher.machines.aws_costs import SOURCE, DayCost
from launcher.market.offers import LOCAL
from recipes.errors import RefusedError
from recipes.money import from_micro_usd, to_micro_usd
from tracking.books import Attempt, Books
from tracking.entries import Billed

SETTLES = timedelta(hours=48)
"""So long after a day's end AWS may still change it, whatever it says."""

THE_SAME = Decimal("0.01")
"""A difference below this needs no reason [USD]."""

ACTIVATE = (
    f"AWS counts a tag only from when it is activated for cost allocation: in the Billing console "
    f"under Cost allocation tags, or by the account that pays: `aws ce "
    f"update-cost-allocation-tags-status --cost-allocation-tags-status "
    f"TagKey={RUN_TAG},Status=Active`. A tag is listed there a day after it was first used, works "
    f"a day after it was activated, and for earlier days after `aws ce "
    f"start-cost-allocation-tag-backfill`"
)


@dataclass(frozen=True)
class Day:
    """One day [UTC], as AWS charges it."""

    day: date
    usd: Decimal | None
    """`None`: AWS has no row for it."""
    final: bool
    """Whether AWS will likely not change it any more."""
    rented: bool
    """Whether a machine of the run ran on it, by our books."""


@dataclass(frozen=True)
class Reconciled:
    """Both figures for what a run rented on AWS."""

    run_id: str
    metered_usd: Decimal
    """By us, for machines on AWS alone."""
    elsewhere_usd: Decimal
    """By us, for what AWS does not bill: a teacher's endpoint, other clouds, machines at home."""
    billed_usd: Decimal | None
    """By AWS; `None`: it has no row."""
    final: bool
    days: tuple[Day, ...]
    services: dict[str, Decimal]
    """AWS's figure by service [USD], the dearest first."""
    reasons: tuple[str, ...]
    """Why the figures may differ, or why AWS's is unknown."""

    @property
    def difference_usd(self) -> Decimal | None:
        """AWS's figure less ours; `None` is unknown."""
        return None if self.billed_usd is None else self.billed_usd - self.metered_usd

    def entry(self) -> Billed | None:
        """What the ledger is told; `None` where AWS has said nothing, or no bill's sum."""
        if self.billed_usd is None or self.billed_usd < 0:
            return None
        only = "" if self.elsewhere_usd == 0 else "; machines on AWS alone"
        return Billed(
            micro_usd=to_micro_usd(self.billed_usd), final=self.final, source=SOURCE + only
        )

    def as_json(self) -> dict[str, Any]:
        """For programs: dollars as strings, unknown as null."""
        return {
            "run_id": self.run_id,
            "metered_usd": str(self.metered_usd),
            "elsewhere_usd": str(self.elsewhere_usd),
            "billed_usd": _text(self.billed_usd),
            "final": self.final,
            "difference_usd": _text(self.difference_usd),
            "source": SOURCE,
            "days": [
                {"day": day.day.isoformat(), "usd": _text(day.usd), "final": day.final}
                for day in self.days
            ],
            "services": {service: str(usd) for service, usd in self.services.items()},
            "reasons": list(self.reasons),
        }


def days_of(books: Books, now: float) -> tuple[date, date]:
    """The days on which AWS may have charged a run: the first, and the one after the last [UTC].

    A day is added at the end: a machine of 23:59 may be charged on the next one.

    Raises:
        RefusedError: it has rented nothing on AWS.
    """
    attempts = _on_aws(books)
    if not attempts:
        raise RefusedError(_not_on_aws(books))
    first = min(_day(attempt.started_at) for attempt in attempts)
    last = max(_day(_end(attempt, now)) for attempt in attempts)
    return first, min(last + timedelta(days=1), _day(now)) + timedelta(days=1)


def reconcile(books: Books, said: Iterable[DayCost], now: float) -> Reconciled:
    """Both figures, and why they may differ.

    Args:
        said: what AWS answered for the days of `days_of`.
        now: unix seconds.

    Raises:
        RefusedError: it has rented nothing on AWS.
    """
    days_of(books, now)
    said = list(said)
    attempts = _on_aws(books)
    days = tuple(_judged(cost, attempts, now) for cost in said)
    known = [day.usd for day in days if day.usd is not None]
    billed = sum(known, Decimal(0)) if known else None
    metered = sum(_settled_micro_usd(books, attempt) for attempt in attempts)
    ours = from_micro_usd(metered)
    # A day that AWS has no row for, and a machine that runs, will come to more.
    whole = all(day.final and not (day.rented and day.usd is None) for day in days)
    settled = all(attempt.ended_at is not None for attempt in attempts)
    return Reconciled(
        run_id=books.run_id,
        metered_usd=ours,
        elsewhere_usd=from_micro_usd(books.spent_micro_usd - metered),
        billed_usd=billed,
        final=billed is not None and whole and settled,
        days=days,
        services=_by_service(said),
        reasons=tuple(_reasons(books, attempts, days, ours, billed)),
    )


# ---- the days --------------------------------------------------------------------------------


def _judged(cost: DayCost, attempts: Sequence[Attempt], now: float) -> Day:
    midnight = datetime.combine(cost.day + timedelta(days=1), datetime.min.time(), UTC)
    settled = datetime.fromtimestamp(now, UTC) - midnight >= SETTLES
    return Day(
        day=cost.day,
        usd=sum(cost.usd_of.values(), Decimal(0)) if cost.usd_of else None,
        final=settled and not cost.estimated,
        rented=any(
            _day(attempt.started_at) <= cost.day <= _day(_end(attempt, now)) for attempt in attempts
        ),
    )


def _by_service(said: Iterable[DayCost]) -> dict[str, Decimal]:
    total: dict[str, Decimal] = defaultdict(Decimal)
    for cost in said:
        for service, usd in cost.usd_of.items():
            total[service] += usd
    return dict(sorted(total.items(), key=lambda pair: (-pair[1], pair[0])))


def _day(moment: float) -> date:
    return datetime.fromtimestamp(moment, UTC).date()


def _end(attempt: Attempt, now: float) -> float:
    return now if attempt.ended_at is None else attempt.ended_at


# ---- our own figure --------------------------------------------------------------------------


def _on_aws(books: Books) -> list[Attempt]:
    return [attempt for attempt in books.attempts if attempt.offer.get("cloud") == "aws"]


def _settled_micro_usd(books: Books, attempt: Attempt) -> int:
    return 0 if attempt.reservation is None else books.settled_micro_usd(attempt.reservation)


def _not_on_aws(books: Books) -> str:
    clouds = sorted({str(attempt.offer.get("cloud", "unknown")) for attempt in books.attempts})
    if not clouds:
        return f"{books.run_id} has rented nothing yet, so there is nothing to compare"
    if clouds == [LOCAL]:
        return f"{books.run_id} ran on this machine: nobody sends a bill for it"
    return (
        f"{books.run_id} ran on {', '.join(clouds)}, and only AWS can be asked what it charges. "
        "Look at that provider's bill; `still show` has our own figure"
    )


# ---- why they may differ ---------------------------------------------------------------------


def _reasons(
    books: Books,
    attempts: Sequence[Attempt],
    days: Sequence[Day],
    ours: Decimal,
    billed: Decimal | None,
) -> Iterator[str]:
    if any(attempt.ended_at is None for attempt in attempts):
        yield "a machine of it runs yet: what it costs now is in neither figure"
    if billed is None:
        yield (
            f"AWS has no costs with the tag {RUN_TAG}={books.run_id} yet, which does not mean $0: "
            "they come up to a day late"
        )
        yield ACTIVATE
        return
    if moving := sum(not day.final for day in days):
        yield (
            f"{moving} of {len(days)} days are not final: AWS changes a day for 48 hours at least, "
            "and calls it an estimate until the month's bill is closed"
        )
    missing = [day.day.isoformat() for day in days if day.rented and day.usd is None]
    if missing:
        yield f"no row for {', '.join(missing)}, though a machine ran then. {ACTIVATE}"
    if abs(billed - ours) >= THE_SAME:
        yield from _of_price(attempts, more=billed > ours)


def _of_price(attempts: Sequence[Attempt], *, more: bool) -> Iterator[str]:
    spot = {bool(attempt.offer.get("spot")) for attempt in attempts}
    if True in spot:
        yield "spot prices move while a machine runs: we count the price at which it was rented"
    if more:
        yield (
            "disks, public addresses and data transfer of the machines carry the tag too, and are "
            "not metered here"
        )
    elif False in spot:
        yield "a discount or a savings plan of the account lowers what AWS charges on demand"
    yield "AWS puts no tag on taxes; credits and refunds are left out of its figure here"


def _text(usd: Decimal | None) -> str | None:
    return None if usd is None else f"{usd:f}"
