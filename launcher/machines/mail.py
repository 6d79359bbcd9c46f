"""What launcher and worker send each other through the run store, from the launcher's side.

A store that does not answer is no news, and so is a disk without room: the worker goes on without
them, and they are tried again.
"""

from collections.abc import Callable
from contextlib import suppress

from recipes.rundir import Limits, RunDir, read_model
from recipes.store import Store, StoreError, open_store
from recipes.store_lines import LineSender
from recipes.stored_run import EventMirror, ask_to_save, leaving, withdraw_results


class StoreMail:
    """Mail over the store that the run's limits name.

    Args:
        open_store: `url -> store`.
    """

    def __init__(self, open_store: Callable[[str], Store] = open_store) -> None:
        self._open_store = open_store
        self._mirrors: dict[RunDir, EventMirror] = {}

    def send(self, run: RunDir) -> None:
        """Send what was written here: answers that a teacher was asked for from this machine.

        Raises:
            StoreError: the store did not take it, and a worker that began would pay for it again.
        """
        store = self._store(run)
        for path in (run.traces, run.events):  # in this order: events tell of traces
            LineSender(store, path.stem, path).send()

    def fetch(self, run: RunDir) -> None:
        if run not in self._mirrors:
            self._mirrors[run] = EventMirror(self._store(run), run)
        try:
            self._mirrors[run].fetch()
        except (StoreError, OSError) as error:  # OSError: there is no room here
            with suppress(OSError), (run.path / "store.log").open("a") as log:
                log.write(f"{error}\n")

    def ask_to_save(self, run: RunDir, by: float | None = None) -> None:
        ask_to_save(self._store(run), read_model(run.limits, Limits).attempt, by)

    def leaving(self, run: RunDir, attempt: int) -> list[float]:
        try:
            return leaving(self._store(run), attempt)
        except StoreError:
            return []

    def withdraw(self, run: RunDir) -> None:
        withdraw_results(self._store(run))

    def _store(self, run: RunDir) -> Store:
        url = read_model(run.limits, Limits).store
        assert url is not None, "a run on rented machines has a store"
        return self._open_store(url)
