"""What it costs to be interrupted now and then: a machine that may be taken away at any moment.

Interruptions come at random and independently, a mean time M apart (a Poisson process). Work goes
in pieces: `interval` hours, then a checkpoint of `checkpoint` hours; an interruption loses the
piece under way, and it takes `restart` hours until work goes on. The formulas are Daly's (A higher
order estimate of the optimum checkpoint interval for restart dumps, Future Generation Computer
Systems 22, 2006). All times here are in hours.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Completion:
    """How a piece of work ends up under interruptions. Expected values, in hours."""

    hours: float
    """From start to end, everything included; `inf` where it would in practice never end."""
    checkpoint_hours: float
    """Spent writing checkpoints that were not lost."""
    lost_hours: float
    """Work done twice, and waiting for a new machine."""
    interruptions: float


def best_interval(checkpoint: float, mean_between: float) -> float:
    """Hours of work between checkpoints that lose the least time.

    Young's `sqrt(2 checkpoint M)` with Daly's two higher terms, less the checkpoint itself; `M`
    where a checkpoint takes longer than 2 M.

    Args:
        checkpoint: hours to write one, above 0.
        mean_between: mean hours between interruptions, above 0.

    A checkpoint of 36 s, an interruption every four hours:

    >>> round(best_interval(0.01, 4.0), 3)
    0.276
    """
    if checkpoint >= 2 * mean_between:
        return mean_between
    ratio = checkpoint / (2 * mean_between)
    young = math.sqrt(2 * checkpoint * mean_between)
    return young * (1 + math.sqrt(ratio) / 3 + ratio / 9) - checkpoint


def expected_completion(
    work: float,
    *,
    interval: float,
    checkpoint: float,
    restart: float,
    mean_between: float | None,
) -> Completion:
    """Expected time to finish `work` hours of it, interrupted every `mean_between` hours.

    Daly's closed form: `M exp(R/M) (exp((interval + checkpoint)/M) - 1) work / interval`. The
    restart itself may be interrupted. The last piece counts in proportion to its length.

    Args:
        work: hours of useful work, at least 0.
        interval: hours of work between checkpoints, above 0.
        checkpoint: hours to write one, at least 0.
        restart: hours from an interruption until work goes on, at least 0.
        mean_between: mean hours between interruptions, above 0; `None` where none are expected.

    Ten hours of work on a machine that is taken away every four hours, half an hour to come back:

    >>> spot = expected_completion(10, interval=0.276, checkpoint=0.01, restart=0.5,
    ...                            mean_between=4.0)
    >>> round(spot.hours, 2), round(spot.lost_hours, 2), round(spot.interruptions, 1)
    (12.17, 1.81, 3.0)
    """
    pieces = work / interval
    writing = pieces * checkpoint
    if mean_between is None:
        return Completion(work + writing, writing, 0.0, 0.0)
    try:
        hours = (
            mean_between
            * math.exp(restart / mean_between)
            * math.expm1((interval + checkpoint) / mean_between)
            * pieces
        )
    except OverflowError:
        hours = math.inf if work > 0 else 0.0
    hours = max(hours, work + writing)  # rounding must not give time back
    return Completion(hours, writing, hours - work - writing, hours / mean_between)
