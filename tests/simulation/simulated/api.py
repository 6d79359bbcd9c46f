"""The second world: a teacher behind an API, asked by 128 threads out of one purse.

Threads, purse and desk are the real ones of `distill.teacher_api`; the endpoint is not. It answers
at any length up to what it was allowed, fails in every way that it can, says wrong counts, and
keeps its own bill of what it really wrote. The threads' order is the machine's: what is asserted
holds in every order. After some answers the worker is killed, and another attempt goes on with what
is left.
"""

import random
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

from distill.context import Context, Stop
from distill.data import Row
from distill.endpoint import Reply, TryAgain
from distill.purse import Purse
from distill.teacher_api import Desk, Patience, _ask_all, worst_input_tokens
from distill.traces import Job
from recipes.money import from_micro_usd
from recipes.recipe import ApiTeacher
from recipes.rundir import (
    ApiReserved,
    ApiUsage,
    EventLog,
    Limits,
    RunDir,
    asked_micro_usd,
    read_events,
)

STREAMS = 128
JOBS = 400
INPUT_PRICE, OUTPUT_PRICE = Decimal(3), Decimal(15)
"""USD per million tokens, which is micro-dollars a token."""


@dataclass
class Outcome:
    """What came of one world, in micro-dollars."""

    budget: int
    most_committed: int
    """The most that was ever spent and reserved together."""
    billed: Decimal
    """By the endpoint, for what it wrote."""
    answers: int

    @property
    def overshoot(self) -> Decimal:
        """Beyond the budget, as a share of it."""
        most = max(Decimal(self.most_committed), self.billed)
        return max(Decimal(0), (most - self.budget) / self.budget)


class SimulatedEndpoint:
    """Answers, fails, and keeps its bill."""

    def __init__(self, seed: int, max_new_tokens: int) -> None:
        self._chance = random.Random(seed)
        self._most = max_new_tokens
        self._lock = threading.Lock()
        self._trouble = self._chance.choice((0.0, 0.1, 0.4))
        self.billed = Decimal(0)
        self.on_answer: Callable[[], None] = lambda: None

    def ask(self, messages: list[dict[str, str]]) -> Reply:
        """As `distill.endpoint.Endpoint.ask`."""
        with self._lock:
            if self._chance.random() < self._trouble:
                return self._fail(messages)
            inputs, outputs = self._write(messages)
            return self._reply(inputs, outputs)

    def _fail(self, messages: list[dict[str, str]]) -> Reply:
        kind = self._chance.choice(("429", "500", "timeout", "broken off", "nonsense"))
        if kind in ("429", "500"):
            raise TryAgain(kind, maybe_billed=False, wait_s=self._chance.choice((None, 0.0, 2.0)))
        _, outputs = self._write(messages)
        if kind in ("timeout", "broken off"):
            raise TryAgain(kind, maybe_billed=True)
        claims = (None, 10**9)
        return self._reply(self._chance.choice(claims), self._chance.choice((*claims, outputs)))

    def _write(self, messages: list[dict[str, str]]) -> tuple[int, int]:
        """Write an answer, which is billed whether it arrives or not."""
        inputs = sum(8 + len(message["content"]) // 3 for message in messages)
        outputs = self._chance.choice((1, self._most, self._chance.randint(1, self._most)))
        self.billed += inputs * INPUT_PRICE + outputs * OUTPUT_PRICE
        return inputs, outputs

    def _reply(self, inputs: int | None, outputs: int | None) -> Reply:
        self.on_answer()
        return Reply("an answer", "stop", inputs, outputs)


@dataclass
class Traces:
    """What is to be answered, and what has been."""

    missing: list[Job]
    kept: list[Job] = field(default_factory=list)
    wanted: int = JOBS

    @property
    def pace(self) -> "Traces":
        return self

    def keep(self, job: Job, text: str, **counts: Any) -> None:
        self.kept.append(job)

    def sync(self) -> None:
        """Nothing is on a disk."""

    def answered(self, answers: int, tokens: int) -> None:
        """Nobody looks."""


def live_api(seed: int, folder: Path) -> Outcome:
    """One world: an attempt that is killed, and one that goes on with the rest of the money."""
    chance = random.Random(seed)
    teacher = ApiTeacher.model_validate(
        {
            "kind": "api",
            "base_url": "http://simulated/v1",
            "model": "teacher",
            "concurrency": STREAMS,
            "sampling": {"max_new_tokens": chance.choice((50, 500, 4000))},
        }
    )
    rows = [Row(number, None, "x" * chance.randint(1, 900), None) for number in range(JOBS)]
    jobs = [Job(f"{number:064x}", row) for number, row in enumerate(rows)]
    endpoint = SimulatedEndpoint(seed, teacher.sampling.max_new_tokens)
    worst = sum(
        worst_input_tokens(job) * INPUT_PRICE + teacher.sampling.max_new_tokens * OUTPUT_PRICE
        for job in jobs
    )
    budget = int(worst * Decimal(repr(chance.uniform(0.02, 1.2))))
    run = RunDir(folder / f"api-{seed}")
    run.path.mkdir()
    answers, left = 0, budget
    for attempt in (1, 2):
        dies_after = chance.randint(1, JOBS) if attempt == 1 else None
        traces = Traces(jobs[answers:])
        _attempt(run, teacher, endpoint, traces, attempt, left, dies_after)
        answers += len(traces.kept)
        events = [event for event, _ in read_events(run.events)]
        left = budget - asked_micro_usd(events)
    return Outcome(budget, _most_committed(events), endpoint.billed, answers)


def _attempt(
    run: RunDir,
    teacher: ApiTeacher,
    endpoint: SimulatedEndpoint,
    traces: Traces,
    attempt: int,
    budget: int,
    dies_after: int | None,
) -> None:
    """What `distill.teacher_api.ask_endpoint` does, killed after so many answers."""
    limits = Limits(
        attempt=attempt,
        started_at=0.0,
        usd_per_hour=Decimal(0),
        machine_usd=Decimal(0),
        api_usd=from_micro_usd(budget),
        api_usd_per_million_input_tokens=INPUT_PRICE,
        api_usd_per_million_output_tokens=OUTPUT_PRICE,
    )
    log = EventLog(run.events, attempt)
    recipe: Any = None  # no stage that needs one takes part
    context = Context(run, recipe, limits, log, Stop(limits), "cpu")
    desk = Desk(context, traces, Purse(context))  # type: ignore[arg-type]
    answers = count(1)

    def one_more() -> None:
        if next(answers) == dies_after:
            desk.close()

    endpoint.on_answer = one_more
    patience = Patience(now=_Hurry().now, sleep=lambda seconds: None)
    threads = [
        threading.Thread(target=_ask_all, args=(desk, teacher, endpoint, patience))
        for _ in range(teacher.concurrency)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    desk.close()
    log.close()


class _Hurry:
    """A clock that goes on a second with each look."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        self._now += 1.0
        return self._now


def _most_committed(events: Iterable[Any]) -> int:
    """Spent and reserved at its highest, from the events in their order [micro-dollars]."""
    reserved: dict[int, int] = {}
    spent = most = 0
    for event in events:
        if isinstance(event, ApiReserved):
            reserved[event.request] = event.micro_usd
        elif isinstance(event, ApiUsage):
            reserved.pop(event.request, None)
            spent += event.micro_usd
        most = max(most, spent + sum(reserved.values()))
    return most
