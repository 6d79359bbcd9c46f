"""The receipt of a run: what it was to cost, what it cost, how long it took, and what came out.

Made from the ledger and the run's folder and nothing else, so it can be made again at any time:
while the run goes on, and when its folder is gone. Money comes from the ledger only. The JSON keys
are stable; an unknown figure is null there.
"""

from collections.abc import Iterable
from decimal import Decimal

from pydantic import Field

from recipes.faults import printable
from recipes.money import format_usd, from_micro_usd
from recipes.recipe import Part
from recipes.rundir import (
    AnyEvent,
    Done,
    Generated,
    RunDir,
    Score,
    Scores,
    TrainStep,
    Warned,
    read_events,
    read_model,
)
from tracking.books import Attempt, Books
from tracking.coverage import included, not_included
from tracking.entries import LINES, Git, Line, Quantiles, RunState
from tracking.metering import machine_seconds


class Price(Part):
    """What an hour costs, who says so, and since when that is known."""

    usd_per_hour: Decimal
    """Of all machines together [USD/h]."""
    source: str
    as_of: float | None
    """When it was seen [unix seconds]; null is unknown."""
    offer: str | None
    """What was rented, for people."""


class TeacherText(Part):
    """What the teacher wrote, over all attempts."""

    answers: int
    cached: int
    """Of these, taken from an earlier run at no cost."""
    truncated: int
    """Of these, cut off and not trained on."""
    input_tokens: int
    output_tokens: int


class TeardownProof(Part):
    proved: bool | None
    """Whether the provider confirmed that nothing of the run is left; null: nobody could ask."""
    detail: str


class AttemptLine(Part):
    """One machine."""

    attempt: int
    started_at: float
    """[unix seconds]"""
    ended_at: float | None
    """[unix seconds]; null while it still costs money."""
    how: str | None
    usd_per_hour: Decimal
    offer: str | None


class Receipt(Part):
    """Dollars are decimals, and strings in JSON; durations are seconds."""

    version: int = 1
    run_id: str
    recipe: str
    status: RunState
    reason: str
    """Why it has that status, in words for people; may be empty."""
    opened_at: float
    """[unix seconds]"""

    budget_usd: Decimal
    estimated_usd: Quantiles
    """By the plan, before the run."""
    metered_usd: Decimal
    """By us: the sum of `lines`, and of everything settled in the ledger."""
    reserved_usd: Decimal
    """Set aside and not settled yet; 0 once the run is over."""
    billed_usd: Decimal | None
    """By the provider; null is unknown yet."""
    billed_final: bool | None
    """Whether the provider may no longer change it."""
    billed_source: str | None
    """Who says so, and of what where that is not the whole run."""
    lines: dict[Line, Decimal]

    wall_s: float
    """From the launch to the end, pauses between attempts included; so far, if it goes on [s]."""
    metered_s: float
    """Time that machines cost money, all attempts together [s]."""
    stages: dict[Line, float]
    """`metered_s` by what it was used for [s]."""

    scores: dict[str, Score]
    steps: int | None
    """Optimiser steps behind the student; null where none was taken."""
    of_steps: int | None
    teacher: TeacherText | None
    teardown: TeardownProof

    price: Price | None
    """Of the newest machine; null where there was none."""
    attempts: tuple[AttemptLine, ...]
    git: Git
    mlflow_run_id: str | None
    warnings: tuple[str, ...]
    included: tuple[str, ...] = Field(min_length=1)
    """What `metered_usd` covers."""
    not_included: tuple[str, ...]
    """What a person may pay beside it."""


def make_receipt(books: Books, run: RunDir) -> Receipt:
    """The receipt as it stands.

    Raises:
        InvalidInputError: a file in the run's folder is damaged; names it.
    """
    events = [event for event, _ in read_events(run.events)]
    stages = _stage_seconds(books, events)
    teacher = _teacher(events)
    steps, of_steps = _steps(run, events)
    billed = books.billed
    return Receipt(
        run_id=books.run_id,
        recipe=books.recipe_name,
        status=books.state,
        reason=books.reason,
        opened_at=books.opened_at,
        budget_usd=from_micro_usd(books.budget_micro_usd),
        estimated_usd=books.opened.estimated_usd,
        metered_usd=from_micro_usd(books.spent_micro_usd),
        reserved_usd=from_micro_usd(books.reserved_micro_usd),
        billed_usd=from_micro_usd(billed.micro_usd) if billed else None,
        billed_final=billed.final if billed else None,
        billed_source=billed.source if billed else None,
        lines={line: from_micro_usd(amount) for line, amount in books.lines.items()},
        wall_s=_last_moment(books, events) - books.opened_at,
        metered_s=sum(stages.values()),
        stages=stages,
        scores=read_model(run.scores, Scores).scores if run.scores.exists() else {},
        steps=steps,
        of_steps=of_steps,
        teacher=teacher,
        teardown=_teardown(books),
        price=_price(books.machines),
        attempts=tuple(_attempt_line(attempt) for attempt in books.attempts),
        git=books.opened.git,
        mlflow_run_id=books.mlflow_run_id,
        warnings=_warnings(books, events),
        included=included(books),
        not_included=not_included(books, cached_answers=teacher.cached if teacher else 0),
    )


def _teardown(books: Books) -> TeardownProof:
    """Of everything: what was proved of earlier attempts says nothing of one that goes on."""
    said, open_attempt = books.teardown, books.open_attempt
    if open_attempt and (said is None or said.proved):
        return TeardownProof(proved=None, detail=f"attempt {open_attempt.number} is still on")
    if said is None:
        return TeardownProof(proved=None, detail="nobody has asked yet")
    return TeardownProof(proved=said.proved, detail=said.detail)


def _stage_seconds(books: Books, events: list[AnyEvent]) -> dict[Line, float]:
    total: dict[Line, float] = dict.fromkeys(LINES, 0.0)
    for attempt in books.attempts:
        own = [event.t for event in events if event.attempt == attempt.number]
        last_sign = max([attempt.started_at, *own])
        seconds = machine_seconds(
            events,
            attempt.number,
            attempt.started_at,
            last_sign if attempt.ended_at is None else attempt.ended_at,
            running=attempt.ended_at is None,
        )
        for line, spent in seconds.items():
            total[line] += spent
    return {line: spent for line, spent in total.items() if spent}


def _last_moment(books: Books, events: list[AnyEvent]) -> float:
    """When it was over; the last sign of life of a run that is not [unix seconds]."""
    if books.over:
        return books.states[-1].at
    return max([books.last_at, *(event.t for event in events)])


def _teacher(events: list[AnyEvent]) -> TeacherText | None:
    said = [event for event in events if isinstance(event, Generated)]
    if not said:
        return None
    return TeacherText(
        answers=said[-1].answers,
        cached=said[-1].cached,
        truncated=said[-1].truncated,
        input_tokens=said[-1].input_tokens,
        output_tokens=said[-1].output_tokens,
    )


def _steps(run: RunDir, events: list[AnyEvent]) -> tuple[int | None, int | None]:
    if run.done.exists():
        done = read_model(run.done, Done)
        return done.steps, done.of_steps
    taken = [event for event in events if isinstance(event, TrainStep)]
    return (taken[-1].step, taken[-1].steps) if taken else (None, None)


def _price(machines: tuple[Attempt, ...]) -> Price | None:
    if not machines:
        return None
    newest = machines[-1]
    return Price(
        usd_per_hour=newest.usd_per_hour,
        source=newest.price_source,
        as_of=newest.price_as_of,
        offer=newest.offer_name,
    )


def _attempt_line(attempt: Attempt) -> AttemptLine:
    return AttemptLine(
        attempt=attempt.number,
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        how=attempt.how,
        usd_per_hour=attempt.usd_per_hour,
        offer=attempt.offer_name,
    )


def _warnings(books: Books, events: Iterable[AnyEvent]) -> tuple[str, ...]:
    said = dict.fromkeys(printable(e.message) for e in events if isinstance(e, Warned))
    passed = (
        f"reservation {one.reservation} of {format_usd(from_micro_usd(one.reserved_micro_usd))} "
        f"was passed: it came to {format_usd(from_micro_usd(one.settled_micro_usd))}"
        for one in books.overshoots
    )
    return (*said, *passed)
