"""A run's books in its run store, where any machine with credentials finds them.

    books/00000001.jsonl    lines: who drives the run, and what that home's ledger says of it
    books/00000002.jsonl    the lines after those

Whoever writes first says which home it is; what stands below is written by that home. Lines are put
only where none are: of two homes that write, one comes first at each number, and the other one
finds lines that are not its own, so that the books never fork.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, FiniteFloat, ValidationError

from recipes.errors import InvalidInputError
from recipes.recipe import Part
from recipes.store import Store
from tracking.books import Books, Recorded, fold
from tracking.entries import ENTRIES, AttemptStarted, Entry

FOLDER = "books"

_DRIVER = "driver"


class Driver(Part):
    """A process that drives a run, or changes its books."""

    home: str
    """Tells one home from another, also on one machine: drawn by chance."""
    host: str
    """Who and where, for people: `ada@laptop`."""
    pid: int


@dataclass(frozen=True)
class Said:
    """One line: an entry of the ledger, or who writes from here on."""

    at: float
    """When it was written down first [unix s]."""
    what: Entry | Driver


class _Line(Part):
    version: Literal[1] = 1
    run: str
    n: int = Field(ge=1)
    """Counts the lines of a run, so that a missing one is noticed."""
    at: FiniteFloat
    kind: str
    data: dict[str, Any]


class SharedBooks:
    """The books of one run in a store, as far as they have been read. For one thread.

    Args:
        store: of the run, or with `below` of many runs.
        run_id: what every line has to be about.
        below: the run's own folder in the store.
    """

    def __init__(self, store: Store, run_id: str, below: str = "") -> None:
        self._store = store
        self._folder = f"{below}/{FOLDER}" if below else FOLDER
        self._batches = 0
        self.run_id = run_id
        self.said: list[Said] = []

    def catch_up(self) -> None:
        """Read what is new.

        Raises:
            StoreError: the store could not be read.
            InvalidInputError: what is there is damaged or strange. What was read stays.
        """
        for stored in self._store.entries(self._folder, self._key(self._batches)):
            if stored.key != self._key(self._batches + 1):
                raise InvalidInputError(
                    f"{self._store.url}/{stored.key} does not follow on number {self._batches}: "
                    "something was deleted or put there. Restore it, or give this run up"
                )
            self.said += self._parse(stored.key, self._store.get_bytes(stored.key))
            self._batches += 1

    def append(self, said: Sequence[Said]) -> bool:
        """Put lines behind those that were read; whether they are there. Not, if somebody came
        first, or if an earlier call has put something although its answer was lost: read on.

        Raises:
            StoreError: the store did not answer; they may be there or not.
        """
        lines = [
            self._line(len(self.said) + number, one).model_dump_json()
            for number, one in enumerate(said, 1)
        ]
        content = "".join(f"{line}\n" for line in lines).encode()
        key = self._key(self._batches + 1)
        if not self._store.put_bytes(key, content, only_if_new=True):
            return False
        self._batches += 1
        self.said += said
        return True

    # ---- what they say

    @property
    def entries(self) -> list[tuple[float, Entry]]:
        """Of the ledger, each with the moment at which it was written."""
        return [(one.at, one.what) for one in self.said if isinstance(one.what, Entry)]

    @property
    def driver(self) -> Driver | None:
        """Who wrote last; `None` where nobody has."""
        return next((s.what for s in reversed(self.said) if isinstance(s.what, Driver)), None)

    def author(self, attempt: int) -> Driver | None:
        """Who started an attempt; `None` where that is not said."""
        writes: Driver | None = None
        for one in self.said:
            if isinstance(one.what, Driver):
                writes = one.what
            elif isinstance(one.what, AttemptStarted) and one.what.attempt == attempt:
                return writes
        return None

    def books(self) -> Books:
        """
        Raises:
            InvalidInputError: they do not begin with what opens the run.
        """
        recorded = [
            Recorded(number, self.run_id, at, entry)
            for number, (at, entry) in enumerate(self.entries, 1)
        ]
        try:
            return fold(recorded)
        except ValueError as error:
            raise InvalidInputError(
                f"{self._store.url}/{self._folder} holds no whole books: {error}"
            ) from error

    # ---- lines

    def _key(self, number: int) -> str:
        return f"{self._folder}/{number:08d}.jsonl"

    def _line(self, n: int, said: Said) -> _Line:
        kind = _DRIVER if isinstance(said.what, Driver) else said.what.kind
        data = said.what.model_dump(mode="json")
        return _Line(run=self.run_id, n=n, at=said.at, kind=kind, data=data)

    def _parse(self, key: str, content: bytes) -> list[Said]:
        where = f"{self._store.url}/{key}"
        if not content.endswith(b"\n"):
            raise _damaged(where, "its last line is cut off")
        found: list[Said] = []
        for raw in content.splitlines():
            n = len(self.said) + len(found) + 1
            try:
                line = _Line.model_validate_json(raw)
                model = Driver if line.kind == _DRIVER else ENTRIES[line.kind]
                # As JSON, in which an amount stands as the ledger itself reads it.
                what = model.model_validate_json(json.dumps(line.data))
            except (KeyError, ValidationError) as error:
                raise _damaged(where, f"line {n} of the books cannot be read") from error
            if line.run != self.run_id:
                raise _damaged(where, f"line {n} is about {line.run!r} and not {self.run_id}")
            if line.n != n:
                raise _damaged(where, f"line {line.n} stands where line {n} should")
            found.append(Said(line.at, what))
        return found


def _damaged(where: str, what: str) -> InvalidInputError:
    return InvalidInputError(
        f"{where} is damaged, or of another version: {what}. Nothing was changed here; restore it, "
        "or update stillhouse"
    )
