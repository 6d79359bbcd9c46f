"""What every stage of a worker is given: the run's folder, its recipe and limits, a pen, a clock.

A stage asks `stop.due(...)` between two small pieces of work and raises `StageStopped` once its own
things are safe; nobody kills a stage from outside in good order.
"""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal

from recipes.errors import StillhouseError
from recipes.recipe import Recipe
from recipes.rundir import Event, EventLog, Limits, RunDir

Reason = Literal["budget", "deadline", "interrupt"]


class WorkerError(StillhouseError):
    """The worker cannot go on, and a person can change that. Becomes a `failed` event."""

    def __init__(self, code: str, message: str, remedy: str) -> None:
        super().__init__(code, message, remedy)
        self.code, self.message, self.remedy = self.args

    def __str__(self) -> str:
        return f"{self.message}. {self.remedy}"


class StageStopped(Exception):
    """A stage has saved its things and ended before its work was done."""

    def __init__(self, reason: Reason) -> None:
        self.reason: Reason = reason
        super().__init__(reason)


class Stop:
    """Whether it is time to stop: a limit comes near, or a person asked."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.time) -> None:
        self._stop_at = limits.stop_at()
        self._clock = clock
        self.interrupted = False

    def listen(self) -> None:
        """Take SIGTERM and SIGINT as the wish to save and end."""
        signal.signal(signal.SIGTERM, self._interrupt)
        signal.signal(signal.SIGINT, self._interrupt)

    def ask(self, by: float | None = None) -> None:
        """Ask for saving and ending, as a signal would.

        Args:
            by: when everything has to be saved, since the money ends earlier than it was thought
                [unix seconds]; a later moment than known changes nothing. `None`: now.
        """
        if by is None:
            self.interrupted = True
        elif self._stop_at is None or by < self._stop_at[0]:
            self._stop_at = by, "budget"

    def _interrupt(self, _signum: int, _frame: FrameType | None) -> None:
        self.interrupted = True

    def seconds_left(self) -> float | None:
        """Seconds until everything has to be saved; `None` where there is no limit."""
        return None if self._stop_at is None else self._stop_at[0] - self._clock()

    def due(self, reserve_s: float = 0.0) -> Reason | None:
        """Why to stop now, if what still has to be done afterwards takes `reserve_s` seconds."""
        if self.interrupted:
            return "interrupt"
        if self._stop_at is not None and self._clock() + reserve_s >= self._stop_at[0]:
            return self._stop_at[1]
        return None


@dataclass(frozen=True)
class Context:
    """A stage's world."""

    run: RunDir
    recipe: Recipe
    limits: Limits
    log: EventLog
    stop: Stop
    device: str
    """`cpu`, `cuda:0`, …"""
    rank: int = 0
    """Number of this process among `world` that work together."""
    world: int = 1
    clock: Callable[[], float] = time.time

    def say(self, event: type[Event], **fields: Any) -> None:
        """Write an event; only the first of several processes does."""
        if self.rank == 0:
            self.log.write(event(t=self.clock(), attempt=self.limits.attempt, **fields))
