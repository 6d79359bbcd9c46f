"""A run from its first entry in the ledger to its last: where work is started and settled.

    planned -> starting -> running -> done | stopped | failed | interrupted -> (resume) starting …

Each step is in the ledger before it is taken, so that any process can pick a run up where another
one was killed: `drive` is what `still launch` and `still resume` both call, and it asks the
ledger and the run's folder, never its own memory, where the run stands.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass

from launcher.local import Follower, Machine
from launcher.plan import Plan, summary
from launcher.view import View, Watched, news
from recipes.errors import InterruptedRunError, RefusedError, StillhouseError, StoppedError
from recipes.money import (
    SECONDS_PER_HOUR,
    format_usd,
    from_micro_usd,
    to_micro_usd,
)
from recipes.recipe import Recipe
from recipes.rundir import (
    AnyEvent,
    ApiUsage,
    Done,
    Failed,
    Limits,
    RunDir,
    WorkerEnded,
    attempt_events,
    read_events,
    read_model,
    write_model,
)
from tracking.books import Attempt, Books
from tracking.entries import (
    AttemptEnded,
    AttemptStarted,
    Git,
    Opened,
    Quantiles,
    StateChanged,
    Teardown,
)
from tracking.home import Home
from tracking.ledger import Ledger
from tracking.metering import machine_lines

POLL_S = 0.2
"""How often a run is looked at [s]."""


@dataclass
class House:
    """Everything outside that a run needs, passed in."""

    home: Home
    ledger: Ledger
    machine: Machine
    view: View
    tracker: Callable[[str], None]
    """Starts what follows a run into MLflow. Whatever happens to it, the run goes on."""
    interrupts: Callable[[], int] = lambda: 0
    """How many times a person has pressed Ctrl-C."""
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep


def open_run(house: House, run_id: str, recipe: Recipe, plan: Plan, git: Git) -> None:
    """Record a run, before anything of it exists or costs."""
    usd = plan.usd
    house.ledger.open_run(
        run_id,
        Opened(
            recipe=recipe.model_dump(mode="json"),
            plan=summary(plan),
            budget_micro_usd=to_micro_usd(recipe.budget.usd),
            hours=recipe.budget.hours,
            estimated_usd=Quantiles(p10=usd.p10, p50=usd.p50, p90=usd.p90),
            git=git,
        ),
    )
    run = house.home.run(run_id)
    run.path.mkdir(parents=True, mode=0o700)
    write_model(run.plan, plan)
    write_model(run.recipe, recipe)


def drive(house: House, run_id: str, *, allow_remote_code: bool = False) -> None:
    """Take a run from wherever it stands to its end, showing it. Returns when it is done.

    Raises:
        RefusedError: another process drives it, or nothing of its budget is left.
        StoppedError: stopped at its budget or its hours; what is done is saved.
        InterruptedRunError: a person stopped it; it can be resumed.
        StillhouseError: it failed, and says why.
    """
    run = house.home.run(run_id)
    with Follower(run):
        attempt = house.ledger.books(run_id).open_attempt
        if attempt is not None and not house.machine.is_alive(run):
            _close_attempt(house, run, attempt, ended_at=None)
            attempt = None
        if attempt is None and not run.done.exists():
            attempt = _begin_attempt(house, run, allow_remote_code)
        if attempt is not None:
            house.tracker(run_id)
            _follow(house, run, attempt)
            _close_attempt(house, run, attempt, ended_at=house.clock())
        _conclude(house, run)


def reopen(run: RunDir) -> None:
    """Make a run that stopped at a limit one that can go on from its last checkpoint."""
    for path in (run.student, run.answers):
        shutil.rmtree(path, ignore_errors=True)
    run.scores.unlink(missing_ok=True)
    run.done.unlink(missing_ok=True)


# ---- an attempt: one start of the worker -----------------------------------------------------


def _begin_attempt(house: House, run: RunDir, allow_remote_code: bool) -> Attempt:
    run_id, ledger = run.path.name, house.ledger
    books, recipe, plan = ledger.books(run_id), run.read_recipe(), read_model(run.plan, Plan)
    seconds, left = _seconds_left(books, recipe), _money_left(books)
    api = min(left, to_micro_usd(plan.usd_of("teacher_api").p90))
    machine = left - api
    ledger.append(run_id, StateChanged(state="starting"))
    if api:
        ledger.reserve(run_id, "teacher_api", api, "answers of the teacher, at their longest")
    started = AttemptStarted(
        attempt=len(books.attempts) + 1,
        started_at=house.clock(),
        usd_per_hour=plan.offer.usd_per_hour,
        price_source=plan.offer.source,
        price_as_of=plan.offer.as_of,
        offer=plan.offer.model_dump(mode="json"),
        reservation=ledger.reserve(run_id, "train", machine, "the machine, to its last second"),
    )
    ledger.append(run_id, started)
    write_model(
        run.limits,
        Limits(
            attempt=started.attempt,
            started_at=started.started_at,
            usd_per_hour=started.usd_per_hour,
            machine_usd=from_micro_usd(machine),
            seconds=seconds,
            api_usd=from_micro_usd(api),
            api_usd_per_million_input_tokens=plan.unit_price("teacher_api input"),
            api_usd_per_million_output_tokens=plan.unit_price("teacher_api output"),
            checkpoint_every_s=plan.checkpoint_s,
            evaluation_s=plan.seconds_of("evaluate"),
            allow_remote_code=allow_remote_code,
        ),
    )
    ledger.append(run_id, StateChanged(state="running"))
    house.machine.start(run)
    attempt = ledger.books(run_id).open_attempt
    assert attempt is not None, "the attempt that was just recorded"
    return attempt


def _seconds_left(books: Books, recipe: Recipe) -> float | None:
    """Seconds of the recipe's hours that earlier attempts have not used; `None` is no limit."""
    if recipe.budget.hours is None:
        return None
    used = sum((a.ended_at or a.started_at) - a.started_at for a in books.attempts)
    left = float(recipe.budget.hours) * SECONDS_PER_HOUR - used
    if left <= 0:
        raise RefusedError(
            f"{books.run_id} has used its {recipe.budget.hours} hours. "
            "Launch its recipe again with more hours."
        )
    return left


def _money_left(books: Books) -> int:
    if books.free_micro_usd <= 0:
        raise RefusedError(
            f"{books.run_id} has used its budget of "
            f"{format_usd(from_micro_usd(books.budget_micro_usd))}. "
            f"To let it go on: `still budget {books.run_id} --raise USD`."
        )
    return books.free_micro_usd


def _follow(house: House, run: RunDir, attempt: Attempt) -> None:
    """Show a worker until it has ended; pass a person's wish to stop on to it."""
    books = house.ledger.books(run.path.name)
    watched = Watched(
        run_id=run.path.name,
        budget_usd=from_micro_usd(books.budget_micro_usd),
        usd_per_hour=attempt.usd_per_hour,
        started_at=attempt.started_at,
        spent_micro_usd=books.spent_micro_usd,
    )
    offset, heard = 0, 0
    while True:
        alive = house.machine.is_alive(run)
        for event, end in read_events(run.events, offset):
            offset = end
            if event.attempt == attempt.number:
                watched = watched.see(event)
                if text := news(event):
                    house.view.say(text)
        house.view.show(watched, house.clock())
        if not alive:
            return
        heard = _pass_on_interrupts(house, run, heard)
        house.sleep(POLL_S)


def _pass_on_interrupts(house: House, run: RunDir, heard: int) -> int:
    pressed = house.interrupts()
    if pressed > heard:
        if pressed == 1:
            house.view.say("asking the worker to save; Ctrl-C once more ends it at once")
            house.machine.ask_to_save(run)
        else:
            house.machine.kill(run)
    return pressed


def _close_attempt(house: House, run: RunDir, attempt: Attempt, ended_at: float | None) -> None:
    """Settle everything an attempt has cost.

    Args:
        ended_at: when the machine stopped [unix s]; `None` where nobody looked: then its last
            sign of life counts.
    """
    run_id = run.path.name
    events = attempt_events(run, attempt.number)
    if ended_at is None:
        ended_at = max(attempt.started_at, events[-1].t if events else attempt.started_at)
    for reservation in house.ledger.books(run_id).reservations:
        if reservation.id == attempt.reservation:
            lines = machine_lines(
                events, attempt.number, attempt.started_at, ended_at, attempt.usd_per_hour
            )
        else:
            lines = {"teacher_api": sum(e.micro_usd for e in events if isinstance(e, ApiUsage))}
        house.ledger.settle(reservation.id, lines)
    house.ledger.append(
        run_id, AttemptEnded(attempt=attempt.number, ended_at=ended_at, how=_how(events))
    )


def _how(events: list[AnyEvent]) -> str:
    ends = [event.status for event in events if isinstance(event, WorkerEnded)]
    return ends[-1] if ends else "lost"


# ---- the end ---------------------------------------------------------------------------------


def _conclude(house: House, run: RunDir) -> None:
    """Write down how the run ended, and say it: by returning, or as the error of its kind."""
    run_id = run.path.name
    house.ledger.append(
        run_id, Teardown(proved=True, detail="nothing was rented: it ran on this machine")
    )
    try:
        _raise_unless_done(run)
    except StoppedError as stopped:
        house.ledger.append(run_id, StateChanged(state="stopped", reason=str(stopped)))
        raise
    except InterruptedRunError as interrupted:
        house.ledger.append(run_id, StateChanged(state="interrupted", reason=str(interrupted)))
        raise
    except StillhouseError as failure:
        house.ledger.append(run_id, StateChanged(state="failed", reason=str(failure)))
        raise
    house.ledger.append(run_id, StateChanged(state="done"))


def _raise_unless_done(run: RunDir) -> None:
    run_id = run.path.name
    if run.done.exists():
        done = read_model(run.done, Done)
        if done.status == "stopped":
            raise StoppedError(_stopped(run_id, done))
        return
    events = [event for event, _ in read_events(run.events)]
    how = _how(events[-1:])
    if how == "interrupted":
        raise InterruptedRunError(f"{run_id} is saved. `still resume {run_id}` goes on from there.")
    said = [event for event in events if isinstance(event, Failed)]
    if how == "failed" and said:
        raise StillhouseError(
            f"{said[-1].message}. {said[-1].remedy}. What was finished stays: after the change, "
            f"`still resume {run_id}`."
        )
    raise StillhouseError(
        f"the worker of {run_id} ended without a word: killed, or out of memory. Its last output "
        f"is in {run.log}. `still resume {run_id}` goes on from what was saved."
    )


def _stopped(run_id: str, done: Done) -> str:
    limit = {"budget": "its budget", "deadline": "its hours", None: "a limit"}[done.reason]
    if done.steps == 0:
        saved = "before the training began, so there is no student yet; the data is kept"
    else:
        saved = f"after {done.steps:,} of {done.of_steps:,} steps; the student of then is saved"
    return f"{run_id} stopped at {limit}, {saved}. `still show {run_id}` has the receipt."
