"""The books of one run: what its ledger entries come to. Pure; nothing is kept but the entries."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from itertools import accumulate
from typing import Any, TypeVar

from recipes.money import SECONDS_PER_HOUR
from tracking.entries import (
    LINES,
    TERMINAL,
    AttemptEnded,
    AttemptStarted,
    Billed,
    BudgetRaised,
    Entry,
    Extended,
    Line,
    Noted,
    Opened,
    Repriced,
    Reserved,
    RunState,
    Settled,
    StateChanged,
    Teardown,
)
from tracking.prices import Price, Prices

MLFLOW_RUN = "mlflow_run_id"
"""Key of the note that names the run in MLflow."""

EntryT = TypeVar("EntryT", bound=Entry)


def is_shared(entry: Entry) -> bool:
    """Whether an entry is the run's own, and not of the home it stands in.

    Which run of MLflow shows it and what the provider says that it charges are asked anew by
    another home.
    """
    is_local_note = isinstance(entry, Noted) and entry.key == MLFLOW_RUN
    return not (is_local_note or isinstance(entry, Billed))


@dataclass(frozen=True)
class Recorded:
    """An entry as it stands in the ledger."""

    seq: int
    """Rises with every entry of the whole ledger."""
    run_id: str
    at: float
    """When it was written [unix seconds]."""
    entry: Entry


@dataclass(frozen=True)
class State:
    state: RunState
    reason: str
    at: float
    """Since when [unix seconds]."""


@dataclass(frozen=True)
class Attempt:
    """One machine, from its first paid second to its last."""

    number: int
    started_at: float
    ended_at: float | None
    """`None` while it still costs money."""
    how: str | None
    """How it ended."""
    usd_per_hour: Decimal
    price_source: str
    price_as_of: float | None
    offer: dict[str, Any]
    reservation: str | None
    repriced: tuple[Price, ...] = ()
    """Changes of the price that were seen while it went on."""

    @property
    def prices(self) -> Prices:
        """What all its machines together cost, as far as it was seen."""
        return Prices((Price(self.started_at, self.usd_per_hour), *self.repriced))

    @property
    def offer_name(self) -> str | None:
        """What was rented, for people; `None` is unknown."""
        name = self.offer.get("name")
        return None if name is None else str(name)


NO_MACHINE = "no machine"
"""How an attempt ended for which none could be had."""


@dataclass(frozen=True)
class Reservation:
    """Money set aside, and not settled yet."""

    id: str
    line: Line
    micro_usd: int
    why: str
    at: float
    """Since when [unix seconds]."""


@dataclass(frozen=True)
class Overshoot:
    """Something cost more than was reserved for it. Recorded as it was, since truth comes first."""

    reservation: str
    reserved_micro_usd: int
    settled_micro_usd: int


@dataclass(frozen=True)
class Books:
    """Everything the ledger knows about one run. Amounts in micro-dollars."""

    entries: tuple[Recorded, ...]

    @property
    def run_id(self) -> str:
        return self.entries[0].run_id

    @property
    def opened(self) -> Opened:
        entry = self.entries[0].entry
        assert isinstance(entry, Opened)
        return entry

    @property
    def opened_at(self) -> float:
        """When the run was opened [unix seconds]."""
        return self.entries[0].at

    @property
    def recipe_name(self) -> str:
        return str(self.opened.recipe.get("name", "unknown"))

    @property
    def shared(self) -> list[tuple[float, Entry]]:
        """What other homes are told of the run, each with its moment [unix seconds]."""
        return [(one.at, one.entry) for one in self.entries if is_shared(one.entry)]

    @property
    def last_seq(self) -> int:
        """Of the newest entry."""
        return self.entries[-1].seq

    @property
    def last_at(self) -> float:
        """When something last happened to the run, notes aside [unix seconds]."""
        return max(one.at for one in self.entries if not isinstance(one.entry, Noted))

    # ---- money

    @cached_property
    def budget_micro_usd(self) -> int:
        raised = sum(entry.micro_usd for _, entry in self._all(BudgetRaised))
        return self.opened.budget_micro_usd + raised

    @cached_property
    def lines(self) -> dict[Line, int]:
        """What was spent, by line; only lines that something was settled on."""
        spent: Counter[Line] = Counter()
        for _, entry in self._all(Settled):
            spent.update(entry.lines)
        return {line: spent[line] for line in LINES if line in spent}

    @cached_property
    def spent_micro_usd(self) -> int:
        return sum(self.lines.values())

    @cached_property
    def reservations(self) -> tuple[Reservation, ...]:
        """The open ones, oldest first."""
        settled = {entry.reservation for _, entry in self._all(Settled)}
        return tuple(
            Reservation(
                id=entry.reservation,
                line=entry.line,
                micro_usd=self._reserved_in_all[entry.reservation],
                why=entry.why,
                at=recorded.at,
            )
            for recorded, entry in self._all(Reserved)
            if entry.reservation not in settled
        )

    @cached_property
    def reserved_micro_usd(self) -> int:
        """Set aside by open reservations."""
        return sum(reservation.micro_usd for reservation in self.reservations)

    @property
    def free_micro_usd(self) -> int:
        """What can still be reserved. Below 0 only where something cost more than reserved."""
        return self.budget_micro_usd - self.spent_micro_usd - self.reserved_micro_usd

    @cached_property
    def overshoots(self) -> tuple[Overshoot, ...]:
        return tuple(
            Overshoot(entry.reservation, reserved, entry.micro_usd)
            for _, entry in self._all(Settled)
            if entry.micro_usd > (reserved := self._reserved_in_all[entry.reservation])
        )

    @cached_property
    def _reserved_in_all(self) -> Counter[str]:
        amounts: Counter[str] = Counter()
        for recorded in self.entries:
            if isinstance(recorded.entry, Reserved | Extended):
                amounts[recorded.entry.reservation] += recorded.entry.micro_usd
        return amounts

    def settled_micro_usd(self, reservation: str) -> int:
        """What a reservation came to; 0 while it is open."""
        return sum(e.micro_usd for _, e in self._all(Settled) if e.reservation == reservation)

    def has_reserved(self, reservation: str) -> bool:
        """Whether there ever was such a reservation, open or not."""
        return reservation in self._reserved_in_all

    @property
    def reservation_count(self) -> int:
        """Reservations ever made, open or not."""
        return sum(1 for _ in self._all(Reserved))

    @property
    def billed(self) -> Billed | None:
        """The provider's newest figure; `None` is unknown yet."""
        return self._newest(Billed)

    # ---- what happened

    @cached_property
    def states(self) -> tuple[State, ...]:
        """All states, oldest first. A run that was only opened is planned."""
        changes = (State(e.state, e.reason, recorded.at) for recorded, e in self._all(StateChanged))
        return (State("planned", "", self.opened_at), *changes)

    @property
    def state(self) -> RunState:
        return self.states[-1].state

    @property
    def reason(self) -> str:
        """Why it is in its state, in words for people; may be empty."""
        return self.states[-1].reason

    @property
    def over(self) -> bool:
        """Whether nothing more happens unless a person resumes the run."""
        return self.state in TERMINAL

    @cached_property
    def attempts(self) -> tuple[Attempt, ...]:
        ends = {entry.attempt: entry for _, entry in self._all(AttemptEnded)}
        changes = [change for _, change in self._all(Repriced)]
        return tuple(
            _attempt(entry, ends.get(entry.attempt), changes) for _, entry in self._starts()
        )

    @property
    def machines(self) -> tuple[Attempt, ...]:
        """The attempts that had what an hour is paid for, or may still have it. Not those for which
        no machine could be had, nor one that asked a teacher from here, where machines are
        rented."""
        rented = not self.opened.recipe.get("hardware", {}).get("local")
        return tuple(
            attempt
            for attempt in self.attempts
            if attempt.how != NO_MACHINE and not (rented and attempt.offer.get("cloud") == "local")
        )

    @property
    def raised_since_attempt(self) -> bool:
        """Whether the budget was raised after the newest attempt had begun."""
        began = [one.seq for one, _ in self._all(AttemptStarted)]
        raised = [one.seq for one, _ in self._all(BudgetRaised)]
        return bool(began and raised) and raised[-1] > began[-1]

    @property
    def hours_used(self) -> Decimal:
        """By attempts that are over [h]."""
        seconds = sum(a.ended_at - a.started_at for a in self.attempts if a.ended_at is not None)
        return Decimal(repr(seconds)) / SECONDS_PER_HOUR

    @property
    def open_attempt(self) -> Attempt | None:
        """The newest attempt, if its machine still costs money."""
        last = self.attempts[-1] if self.attempts else None
        return last if last and last.ended_at is None else None

    @property
    def teardown(self) -> Teardown | None:
        """The newest answer; `None` where nobody has asked yet."""
        return self._newest(Teardown)

    @cached_property
    def notes(self) -> dict[str, str]:
        return {entry.key: entry.value for _, entry in self._all(Noted)}

    @property
    def mlflow_run_id(self) -> str | None:
        return self.notes.get(MLFLOW_RUN)

    def _starts(self) -> list[tuple[Recorded, AttemptStarted]]:
        return sorted(self._all(AttemptStarted), key=lambda pair: pair[1].attempt)

    def _all(self, kind: type[EntryT]) -> Iterator[tuple[Recorded, EntryT]]:
        for recorded in self.entries:
            if isinstance(recorded.entry, kind):
                yield recorded, recorded.entry

    def _newest(self, kind: type[EntryT]) -> EntryT | None:
        found = [entry for _, entry in self._all(kind)]
        return found[-1] if found else None


def fold(entries: Iterable[Recorded]) -> Books:
    """The books that a run's entries come to, in the order of the ledger.

    Raises:
        ValueError: the first entry does not open a run, or an entry is of another run.
    """
    kept = tuple(entries)
    if not kept or not isinstance(kept[0].entry, Opened):
        raise ValueError("books begin with an entry that opens the run")
    strangers = {recorded.run_id for recorded in kept} - {kept[0].run_id}
    if strangers:
        raise ValueError(f"books of {kept[0].run_id} hold entries of {', '.join(strangers)}")
    return Books(kept)


def _attempt(
    started: AttemptStarted, ended: AttemptEnded | None, changes: list[Repriced]
) -> Attempt:
    return Attempt(
        number=started.attempt,
        started_at=started.started_at,
        ended_at=ended.ended_at if ended else None,
        how=ended.how if ended else None,
        usd_per_hour=started.usd_per_hour,
        price_source=started.price_source,
        price_as_of=started.price_as_of,
        offer=started.offer,
        reservation=started.reservation,
        repriced=_repriced(started, changes),
    )


def _repriced(started: AttemptStarted, changes: list[Repriced]) -> tuple[Price, ...]:
    own = [change for change in changes if change.attempt == started.attempt]
    # In the order of the ledger: the clocks of those who wrote them may differ.
    times = accumulate((max(change.at, started.started_at) for change in own), max)
    return tuple(Price(at, change.usd_per_hour) for at, change in zip(times, own, strict=True))
