"""A job that a thread does again and again, beside the work it must never disturb."""

import threading
import time
from collections.abc import Callable

LONGEST_PAUSE_S = 30.0
"""After failures the pauses grow up to this [s]."""


class Repeater:
    """Does a job every so many seconds, or when asked; one that fails is done again later."""

    def __init__(
        self,
        name: str,
        job: Callable[[bool], None],
        every_s: float,
        on_end: Callable[[str, Exception | None], None],
    ) -> None:
        """
        Args:
            job: told whether somebody waits for it.
            on_end: told the name and how the job went, each time.
        """
        self._name = name
        self._job = job
        self._every_s = every_s
        self._on_end = on_end
        self._changed = threading.Condition()
        self._asked = self._tried = self._done = 0
        self._stopped = False
        # A daemon: a store that hangs must not keep a worker from ending.
        self._thread = threading.Thread(target=self._repeat, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask(self) -> int:
        """Have the job done at once; a ticket to wait with."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()
            return self._asked

    def wait(self, ticket: int, until: float) -> bool:
        """Whether the job was done, from its beginning, after the ticket was taken.

        Args:
            until: how long to wait for it [seconds of time.monotonic].
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopped or self._done >= ticket, until - time.monotonic()
            )
            return self._done >= ticket

    def stop(self) -> None:
        """Do the job no more; one under way goes on to its end. The job itself may call this."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def join(self, timeout_s: float) -> None:
        """Wait for the end of a job that was under way."""
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _repeat(self) -> None:
        failures = 0
        while True:
            with self._changed:
                pause_s = min(self._every_s * 2**failures, LONGEST_PAUSE_S)
                self._changed.wait_for(lambda: self._stopped or self._asked > self._tried, pause_s)
                if self._stopped:
                    return
                ticket = self._tried = self._asked
            failure = self._try(ticket > self._done)
            failures = min(failures + 1, 10) if failure else 0
            with self._changed:
                self._done = self._done if failure else ticket
                self._changed.notify_all()

    def _try(self, awaited: bool) -> Exception | None:
        failure: Exception | None = None
        try:
            self._job(awaited)
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            failure = error
        self._on_end(self._name, failure)
        return failure
