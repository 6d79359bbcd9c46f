"""The worker's side of the run store: what is worth keeping leaves this machine while it works.

Three threads, so that a checkpoint of many gigabytes holds up neither the signs of life nor the
student: one sends the lines of `events.jsonl` and `traces.jsonl`, one checkpoints, one everything
else. None of them ever raises into the training: what fails becomes a `warned` event and is tried
again. `done.json` goes when all the rest is there, but for a checkpoint that takes longer than the
money lasts.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from distill.outbox import Outbox
from distill.repeater import Repeater
from recipes.privacy import redacted
from recipes.rundir import CheckpointStored, Event, EventLog, Limits, RunDir, Warned
from recipes.store import Store, StoreError, open_store
from recipes.store_checkpoints import StoredCheckpoint
from recipes.store_lines import LineSender
from recipes.stored_run import asked_to_save, claim, claimed_by, restore

EVERY_S = 2.0
"""How often what is new is sent [s]."""

CLOSING_S = 900.0
"""Longest wait at the end for everything to be stored [s]."""


class OvertakenError(StoreError):
    """A later attempt writes to this run's store: this one was given up for lost."""


def bring_back(run: RunDir, limits: Limits) -> list[Warned]:
    """Bring home what is stored of a run. Call it before the event log is opened.

    Returns:
        What was passed over, to be written down once the log is open.

    Raises:
        StillhouseError: the store cannot be used; to begin all the same would be to pay twice.
    """
    warnings: list[Warned] = []

    def warn(message: str) -> None:
        event = Warned(t=time.time(), attempt=limits.attempt, code="restored", message=message)
        warnings.append(event)

    if limits.store is not None:
        restore(open_store(limits.store), run, warn)
    return warnings


@contextmanager
def mirrored(
    run: RunDir,
    limits: Limits,
    log: EventLog,
    on_stop: Callable[[float | None], None] = lambda _by: None,
    *,
    closing_s: float = CLOSING_S,
) -> "Iterator[Uploader | None]":
    """Keep the run's store up to date while the worker works; `None` where it has none.

    Args:
        on_stop: called when the worker is to save and end: now, also because a later attempt has
            begun, or so that all is saved by a moment [unix s].

    The last event and `done.json` are to be written inside: leaving sends them, and writes nothing
    to the log any more.

    Raises:
        StoreError: on leaving, unless for another error: not all could be stored in `closing_s`.
    """
    if limits.store is None:
        yield None
        return
    uploader = Uploader(open_store(limits.store), run, log, limits.attempt, on_stop=on_stop)
    uploader.start()
    try:
        yield uploader
    except BaseException:
        uploader.close(closing_s)
        raise
    if not uploader.close(closing_s):
        raise uploader.failure()


class Uploader:
    """Mirrors a run's folder to its store until it is closed."""

    def __init__(
        self,
        store: Store,
        run: RunDir,
        log: EventLog,
        attempt: int,
        *,
        on_stop: Callable[[float | None], None] = lambda _by: None,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            log: takes warnings, from any thread.
            attempt: of the worker. Once a later one has begun, this one sends nothing more.
        """
        self._store = store
        self._run = run
        self._log = log
        self._attempt = attempt
        self._on_stop = on_stop
        self._clock = clock
        self._pen = threading.Lock()
        self._claiming = threading.Lock()
        self._has_claimed = False
        self._is_closing = False
        self._is_ending = False
        self._troubles: dict[str, str] = {}
        self.overtaken = False
        """A later attempt has begun: what is done here is of no use any more, and the worker is
        asked to end."""
        self._outbox = Outbox(store, run, self._give_way, self._on_checkpoint)
        self._senders = [
            LineSender(store, path.stem, path, self._give_way)
            for path in (run.traces, run.events)  # in this order: events tell of traces
        ]
        self._checkpoint_until = math.inf  # of time.monotonic
        self._checkpoints = Repeater(
            "store-checkpoints", self.send_checkpoint, every_s, self._on_end
        )
        self._threads = (
            Repeater("store-files", self.send_files, every_s, self._on_end),
            Repeater("store-lines", self.send_lines, every_s, self._on_end),
            self._checkpoints,
        )

    def start(self) -> None:
        """Begin to send, in threads of its own."""
        for thread in self._threads:
            thread.start()

    def wait_for_checkpoint(self, within_s: float) -> None:
        """From now on a checkpoint that is not stored after so many seconds is let go.

        What the run was for is stored by then, and the machine goes when its money ends.
        """
        self._checkpoint_until = time.monotonic() + within_s

    def flush(self, within_s: float) -> bool:
        """Wait until everything there is by now is stored, `done.json` aside.

        Returns:
            Whether it was within so many seconds. If not, it is still being tried.
        """
        until = time.monotonic() + within_s
        asked = [(thread, thread.ask()) for thread in self._threads]
        return all(self._is_done(thread, ticket, until) for thread, ticket in asked)

    def close(self, within_s: float) -> bool:
        """The same, and `done.json` after it; then end. The log is left alone from now on."""
        until = time.monotonic() + within_s
        with self._pen:
            self._is_closing = True
        stored = self.flush(within_s)
        if stored:
            self._is_ending = True
            stored = self.flush(until - time.monotonic())
        for thread in self._threads:
            thread.stop()
        for thread in self._threads:
            thread.join(max(0.0, self._until(thread, until) - time.monotonic()))
        if stored and self._checkpoint_until < math.inf:
            with suppress(StoreError):  # then the sweep finds what was let go
                self._abort("checkpoints")
        return stored

    def failure(self) -> StoreError:
        """Why not everything is stored, and where it is."""
        reasons = "; ".join(dict.fromkeys(self._troubles.values())) or "time ran out"
        return StoreError(
            f"not everything could be stored in {self._store.url}: {reasons}",
            f"What is missing there is still on this machine, in {self._run.path}.",
        )

    def send_lines(self, _awaited: bool) -> None:
        """Send new lines, now, from this thread.

        Raises:
            StoreError: the store did not take them; the next call goes on from there.
        """
        self._claim()
        for sender in self._senders:
            sender.send()
        if wish := asked_to_save(self._store, self._attempt):
            self._on_stop(wish.by)

    def send_files(self, awaited: bool) -> None:
        """Send new files, now, from this thread.

        Args:
            awaited: also answers of an evaluation that goes on.

        Raises:
            StoreError: the store did not take one of them; it is taken up by the next call.
        """
        self._claim()
        self._outbox.send(everything=awaited)
        if self._is_ending:
            self._outbox.send_done()

    def send_checkpoint(self, _awaited: bool) -> None:
        """Send the newest checkpoint, now, from this thread.

        Raises:
            StoreError: the store did not take it; it is taken up by the next call.
        """
        self._claim()
        self._outbox.send_checkpoint()

    def _is_done(self, thread: Repeater, ticket: int, until: float) -> bool:
        until = self._until(thread, until)
        return thread.wait(ticket, until) or self._is_let_go(thread)

    def _until(self, thread: Repeater, until: float) -> float:
        return min(until, self._checkpoint_until) if thread is self._checkpoints else until

    def _is_let_go(self, thread: Repeater) -> bool:
        return thread is self._checkpoints and time.monotonic() >= self._checkpoint_until

    def _claim(self) -> None:
        with self._claiming:
            if not self._has_claimed:
                claim(self._store, self._attempt)
                self._give_way()
                self._abort()  # what machines that are gone have begun
                self._has_claimed = True

    def _abort(self, folder: str = "") -> None:
        for upload in self._store.unfinished(folder):
            self._store.abort(upload)

    def _give_way(self) -> None:
        """
        Raises:
            OvertakenError: a later attempt has begun.
        """
        later = claimed_by(self._store, self._attempt)
        if later is not None:
            raise OvertakenError(
                f"attempt {later} of this run has begun and writes to {self._store.url}, "
                f"so attempt {self._attempt} stores nothing more",
                "This machine is not needed any more.",
            )

    def _on_checkpoint(self, stored: StoredCheckpoint, seconds: float) -> None:
        size = stored.tree.size_bytes
        self._say(CheckpointStored, step=stored.step, size_bytes=size, seconds=seconds)

    def _on_end(self, thread: str, error: Exception | None) -> None:
        """Say when sending begins to fail, or fails in another way, and when it works again."""
        if error is None:
            if self._troubles.pop(thread, None):
                self._say(Warned, code="store", message="the run store takes what it is sent again")
            return
        kind = "" if isinstance(error, StoreError) else f"{type(error).__name__}: "
        reason = redacted(f"{kind}{error}")
        if self._troubles.get(thread) != reason:
            self._troubles[thread] = reason
            rest = "ends" if isinstance(error, OvertakenError) else "goes on meanwhile"
            self._say(Warned, code="store", message=f"{reason} The work {rest}.")
        if isinstance(error, OvertakenError):
            self.overtaken = True
            self._on_stop(None)
            for each in self._threads:
                each.stop()

    def _say(self, event: type[Event], **fields: Any) -> None:
        with self._pen, suppress(OSError):  # a full disk is the worker's to notice
            if not self._is_closing:
                self._log.write(event(t=self._clock(), attempt=self._attempt, **fields))
