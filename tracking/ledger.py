"""The ledger: one append-only table, and the only source of money figures.

Reserve, then settle: nothing is bought that was not reserved first, and a reservation is refused
where spent + reserved would pass the budget. What stands in the table is never changed (triggers
see to it); everything else is derived from it by `tracking.books`. Each write is one transaction,
synced to disk before it returns, so a crash leaves either all of it or nothing; any number of
processes may read and write at the same time.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from recipes.errors import InvalidInputError, RefusedError
from recipes.money import format_usd, from_micro_usd
from tracking.books import Books, Recorded, fold
from tracking.database import LedgerError, open_database
from tracking.entries import ENTRIES, Entry, Extended, Line, Opened, Reserved, Settled
from tracking.replay import fault_in

_COLUMNS = "seq, run_id, at, kind, data"
_SHOWN_CANDIDATES = 10


class RecordedTwiceError(RefusedError):
    """Something that happens once stands in the ledger already, so this was not recorded."""

    def __init__(self, run_id: str, what: str) -> None:
        self.run_id = run_id
        self.what = what
        super().__init__(run_id, what)

    def __str__(self) -> str:
        return (
            f"the ledger has {self.what} of {self.run_id} already, perhaps from another process. "
            "Nothing was recorded"
        )


class OverBudgetError(RefusedError):
    """A reservation would pass the budget, so nothing was reserved. Amounts in micro-dollars."""

    def __init__(self, asked: int, budget: int, spent: int, reserved: int) -> None:
        self.asked = asked
        self.budget = budget
        self.spent = spent
        self.reserved = reserved
        super().__init__(asked, budget, spent, reserved)

    def __str__(self) -> str:
        asked, budget, spent, reserved = (
            format_usd(from_micro_usd(amount))
            for amount in (self.asked, self.budget, self.spent, self.reserved)
        )
        return (
            f"{asked} more would pass the budget of {budget}: {spent} is spent and {reserved} "
            "reserved. Nothing was bought. Raise the budget, or do less"
        )


class Ledger:
    """The open ledger. One connection; threads take turns.

    Args:
        path: the database; made, with mode 600, where there is none.
        clock: gives the time of an entry [unix seconds].
        patience_s: how long to wait for another process that is writing [s].

    Raises:
        InvalidInputError: what stands at `path` is no ledger, or is of a newer stillhouse.
        LedgerError: it cannot be opened.
    """

    def __init__(
        self, path: Path, clock: Callable[[], float] = time.time, patience_s: float = 30.0
    ) -> None:
        self.path = path
        self._clock = clock
        self._lock = threading.RLock()
        self._known: dict[str, Books] = {}
        with self._explained():
            self._db = open_database(path, patience_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    # ---- writing

    def open_run(self, run_id: str, opened: Opened) -> None:
        """Begin the books of a run.

        Raises:
            RecordedTwiceError: there is a run of that id.
        """
        with self._writing():
            self._insert(run_id, opened)

    def append(self, run_id: str, *entries: Entry) -> None:
        """Record what happened: all of the entries or, after a crash, none.

        Money goes through `reserve`, `extend` and `settle`, which check first.

        Raises:
            InvalidInputError: there is no such run.
            RecordedTwiceError: one of them happens once, and stands there already.
        """
        _check_no_money(entries)
        with self._writing():
            if run_id not in self._known and run_id not in self.run_ids():
                raise self._unknown(run_id)
            for entry in entries:
                self._insert(run_id, entry)

    def reserve(self, run_id: str, line: Line, micro_usd: int, why: str = "") -> str:
        """Set money aside before buying something. Returns the reservation's id.

        Raises:
            InvalidInputError: there is no such run.
            OverBudgetError: spent + reserved + this would pass the budget; nothing was written.
        """
        with self._writing():
            books = self.books(run_id)
            _check_budget(books, micro_usd)
            reservation = f"{run_id}/{books.reservation_count + 1}"
            self._insert(
                run_id,
                Reserved(reservation=reservation, line=line, micro_usd=micro_usd, why=why),
            )
        return reservation

    def extend(self, reservation: str, micro_usd: int, why: str = "") -> None:
        """Add to an open reservation, such as the next lease of a machine.

        Raises:
            InvalidInputError: there is no such reservation.
            RecordedTwiceError: it is settled already.
            OverBudgetError: spent + reserved + this would pass the budget; nothing was written.
        """
        with self._writing():
            books = self._books_of(reservation)
            if reservation not in {known.id for known in books.reservations}:
                raise RecordedTwiceError(books.run_id, f"the settlement {reservation}")
            _check_budget(books, micro_usd)
            self._insert(
                books.run_id, Extended(reservation=reservation, micro_usd=micro_usd, why=why)
            )

    def settle(self, reservation: str, lines: Mapping[Line, int], *along: Entry) -> None:
        """Replace a reservation by what it came to [micro-dollars a line]. Happens once.

        More than was reserved is recorded as it is, and shown as an overshoot.

        Args:
            along: what is recorded with it or not at all, such as the end of the attempt it paid.

        Raises:
            InvalidInputError: there is no such reservation.
            RecordedTwiceError: it, or something of `along`, stands there already.
        """
        _check_no_money(along)
        with self._writing():
            books = self._books_of(reservation)
            self._insert(books.run_id, Settled(reservation=reservation, lines=dict(lines)))
            for entry in along:
                self._insert(books.run_id, entry)

    def release(self, reservation: str) -> None:
        """Settle with nothing: it was not bought. Raises as `settle` does."""
        self.settle(reservation, {})

    def take_in(self, run_id: str, entries: Sequence[tuple[float, Entry]]) -> int:
        """Take in the books of a run from elsewhere: what is not here yet, or nothing.

        Args:
            entries: all that are shared of the run (`Books.shared`), each with its moment
                [unix seconds], which is kept.

        Returns:
            How many were new.

        Raises:
            InvalidInputError: no ledger would have written them, or this one says other things of
                the run.
        """
        if fault := fault_in(run_id, [entry for _, entry in entries]):
            raise InvalidInputError(
                f"these books of {run_id} are no ledger's: {fault}. Nothing was taken in"
            )
        with self._writing():
            have = self.books(run_id).shared if run_id in self.run_ids() else []
            for number, (ours, theirs) in enumerate(zip(have, entries, strict=False), 1):
                if ours != theirs:
                    raise InvalidInputError(
                        f"{self.path} has other books of {run_id}: entry {number} is "
                        f"{ours[1].kind} here and {theirs[1].kind} there. Nothing was taken in; "
                        "another STILLHOUSE_HOME can take them"
                    )
            new = entries[len(have) :]
            for at, entry in new:
                self._insert(run_id, entry, at)
        return len(new)

    # ---- reading

    def books(self, run_id: str) -> Books:
        """The books of one run.

        Raises:
            InvalidInputError: there is no such run.
        """
        books = self._find_books(run_id)
        if books is None:
            raise self._unknown(run_id)
        return books

    def runs(self) -> list[Books]:
        """The books of all runs, newest first."""
        by_run = sorted(self._rows(""), key=lambda recorded: recorded.run_id)
        books = [
            self._fold(rows) for _, rows in groupby(by_run, key=lambda recorded: recorded.run_id)
        ]
        return sorted(books, key=lambda one: one.entries[0].seq, reverse=True)

    def run_ids(self) -> list[str]:
        """All runs, newest first."""
        with self._lock, self._explained():
            rows = self._db.execute(
                "SELECT run_id FROM entries WHERE kind = 'opened' ORDER BY seq DESC"
            )
            return [run_id for (run_id,) in rows]

    def resolve(self, text: str) -> str:
        """The run that a person means by a whole id, the beginning of one, or `latest`.

        Raises:
            InvalidInputError: none or several; lists what could be meant.
        """
        known = self.run_ids()
        if not known:
            raise InvalidInputError(f"{self.path} has no runs yet. `still launch` makes one")
        if text == "latest":
            return known[0]
        if text in known:
            return text
        found = [run_id for run_id in known if text and run_id.startswith(text)]
        if len(found) == 1:
            return found[0]
        if found:
            raise InvalidInputError(f"{text!r} may be any of {_listed(found)}. Give more of it")
        raise InvalidInputError(f"no run begins with {text!r}. There are {_listed(known)}")

    # ---- the database

    def _unknown(self, run_id: str) -> InvalidInputError:
        return InvalidInputError(f"{self.path} knows no run {run_id!r}. `still ls` lists all")

    def _books_of(self, reservation: str) -> Books:
        run_id, _, _ = reservation.rpartition("/")
        books = self._find_books(run_id)
        if books is None or not books.has_reserved(reservation):
            raise InvalidInputError(f"{self.path} knows no reservation {reservation!r}")
        return books

    def _find_books(self, run_id: str) -> Books | None:
        """The books of a run. Only what is new is read: what stands there never changes."""
        with self._lock:
            books = self._known.get(run_id)
            seen = books.last_seq if books else 0
            if new := self._rows("WHERE run_id = ? AND seq > ?", run_id, seen):
                books = self._fold((*books.entries, *new) if books else new)
                if not self._db.in_transaction:  # which may yet be rolled back
                    self._known[run_id] = books
            return books

    def _rows(self, where: str, *values: str | int) -> list[Recorded]:
        with self._lock, self._explained():
            rows = self._db.execute(
                f"SELECT {_COLUMNS} FROM entries {where} ORDER BY seq",  # noqa: S608 - our words
                values,
            ).fetchall()
        return [self._read(*row) for row in rows]

    def _fold(self, rows: Iterable[Recorded]) -> Books:
        try:
            return fold(rows)
        except ValueError as error:
            raise InvalidInputError(
                f"{self.path} is damaged: {error}. Nothing was changed in it; put a copy back"
            ) from error

    def _read(self, seq: int, run_id: str, at: float, kind: str, data: str) -> Recorded:
        try:
            return Recorded(seq, run_id, at, ENTRIES[kind].model_validate_json(data))
        except (KeyError, ValidationError) as error:
            raise InvalidInputError(
                f"{self.path}: entry {seq} ({kind}) cannot be read by this version of stillhouse"
            ) from error

    def _insert(self, run_id: str, entry: Entry, at: float | None = None) -> None:
        moment = self._clock() if at is None else at
        row = (run_id, moment, entry.kind, entry.once, entry.model_dump_json())
        try:
            self._db.execute(
                "INSERT INTO entries (run_id, at, kind, once, data) VALUES (?, ?, ?, ?, ?)", row
            )
        except sqlite3.IntegrityError as error:
            raise RecordedTwiceError(run_id, f"the entry {entry.once}") from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction that nobody else's write comes between."""
        with self._lock, self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise LedgerError(
                f"the ledger {self.path} cannot be used: {error}. Nothing was recorded by this; "
                "look at the disk, its room and who may write there"
            ) from error
        except sqlite3.DatabaseError as error:
            raise InvalidInputError(
                f"{self.path} is damaged or no ledger: {error}. Nothing was changed in it; move it "
                "away, or put a copy back"
            ) from error


def _check_no_money(entries: Iterable[Entry]) -> None:
    for entry in entries:
        if isinstance(entry, Opened | Reserved | Extended | Settled):
            raise TypeError(f"{entry.kind} has a method of its own")


def _check_budget(books: Books, asked: int) -> None:
    if asked > books.free_micro_usd:
        raise OverBudgetError(
            asked=asked,
            budget=books.budget_micro_usd,
            spent=books.spent_micro_usd,
            reserved=books.reserved_micro_usd,
        )


def _listed(run_ids: list[str]) -> str:
    shown = ", ".join(run_ids[:_SHOWN_CANDIDATES])
    more = len(run_ids) - _SHOWN_CANDIDATES
    return f"{shown} and {more} more" if more > 0 else shown
