"""See a run that another process drives: its states, its news, where it is now.

Reads the ledger and the run's folder and changes nothing: any number of people can look, and none
of them can hold the run up.
"""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

from launcher.machines.local import is_locked
from launcher.plans.plan import Plan
from launcher.runs.house import House
from launcher.runs.view import Watched, news
from recipes.errors import InterruptedRunError, StillhouseError, StoppedError
from recipes.money import from_micro_usd
from recipes.rundir import RunDir, read_events, read_model
from tracking.books import Books

PATIENCE_S = 60.0
"""How long a run may be without anybody who drives it before it is called left alone [s]."""


def follow(
    house: House, run_id: str, since: float, watcher: Callable[[], bool] = lambda: False
) -> None:
    """Show a run until it is over. Returns when it is done.

    Args:
        since: states from then on are shown [unix s].
        watcher: whether a process lives that was started to drive it and may not do so yet.

    Raises:
        StoppedError, InterruptedRunError, StillhouseError: as `launcher.runs.run.drive`.
        InterruptedRunError: the person who looks has seen enough; the run goes on.
    """
    run = house.home.run(run_id)
    offset, shown, driven_at, warned = 0, since, house.clock(), False
    plan = read_model(run.plan, Plan)
    watched = Watched(run_id, Decimal(0), Decimal(0), house.clock())
    while True:
        driven = watcher() or is_driven(run)
        books = house.ledger.books(run_id)
        watched = _with_money_of(watched, books, plan)
        for state in books.states:
            if state.at > shown:
                shown = state.at
                house.view.say(f"{state.state}: {state.reason}" if state.reason else state.state)
        for event, end in read_events(run.events, offset):
            offset = end
            watched = watched.see(event)
            if event.t > since and (text := news(event)):
                house.view.say(text)
        house.view.show(watched, house.clock())
        if not warned and (text := watched.warning(house.clock())):
            house.view.say(text)
            warned = True
        if driven:
            driven_at = house.clock()
        elif books.over or books.state == "interrupted":
            return raise_outcome(books)
        elif house.clock() - driven_at > PATIENCE_S:
            raise StillhouseError(
                f"nobody drives {run_id} any more. `still watch {run_id}` takes it over."
            )
        if house.interrupts():
            raise InterruptedRunError(
                f"{run_id} goes on without you. `still watch {run_id}` shows it again, "
                f"`still stop {run_id}` has it save and end, `still down {run_id}` ends it at once."
            )
        house.sleep(house.poll_s)


def is_driven(run: RunDir) -> bool:
    """Whether a living process drives this run."""
    return is_locked(run.path / "launcher.lock")


def raise_outcome(books: Books) -> None:
    """Say how a run ended that somebody else drove: by returning, or as the error of its kind."""
    kinds: dict[str, Callable[[str], StillhouseError]] = {
        "stopped": StoppedError,
        "interrupted": InterruptedRunError,
        "failed": StillhouseError,
    }
    if kind := kinds.get(books.state):
        raise kind(books.reason)


def _with_money_of(watched: Watched, books: Books, plan: Plan) -> Watched:
    attempt = books.open_attempt
    return replace(
        watched,
        budget_usd=from_micro_usd(books.budget_micro_usd),
        usd_per_hour=attempt.usd_per_hour if attempt else Decimal(0),
        started_at=attempt.started_at if attempt else watched.started_at,
        repriced=attempt.repriced if attempt else (),
        spent_micro_usd=books.spent_micro_usd,
        plan=plan if attempt else None,
        budget_hours=books.opened.hours,
        earlier_hours=books.hours_used,
    )
