"""Runs made by hand: a ledger and folders as launcher and worker would leave them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from recipes.recipe import Recipe
from recipes.rundir import (
    AnyEvent,
    CheckpointSaved,
    Done,
    EventLog,
    Generated,
    Progress,
    RunDir,
    Score,
    Scored,
    Scores,
    StageDone,
    StageStarted,
    TrainStep,
    Warned,
    WorkerEnded,
    WorkerStarted,
    write_atomically,
    write_model,
)
from tracking.entries import (
    AttemptEnded,
    AttemptStarted,
    Git,
    Opened,
    Quantiles,
    StateChanged,
    Teardown,
)
from tracking.home import Home, home
from tracking.ledger import Ledger
from tracking.metering import machine_lines

LAUNCH = 1_795_318_260.0  # 2026-11-22 03:31 UTC

RECIPE: dict[str, Any] = {
    "name": "demo",
    "description": "A teacher that adds, and a student a third of its size.",
    "teacher": {"kind": "model", "model": "/teachers/additions"},
    "student": {
        "kind": "new",
        "characters": "0123456789+=",
        "layers": 2,
        "hidden_size": 64,
        "heads": 2,
        "intermediate_size": 128,
    },
    "data": {"kind": "generated", "prompt": "{question}", "rows": 2000},
    "training": {"steps": 4, "batch_size": 64, "learning_rate": 0.001},
    "hardware": {"local": True, "usd_per_hour": "0.12"},
    "budget": {"usd": "0.05"},
}


class Clock:
    """The test's own time [unix seconds]."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def worker_events(start: float, score: float, attempt: int = 1) -> list[AnyEvent]:
    """A whole run of 50 s that begins at `start`."""

    def at(seconds: float) -> dict[str, Any]:
        return {"t": start + seconds, "attempt": attempt}

    steps = [
        TrainStep(
            **at(14 + 6 * step),
            step=step,
            steps=4,
            loss=2.0 / step,
            learning_rate=0.001,
            grad_norm=1.0,
            tokens=1000 * step,
            completion_tokens=700 * step,
            tokens_per_s=170.0,
        )
        for step in (1, 2, 3, 4)
    ]
    return [
        WorkerStarted(**at(2), pid=1, device="cpu"),
        StageStarted(**at(4), stage="generate"),
        Progress(**at(9), stage="generate", done=1000, total=2000, unit="answers"),
        Generated(
            **at(14),
            answers=2000,
            cached=0,
            truncated=3,
            input_tokens=18_000,
            output_tokens=90_000,
        ),
        StageDone(**at(14), stage="generate"),
        StageStarted(**at(14), stage="train"),
        *steps[:2],
        CheckpointSaved(**at(28), step=2, size_bytes=1_200_000, seconds=0.25),
        *steps[2:],
        Warned(**at(38.5), code="truncated", message="3 answers of [the teacher] were cut off"),
        StageDone(**at(39), stage="train"),
        StageStarted(**at(39), stage="evaluate"),
        Scored(**at(49), task="additions", value=score, stderr=0.005, n=500, of=500, truncated=1),
        StageDone(**at(49), stage="evaluate"),
        WorkerEnded(**at(49.5), status="done"),
    ]


@dataclass
class Workshop:
    """Makes runs in a home of the test's own."""

    home: Home
    ledger: Ledger
    clock: Clock
    recipe = RECIPE
    worker_events = staticmethod(worker_events)

    def open(self, run_id: str, recipe: dict[str, Any] | None = None) -> RunDir:
        """A run that is opened, with its first attempt started 5 s later, and running."""
        chosen = recipe or RECIPE
        self.ledger.open_run(
            run_id,
            Opened(
                recipe=chosen,
                budget_micro_usd=50_000,
                estimated_usd=Quantiles(
                    p10=Decimal("0.0012"), p50=Decimal("0.0019"), p90=Decimal("0.0031")
                ),
                git=Git(commit="c0ffee", dirty=True, diff_sha256="d1ff"),
            ),
        )
        run = self.home.run(run_id)
        run.path.mkdir(parents=True)
        write_model(run.recipe, Recipe.model_validate(chosen))
        write_atomically(run.plan, b'{"plan": 1}\n')
        write_atomically(run.log, b"the worker's words\n")
        self.start(run_id, attempt=1, usd_per_hour="0.12")
        return run

    def start(self, run_id: str, attempt: int, usd_per_hour: str) -> None:
        self.clock.now += 5
        self.ledger.append(
            run_id,
            AttemptStarted(
                attempt=attempt,
                started_at=self.clock.now,
                usd_per_hour=Decimal(usd_per_hour),
                price_source="recipe",
                offer={"name": "this machine"},
                reservation=self.ledger.reserve(run_id, "train", 20_000),
            ),
            StateChanged(state="running"),
        )

    def say(self, run: RunDir, *events: AnyEvent) -> None:
        log = EventLog(run.events, attempt=1)
        for event in events:
            log.write(event)
            self.clock.now = max(self.clock.now, event.t)
        log.close()

    def end_attempt(self, run: RunDir, events: list[AnyEvent], how: str) -> None:
        """Settle the open attempt, half a second after the last event."""
        books = self.ledger.books(run.path.name)
        attempt = books.open_attempt
        assert attempt is not None
        self.clock.now += 0.5
        lines = machine_lines(
            events, attempt.number, attempt.started_at, self.clock.now, attempt.usd_per_hour
        )
        ended = AttemptEnded(attempt=attempt.number, ended_at=self.clock.now, how=how)
        self.ledger.settle(books.reservations[0].id, lines, ended)

    def finish(self, run: RunDir, score: float = 0.99) -> None:
        self.ledger.append(
            run.path.name,
            Teardown(proved=True, detail="nothing was rented: it ran on this machine"),
            StateChanged(state="done"),
        )
        scored = Score(value=score, stderr=0.005, n=500, of=500, truncated=1)
        write_model(run.scores, Scores(scores={"additions": scored}))
        write_model(run.done, Done(status="done", steps=4, of_steps=4, finished_at=self.clock.now))
        run.student.mkdir()
        (run.student / "config.json").write_text("{}")

    def whole_run(
        self, run_id: str, score: float = 0.99, recipe: dict[str, Any] | None = None
    ) -> RunDir:
        """A run that went well, from launch to teardown."""
        run = self.open(run_id, recipe)
        events = worker_events(self.clock.now, score)
        self.say(run, *events)
        self.end_attempt(run, events, "done")
        self.finish(run, score)
        return run


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    own = home({"STILLHOUSE_HOME": str(tmp_path / "home")})
    clock = Clock(LAUNCH)
    with Ledger(own.ledger, clock=clock) as ledger:
        yield Workshop(own, ledger, clock)


@pytest.fixture
def printed() -> Callable[[Any], str]:
    """What a rich renderable looks like in a pipe of 80 columns."""

    def show(renderable: Any, colour: bool = False) -> str:
        from io import StringIO

        from rich.console import Console

        console = Console(width=80, file=StringIO(), force_terminal=colour)
        console.print(renderable)
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        return "".join(f"{line.rstrip()}\n" for line in text.splitlines())

    return show
