"""Runs side by side: dollars, hours, scores, dollars a point, and which of them are worth having.

Pure. Says what the figures carry and no more: a run that is not over is on no frontier, and of two
runs none is called better where their difference is within its error.
"""

import math
from collections.abc import Sequence
from decimal import Decimal

from recipes.money import SECONDS_PER_HOUR
from recipes.recipe import Part
from recipes.rundir import Score
from tracking.entries import TERMINAL, RunState
from tracking.receipt import Receipt

CERTAIN = 1.96
"""Standard errors that a difference must pass to be called one: 95 of 100 by the normal curve."""


class Row(Part):
    """One run."""

    run_id: str
    recipe: str
    status: RunState
    usd: Decimal
    """Metered: what is settled so far."""
    reserved_usd: Decimal
    """Set aside and not settled yet: the run may come to so much more."""
    hours: float
    """Wall time, from the launch to the end; so far, if the run is not over [h]."""
    scores: dict[str, Score]
    usd_per_point: Decimal | None
    """Dollars for each hundredth of the score that is compared; null where it is 0 or unknown, or
    something is not settled yet."""
    on_frontier: bool
    """No other run that is over and settled is at least as cheap and as good, and better in one of
    the two."""


class ScoreDifference(Part):
    """How much higher the second run scores."""

    task: str
    value: float
    stderr: float
    """Standard error of `value`. The runs' errors are taken as independent, which is careful where
    both answered the same problems."""
    beyond_error: bool
    """Whether the difference is further from 0 than 1.96 of its standard errors. Where all or none
    of a run's answers were right it counts as a little less, or more: see `score_difference`."""


class Difference(Part):
    """The second run less the first, where two are compared."""

    usd: Decimal | None
    """Null while something of either is not settled."""
    hours: float
    scores: tuple[ScoreDifference, ...]


class Comparison(Part):
    version: int = 1
    task: str | None
    """The score that the frontier and the dollars a point go by; null where the runs share none."""
    rows: tuple[Row, ...]
    difference: Difference | None
    """Only between exactly two runs."""
    notes: tuple[str, ...]
    """What to know before believing the table."""


def compare(receipts: Sequence[Receipt]) -> Comparison:
    """The table of some runs, in the order given.

    The first run's first task that every run with scores has is what they are compared by.
    """
    scored = [receipt for receipt in receipts if receipt.scores]
    shared = _shared_tasks(scored)
    task = shared[0] if shared else None
    points = [_point(receipt, task) for receipt in receipts]
    rows = tuple(
        Row(
            run_id=receipt.run_id,
            recipe=receipt.recipe,
            status=receipt.status,
            usd=receipt.metered_usd,
            reserved_usd=receipt.reserved_usd,
            hours=receipt.wall_s / SECONDS_PER_HOUR,
            scores=receipt.scores,
            usd_per_point=None
            if receipt.reserved_usd
            else usd_per_point(receipt.metered_usd, _value(receipt, task)),
            on_frontier=marked,
        )
        for receipt, marked in zip(receipts, frontier(points), strict=True)
    )
    return Comparison(
        task=task,
        rows=rows,
        difference=_difference(receipts[0], receipts[1]) if len(receipts) == 2 else None,
        notes=tuple(_notes(receipts, scored, shared)),
    )


def frontier(points: Sequence[tuple[Decimal, float] | None]) -> list[bool]:
    """Which (dollars, score) no other one beats: as cheap and as good, and better in one of them.

    Equal points are all on it; an unknown one (`None`) is not, and beats nobody.

    >>> frontier([(Decimal(2), 0.5), (Decimal(1), 0.7), (Decimal(9), 0.9), None])
    [False, True, True, False]
    """
    known = sorted(
        ((point, number) for number, point in enumerate(points) if point is not None),
        key=lambda pair: (pair[0][0], -pair[0][1]),
    )
    marked = [False] * len(points)
    best: tuple[Decimal, float] | None = None
    for point, number in known:
        if best is None or point[1] > best[1]:
            best = point
        marked[number] = point == best
    return marked


def usd_per_point(usd: Decimal, score: float | None) -> Decimal | None:
    """Dollars for each hundredth of a score, to a billionth; `None` without a score above 0.

    >>> usd_per_point(Decimal("0.98"), 0.98)
    Decimal('0.010000000')
    """
    if not score:
        return None
    return (usd / (100 * Decimal(repr(score)))).quantize(Decimal("1e-9"))


def score_difference(task: str, first: Score, second: Score) -> ScoreDifference:
    """How much higher the second scores, and how sure that is.

    `value` is the plain difference. Whether it is beyond the error is asked of careful shares: 1 of
    1 is 1.00, and yet not certain to be more than 0 of 1.
    """
    (low, low_error), (high, high_error) = _careful(first), _careful(second)
    stderr = math.hypot(low_error, high_error)
    return ScoreDifference(
        task=task,
        value=second.value - first.value,
        stderr=stderr,
        beyond_error=abs(high - low) > CERTAIN * stderr,
    )


def _careful(score: Score) -> tuple[float, float]:
    """The share of hits and its standard error, where all or none is no certainty.

    There (x+2)/(n+4) takes the place of x/n: Agresti and Coull, The American Statistician 52:2,
    1998. The worker's own error is of that share then, and belongs to no other.
    """
    if 0 < score.value < 1:
        return score.value, score.stderr
    n = score.n + 4
    share = (score.value * score.n + 2) / n
    return share, math.sqrt(share * (1 - share) / n)


def _shared_tasks(scored: Sequence[Receipt]) -> list[str]:
    if not scored:
        return []
    return [task for task in scored[0].scores if all(task in other.scores for other in scored)]


def _value(receipt: Receipt, task: str | None) -> float | None:
    score = receipt.scores.get(task) if task else None
    return score.value if score and score.n else None


def _point(receipt: Receipt, task: str | None) -> tuple[Decimal, float] | None:
    value = _value(receipt, task)
    if receipt.status not in TERMINAL or receipt.reserved_usd or value is None:
        return None
    return receipt.metered_usd, value


def _difference(first: Receipt, second: Receipt) -> Difference:
    settled = not first.reserved_usd and not second.reserved_usd
    return Difference(
        usd=second.metered_usd - first.metered_usd if settled else None,
        hours=(second.wall_s - first.wall_s) / SECONDS_PER_HOUR,
        scores=tuple(
            score_difference(task, score, second.scores[task])
            for task, score in first.scores.items()
            if task in second.scores and score.n and second.scores[task].n
        ),
    )


def _notes(
    receipts: Sequence[Receipt], scored: Sequence[Receipt], shared: Sequence[str]
) -> list[str]:
    notes = []
    if len(scored) > 1 and not shared:
        notes.append("no task was scored in all of these runs, so none can be called better")
    for task in shared:
        sizes = {receipt.scores[task].of for receipt in scored}
        if len(sizes) > 1:
            counts = ", ".join(f"{size:,}" for size in sorted(sizes))
            notes.append(f"{task} was not the same everywhere: it had {counts} problems")
    unfinished = [receipt.run_id for receipt in receipts if receipt.status not in TERMINAL]
    if unfinished:
        notes.append(f"not over, dollars and hours so far: {', '.join(unfinished)}")
    sources = {receipt.price.source for receipt in receipts if receipt.price}
    if len(sources) > 1:
        notes.append(f"prices are from different sources: {', '.join(sorted(sources))}")
    return notes
