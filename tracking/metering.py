"""Where a machine's time went, and so its money. Pure.

The time between two moments of a machine is one of: `boot` (until the first stage begins), a stage,
`save` (from the wish to stop, apart from an evaluation that still fits), `idle` (after the worker
has ended) or `lost`: what an attempt that was cut off did after the last thing it had put safely
away, and what passed until somebody noticed.
"""

from collections.abc import Iterable
from decimal import Decimal
from itertools import pairwise

from recipes.money import machine_micro_usd, split_micro_usd
from recipes.rundir import (
    CheckpointSaved,
    CheckpointStored,
    Event,
    Progress,
    Stage,
    StageDone,
    StageStarted,
    Stopping,
    WorkerEnded,
)
from tracking.entries import LINES, Line


def machine_seconds(
    events: Iterable[Event],
    attempt: int,
    started_at: float,
    ended_at: float,
    *,
    running: bool = False,
) -> dict[Line, float]:
    """Seconds of one attempt, by line; they sum to `ended_at - started_at`.

    Args:
        events: of the run; those of other attempts are passed over.
        attempt: which one.
        started_at: when the machine began to cost money [unix seconds].
        ended_at: when it stopped, or until when to count [unix seconds].
        running: the worker may still go on, so that nothing is lost yet.

    Returns:
        `boot` always, other lines where they took any time [s].

    Raises:
        ValueError: it ended before it started.
    """
    if ended_at < started_at:
        raise ValueError(f"attempt {attempt} ended at {ended_at}, before it started: {started_at}")
    own = [event for event in events if event.attempt == attempt]
    changes = _line_changes(own)
    cut_off = not running and not any(isinstance(event, WorkerEnded) for event in own)
    if cut_off and (lost_from := _lost_from(own)) is not None:
        changes = [(t, line) for t, line in changes if t <= lost_from] + [(lost_from, "lost")]

    seconds: dict[Line, float] = dict.fromkeys(LINES, 0.0)
    moments: list[tuple[float, Line]] = [(started_at, "boot"), *changes, (ended_at, "idle")]
    # The worker's clock may differ from the provider's: no moment lies outside the paid time.
    inside = [(min(max(t, started_at), ended_at), line) for t, line in moments]
    for (start, line), (end, _) in pairwise(inside):
        seconds[line] += max(0.0, end - start)
    return {line: spent for line, spent in seconds.items() if spent or line == "boot"}


def machine_lines(
    events: Iterable[Event],
    attempt: int,
    started_at: float,
    ended_at: float,
    usd_per_hour: Decimal,
    *,
    running: bool = False,
) -> dict[Line, int]:
    """Micro-dollars of one attempt's machines, by line; they sum to price x time exactly.

    Arguments as for `machine_seconds`; `usd_per_hour` is of all machines together [USD/h].
    """
    seconds = machine_seconds(events, attempt, started_at, ended_at, running=running)
    total = machine_micro_usd(usd_per_hour, ended_at - started_at)
    by_name = split_micro_usd(total, {str(line): spent for line, spent in seconds.items()})
    return {line: by_name[line] for line in seconds}


def _line_changes(events: list[Event]) -> list[tuple[float, Line]]:
    changes: list[tuple[float, Line]] = []
    latest = 0.0
    for event in events:
        line: Line
        match event:
            case StageStarted(stage=stage):
                line = stage
            case Stopping():
                line = "save"
            case WorkerEnded():
                line = "idle"
            case _:
                continue
        latest = max(latest, event.t)  # a clock that was set back must not count time twice
        changes.append((latest, line))
    return changes


def _lost_from(events: list[Event]) -> float | None:
    """Since when the work of a cut-off attempt has to be done again; `None`: none had begun."""
    safe: float | None = None
    answered: dict[Stage, int] = {}
    has_store = any(isinstance(event, CheckpointStored) for event in events)
    saved_at: dict[int, float] = {}
    for event in events:
        match event:
            case StageStarted() if safe is None:
                safe = event.t
            case CheckpointSaved(step=step):  # on a disk that goes with the machine, or stays
                saved_at[step] = event.t
                if not has_store:
                    safe = event.t
            case CheckpointStored(step=step):
                safe = saved_at.get(step, event.t)
            case StageDone():
                safe = event.t
            # A second look at the same count says that the worker lives, not that more is safe.
            case Progress(unit="answers", stage=stage, done=done) if done > answered.get(stage, 0):
                answered[stage] = done
                safe = event.t
            case _:
                continue
    return safe
