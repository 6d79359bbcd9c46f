"""A run in the words of a tracker: params, tags, and metrics with their moments and steps. Pure.

Here dollars become floats, because trackers know nothing else; nothing is counted with them again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from recipes.money import from_micro_usd
from recipes.rundir import AnyEvent, ApiUsage, CheckpointSaved, Progress, Scored, TrainStep
from tracking.books import Attempt, Books
from tracking.receipt import Receipt

PREFIX = "stillhouse."
"""Of every tag of ours."""


@dataclass(frozen=True)
class Point:
    """One value of one metric."""

    key: str
    value: float
    t: float
    """When [unix seconds]."""
    step: int = 0


@dataclass
class Meter:
    """What a run has cost by the moment of each event, read in order.

    Machines are counted by the second, answers of an API as they arrive.
    """

    attempts: tuple[Attempt, ...]
    api_micro_usd: int = 0
    """Paid for answers so far."""
    _before: dict[int, int] = field(init=False)

    def __post_init__(self) -> None:
        """What the machines of earlier attempts came to, for each attempt."""
        self._before, total = {}, 0
        for attempt in self.attempts:
            self._before[attempt.number] = total
            if attempt.ended_at is not None:
                total += _machine(attempt, attempt.ended_at)

    def see(self, event: AnyEvent) -> None:
        if isinstance(event, ApiUsage):
            self.api_micro_usd += event.micro_usd

    def micro_usd(self, event: AnyEvent) -> int | None:
        """So far, at an event; `None` if the ledger does not know its attempt."""
        for attempt in self.attempts:
            if attempt.number == event.attempt:
                before = self._before[attempt.number]
                return before + _machine(attempt, event.t) + self.api_micro_usd
        return None


def _machine(attempt: Attempt, until: float) -> int:
    return attempt.prices.micro_usd(attempt.started_at, max(until, attempt.started_at))


def event_points(event: AnyEvent, meter: Meter) -> Iterator[Point]:
    """The metrics that an event carries."""
    meter.see(event)
    values: dict[str, float | None]
    match event:
        case TrainStep():
            step = event.step
            values = {
                "train/loss": event.loss,
                "train/learning_rate": event.learning_rate,
                "train/grad_norm": event.grad_norm,
                "train/tokens": event.tokens,
                "train/completion_tokens": event.completion_tokens,
                "train/tokens_per_s": event.tokens_per_s,
                "train/mfu": event.mfu,
                "cost/so_far_usd": _usd(meter.micro_usd(event)),
            }
        case Progress(stage="generate" | "evaluate"):
            step = event.done
            values = {
                f"{event.stage}/{event.unit}": event.done,
                f"{event.stage}/tokens_per_s": event.tokens_per_s,
            }
        case CheckpointSaved():
            step = event.step
            values = {"checkpoint/seconds": event.seconds, "checkpoint/bytes": event.size_bytes}
        case Scored():
            step = 0
            values = {
                f"score/{event.task}": event.value,
                f"score/{event.task}_stderr": event.stderr,
            }
        case _:
            return
    for key, value in values.items():
        if value is not None:
            yield Point(key, value, event.t, step)


def result_points(receipt: Receipt, t: float) -> Iterator[Point]:
    """What a run came to, as of `t` [unix seconds]. What is unknown has no point."""
    usd: dict[str, Decimal | None] = {
        "total": receipt.metered_usd,
        "estimated": receipt.estimated_usd.p50,
        "billed": receipt.billed_usd,
        **{str(line): amount for line, amount in receipt.lines.items()},
    }
    for name, amount in usd.items():
        if amount is not None:
            yield Point(f"cost/{name}_usd", float(amount), t)
    times: dict[str, float] = {
        "wall": receipt.wall_s,
        "metered": receipt.metered_s,
        **{str(line): seconds for line, seconds in receipt.stages.items()},
    }
    for name, seconds in times.items():
        yield Point(f"time/{name}_s", seconds, t)
    for task, score in receipt.scores.items():
        yield Point(f"score/{task}", score.value, t)
        yield Point(f"score/{task}_stderr", score.stderr, t)
        yield Point(f"score/{task}_n", score.n, t)


def params(recipe: Mapping[str, Any], longest: int) -> dict[str, str]:
    """A recipe as flat names and texts; what it leaves open (`null`) is left out.

    >>> params({"a": {"b": 1, "c": None}, "d": [{"e": "xyzxyzxyzxyzxyz"}]}, longest=14)
    {'a.b': '1', 'd.0.e': 'x… (15 in all)'}

    Args:
        recipe: as JSON.
        longest: where a text is cut, with a mark of how long it was [characters].
    """
    flat = dict(_flattened("", recipe))
    return {name: shortened(text, longest) for name, text in flat.items()}


def _flattened(name: str, value: Any) -> Iterator[tuple[str, str]]:
    parts: Iterator[tuple[str, Any]]
    match value:
        case None:
            return
        case dict() if value:
            parts = ((str(key), part) for key, part in value.items())
        case list() if value:
            parts = ((str(number), part) for number, part in enumerate(value))
        case _:
            yield name, str(value)
            return
    for key, part in parts:
        yield from _flattened(f"{name}.{key}" if name else key, part)


def shortened(text: str, longest: int) -> str:
    """The text, or as much of its beginning as fits with a mark of how long it was."""
    if len(text) <= longest:
        return text
    mark = f"… ({len(text):,} in all)"
    return text[: max(0, longest - len(mark))] + mark


def tags(books: Books) -> dict[str, str]:
    """What a person may want to find runs by. What is unknown has no tag."""
    newest = books.attempts[-1] if books.attempts else None
    git, torn_down = books.opened.git, books.teardown
    own: dict[str, Any] = {
        "run_id": books.run_id,
        "status": books.state,
        "reason": books.reason,
        "budget_usd": from_micro_usd(books.budget_micro_usd),
        "attempts": len(books.attempts),
        "offer": newest and newest.offer_name,
        "usd_per_hour": newest and newest.usd_per_hour,
        "price_source": newest and newest.price_source,
        "price_as_of": newest and newest.price_as_of,
        "git_dirty": git.dirty,
        "git_diff_sha256": git.diff_sha256,
        "teardown_proved": torn_down and torn_down.proved,
    }
    named = {f"{PREFIX}{name}": str(value) for name, value in own.items() if value is not None}
    return named | ({"mlflow.source.git.commit": git.commit} if git.commit else {})


def _usd(micro_usd: int | None) -> float | None:
    return None if micro_usd is None else float(from_micro_usd(micro_usd))
