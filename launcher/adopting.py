"""Adopting runs of a run store, as the command does it. `launcher.runs.adopt` knows how."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from launcher.machines.labels import this_owner
from launcher.outside import Outside
from launcher.runs.adopt import Adoption, Stored, find_stored, stored_runs
from recipes.errors import InvalidInputError
from recipes.store import WHILE_SOMEBODY_WAITS_S, FolderStore, Store, open_store


class Adopter:
    """A run store, and the home that takes runs from it.

    Args:
        url: of the store, as for `still launch --store`.
    """

    def __init__(self, outside: Outside, url: str) -> None:
        self._outside = outside
        self._url = url

    def runs(self) -> Sequence[Stored]:
        """All runs there, the newest first."""
        with self._outside.busy("reading the run store"):
            return stored_runs(self._store)

    def find(self, run_id: str) -> Stored:
        """One run there. Raises as `find_stored` does."""
        return find_stored(self._store, run_id)

    def take_books(self, run_id: str, *, with_student: bool) -> int:
        """Bring its books and its folder; how many entries were new."""
        with self._outside.busy(f"bringing {run_id}"):
            return self._adoption(run_id).take_books(with_student=with_student)

    def take_over(self, run_id: str) -> None:
        """The same, and have this home drive it: no other one does any more."""
        with self._outside.busy(f"bringing {run_id}"):
            self._adoption(run_id).take_over()

    @cached_property
    def _store(self) -> Store:
        store = open_store(self._url, self._outside.environ, WHILE_SOMEBODY_WAITS_S)
        if isinstance(store, FolderStore) and not Path(store.url).exists():
            raise InvalidInputError(f"there is no run store at {store.url}: no such folder")
        return store

    def _adoption(self, run_id: str) -> Adoption:
        outside, url = self._outside, f"{self._url.rstrip('/')}/{run_id}"
        store = open_store(url, outside.environ)

        def is_same(other: str) -> bool:
            try:
                return open_store(other, outside.environ).url == store.url
            except InvalidInputError:
                return False

        return Adoption(
            outside.home, outside.ledger, store, run_id, is_same, this_owner(), outside.clock
        )
