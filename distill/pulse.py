"""The worker's pen, with a pulse: while a stage runs, a `progress` event at least once a second.

The launcher counts the money of a machine up to its last sign of life, so a slow step or a slow
load must not look like a death. A repeated line says alive, not moving: whether work advances shows
in `done`.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from recipes.rundir import (
    Event,
    EventLog,
    Failed,
    Progress,
    Stage,
    StageDone,
    StageStarted,
    WorkerEnded,
)

SILENCE_S = 0.8
"""Longest silence before the last progress is said again [s]."""

UNITS: dict[Stage, str] = {"generate": "answers", "train": "steps", "evaluate": "answers"}


class Pulse(EventLog):
    """An event log that repeats a stage's last progress, with a new time, when nothing else comes.

    Writing goes on in a thread of its own until `close`. A disk that is full is left to the
    worker's own next event to notice.
    """

    def __init__(
        self,
        path: Path,
        attempt: int,
        clock: Callable[[], float] = time.time,
        silence_s: float = SILENCE_S,
    ) -> None:
        super().__init__(path, attempt)
        self._clock = clock
        self._silence_s = silence_s
        self._last: Progress | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)
        self._thread.start()

    def write(self, event: Event) -> None:
        with self._lock:
            super().write(event)
            match event:
                case Progress():
                    self._last = event
                case StageStarted():
                    self._last = self._beginning_of(event)
                case StageDone() | Failed() | WorkerEnded():
                    self._last = None

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        super().close()

    def _beginning_of(self, started: StageStarted) -> Progress:
        unit = UNITS[started.stage]
        return Progress(
            t=started.t, attempt=self.attempt, stage=started.stage, done=0, total=0, unit=unit
        )

    def _beat(self) -> None:
        while not self._closed.wait(self._silence_s / 4):
            with self._lock, suppress(OSError):
                now = self._clock()
                if self._last is not None and now - self._last.t >= self._silence_s:
                    self._last = self._last.model_copy(update={"t": now})
                    super().write(self._last)


class Mute(EventLog):
    """The pen of every process but the first of those that train together: it writes nothing."""

    def __init__(self, attempt: int) -> None:
        self.attempt = attempt

    def write(self, event: Event) -> None:
        """Nothing: the first process speaks for all."""

    def sync(self) -> None:
        """Nothing to sync."""

    def close(self) -> None:
        """Nothing to close."""
