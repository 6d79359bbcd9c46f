"""A run from its first entry in the ledger to its last: where work is started and settled.

    planned -> starting -> running -> done | stopped | failed | interrupted -> (resume) starting …
                   ^          |
                   +- lost ---+   a machine that was taken away is followed by another

Each step is in the ledger before it is taken, so that any process can pick a run up where another
one was killed: `drive` is what `still launch`, `still resume` and the watcher all call, and it
asks the ledger, the run's folder and the backend, never its own memory, where the run stands.
"""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from launcher.errors import ProvisionError
from launcher.machines.at_home import HOME
from launcher.machines.backend import Backend, Paid, Sight
from launcher.machines.local import Follower
from launcher.market.offers import LOCAL, Offer
from launcher.plans.plan import Plan, summary
from launcher.runs.notices import Kind, Notice
from launcher.runs.tell import tell, tell_budget
from launcher.runs.view import View, Watched, news
from launcher.runs.wishes import forget_wish, wish_of
from recipes.errors import (
    InterruptedRunError,
    RefusedError,
    StillhouseError,
    StoppedError,
    TeardownUnprovedError,
)
from recipes.money import (
    SECONDS_PER_HOUR,
    format_usd,
    from_micro_usd,
    machine_micro_usd,
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
from recipes.store import StoreError
from tracking.books import Attempt, Books
from tracking.entries import (
    AttemptEnded,
    AttemptStarted,
    Git,
    Line,
    Noted,
    Opened,
    Quantiles,
    RunState,
    StateChanged,
    Teardown,
)
from tracking.home import Home
from tracking.ledger import Ledger
from tracking.metering import machine_lines

STORE = "store"
"""The note that says where a run's files live."""

LEAST_S = 300.0
"""With less than this no machine is rented: it would have to go when it has hardly come [s]."""

LOADING_S = 2.0
"""Loading the student again, on a machine that does other things too [s]."""

NO_MACHINE = "no machine"
"""How an attempt ends whose offer yielded none."""

ANSWERED = "answered"
"""How an attempt ends that asked the teacher for all of its answers."""


@dataclass
class House:
    """Everything outside that a run needs, passed in."""

    home: Home
    ledger: Ledger
    backend: Backend
    view: View
    tracker: Callable[[str], None]
    """Starts what follows a run into MLflow. Whatever happens to it, the run goes on."""
    next_offer: Callable[[Plan, Books], Offer | None] = lambda plan, _books: plan.offer
    """What to rent for the next attempt; `None` where nothing is left to try."""
    notify: Callable[[Notice], None] | None = None
    """Tells people who are not looking. Returns at once and raises nothing."""
    interrupts: Callable[[], int] = lambda: 0
    """How many times a person has pressed Ctrl-C."""
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    poll_s: float = 0.2
    """How often a run is looked at [s]."""
    patience_s: float = 900.0
    """How long a rented machine may go without any progress [s]."""


def open_run(
    home: Home,
    ledger: Ledger,
    run_id: str,
    recipe: Recipe,
    plan: Plan,
    git: Git,
    store: str | None = None,
) -> None:
    """Record a run, before anything of it exists or costs.

    Args:
        store: where its files live besides this machine: a folder or `s3://…` of its own.
    """
    usd = plan.usd
    ledger.open_run(
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
    if store is not None:
        ledger.append(run_id, Noted(key=STORE, value=store))
    run = home.run(run_id)
    run.path.mkdir(parents=True, mode=0o700)
    write_model(run.plan, plan)
    write_model(run.recipe, recipe)


def drive(house: House, run_id: str, *, allow_remote_code: bool = False) -> None:
    """Take a run from wherever it stands to its end, showing it. Returns when it is done.

    Raises:
        RefusedError: another process drives it, or nothing of its budget is left.
        StoppedError: stopped at its budget or its hours; what is done is saved.
        InterruptedRunError: a person stopped it; it can be resumed.
        TeardownUnprovedError: something of it may still cost.
        StillhouseError: it failed, and says why.
    """
    run = house.home.run(run_id)
    with Follower(run):
        attempt = house.ledger.books(run_id).open_attempt
        if attempt is not None and house.backend.look(run) != "alive":
            _close_attempt(house, run, attempt, seen=False)
            attempt = None
        with _end_recorded(house, run_id):
            while attempt is not None or not run.done.exists():
                attempt = attempt or _begin_attempt(house, run, allow_remote_code)
                house.tracker(run_id)
                again = _attempt_to_its_end(house, run, attempt)
                attempt = None
                if not again:
                    break
            _raise_unless_done(run)


def release(house: House, run_id: str) -> None:
    """Give back all that a run has rented, when nobody drives it; may be repeated.

    Raises:
        RefusedError: somebody drives it.
        TeardownUnprovedError: something may still be there.
    """
    run = house.home.run(run_id)
    with Follower(run):
        if attempt := house.ledger.books(run_id).open_attempt:
            _close_attempt(house, run, attempt)
            reason = "everything was given back"
            state: RunState = "interrupted"
            if run.done.exists():
                state = read_model(run.done, Done).status
            house.ledger.append(run_id, StateChanged(state=state, reason=reason))
            tell(house, run_id, "stopped", reason)
        else:
            _release_orphans(house, run_id)
            attempts = house.ledger.books(run_id).attempts
            released = house.backend.release(run, attempts[-1].number if attempts else 0)
            house.ledger.append(run_id, Teardown(proved=released.proved, detail=released.detail))
        _check_teardown(house, run_id)


def reopen(run: RunDir) -> None:
    """Make a run that stopped at a limit one that can go on from its last checkpoint."""
    for path in (run.student, run.answers):
        shutil.rmtree(path, ignore_errors=True)
    run.scores.unlink(missing_ok=True)
    run.done.unlink(missing_ok=True)


# ---- an attempt: one start of the worker -----------------------------------------------------


def _begin_attempt(house: House, run: RunDir, allow_remote_code: bool) -> Attempt:
    """Record and start the next attempt, on the first offer that yields a machine.

    Raises:
        RefusedError: nothing of the budget or of the hours is left.
        ProvisionError: no offer yields a machine.
    """
    forget_wish(run)
    plan = read_model(run.plan, Plan)
    while True:
        books = house.ledger.books(run.path.name)
        offer = HOME if _asks_teacher_first(house, run, books) else house.next_offer(plan, books)
        if offer is None:
            raise _no_machine(books)
        attempt = _record_attempt(house, run, plan, offer, allow_remote_code)
        try:
            house.backend.start(run, offer)
        except ProvisionError as error:
            house.view.say(f"{offer.name}: {error}")
            _close_attempt(house, run, attempt, how=NO_MACHINE)
            continue
        except StillhouseError:
            _close_attempt(house, run, attempt, how=NO_MACHINE)
            raise
        house.ledger.append(run.path.name, StateChanged(state="running"))
        tell(house, run.path.name, "started", f"attempt {attempt.number} runs on {offer.name}")
        return attempt


def _asks_teacher_first(house: House, run: RunDir, books: Books) -> bool:
    """Whether answers of a teacher behind an API are still to be had before machines are rented."""
    if not house.backend.rented or run.read_recipe().teacher.kind != "api":
        return False
    return ANSWERED not in {attempt.how for attempt in books.attempts}


def _record_attempt(
    house: House, run: RunDir, plan: Plan, offer: Offer, allow_remote_code: bool
) -> Attempt:
    """Set money aside for an attempt and write it down, before anything of it exists."""
    run_id, ledger = run.path.name, house.ledger
    _release_orphans(house, run_id)
    books = ledger.books(run_id)
    seconds, left = _seconds_left(books, run.read_recipe()), _money_left(books)
    here = offer.cloud == LOCAL
    api = min(left, to_micro_usd(plan.usd_of("teacher_api").p90)) if here else 0
    machine = 0 if offer is HOME else left - api
    closing = machine_micro_usd(offer.usd_per_hour, house.backend.closing_s)
    if not here:
        _check_enough(run_id, offer, machine - closing, seconds)
    state: RunState = "starting" if here else "provisioning"
    ledger.append(run_id, StateChanged(state=state, reason=offer.name))
    if api:
        ledger.reserve(run_id, "teacher_api", api, "answers of the teacher, at their longest")
    started = AttemptStarted(
        attempt=len(books.attempts) + 1,
        started_at=house.clock(),
        usd_per_hour=offer.usd_per_hour,
        price_source=offer.source,
        price_as_of=offer.as_of,
        offer=offer.as_json(),
        reservation=ledger.reserve(run_id, "train", machine, "the machine, to its last second"),
    )
    ledger.append(run_id, started)
    write_model(
        run.limits,
        Limits(
            attempt=started.attempt,
            started_at=started.started_at,
            usd_per_hour=started.usd_per_hour,
            machine_usd=from_micro_usd(max(0, machine - closing)),
            seconds=None if seconds is None else max(1.0, seconds - house.backend.closing_s),
            api_usd=from_micro_usd(api),
            api_usd_per_million_input_tokens=plan.unit_price("teacher_api input"),
            api_usd_per_million_output_tokens=plan.unit_price("teacher_api output"),
            checkpoint_every_s=plan.checkpoint_s,
            evaluation_s=_evaluation_s(plan),
            only="generate" if offer is HOME else None,
            allow_remote_code=allow_remote_code,
            store=books.notes.get(STORE),
        ),
    )
    attempt = ledger.books(run_id).open_attempt
    assert attempt is not None, "the attempt that was just recorded"
    return attempt


def _check_enough(run_id: str, offer: Offer, micro_usd: int, seconds: float | None) -> None:
    """
    Raises:
        RefusedError: a machine would hardly be there before it had to go.
    """
    if micro_usd < machine_micro_usd(offer.usd_per_hour, LEAST_S):
        left = format_usd(from_micro_usd(max(0, micro_usd)))
        raise RefusedError(
            f"what is left of the budget of {run_id} is {left} for work, and {offer.name} costs "
            f"${offer.usd_per_hour}/h: not enough to begin. `still budget {run_id} --raise USD`."
        )
    if seconds is not None and seconds < LEAST_S:
        raise RefusedError(
            f"{run_id} has {seconds:.0f} s of its hours left: not enough to begin. "
            "Launch its recipe again with more hours."
        )


def _release_orphans(house: House, run_id: str) -> None:
    """Free what a launcher set aside that was killed before its attempt began."""
    for orphan in house.ledger.books(run_id).reservations:
        house.ledger.release(orphan.id)


def _evaluation_s(plan: Plan) -> float | None:
    """What to keep for scoring a student whose training ends early [s]; `None` is unknown."""
    likely = plan.seconds_of("evaluate")
    return None if likely is None else likely + LOADING_S


def _no_machine(books: Books) -> ProvisionError:
    tried = [str(a.offer.get("name")) for a in books.attempts if a.how == NO_MACHINE]
    return ProvisionError(
        f"no machine could be had for {books.run_id}: tried {', '.join(tried) or 'nothing'}. "
        f"Nothing of it runs. `still resume {books.run_id}` tries again."
    )


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


def _attempt_to_its_end(house: House, run: RunDir, attempt: Attempt) -> bool:
    """Follow an attempt, give its machines back, settle it. Whether another one should follow."""
    try:
        sight = _follow(house, run, attempt)
    except StillhouseError:  # nobody would look at its machines any more
        _close_attempt(house, run, attempt, seen=True)
        raise
    how = _close_attempt(house, run, attempt, seen=True)
    tell_budget(house, run.path.name)
    if how == ANSWERED:
        return True
    wished = wish_of(run) is not None or house.interrupts() > 0
    taken_away = sight == "lost" or how == "interrupted"
    if not (house.backend.rented and taken_away) or wished:
        return False
    text = "the machine was taken away; going on from the last checkpoint on another one"
    house.ledger.append(run.path.name, StateChanged(state="interrupted", reason=text))
    tell(house, run.path.name, "interrupted", text)
    house.view.say(text)
    return True


def _follow(house: House, run: RunDir, attempt: Attempt) -> Sight:
    """Show a worker until it is over; pass on what a person wishes; end one that hangs."""
    books = house.ledger.books(run.path.name)
    watched = Watched(
        run_id=run.path.name,
        budget_usd=from_micro_usd(books.budget_micro_usd),
        usd_per_hour=attempt.usd_per_hour,
        started_at=attempt.started_at,
        spent_micro_usd=books.spent_micro_usd,
        plan=read_model(run.plan, Plan),
        budget_hours=books.opened.hours,
        earlier_hours=books.hours_used,
        moved_at=house.clock(),
    )
    offset, granted, warned, asked = 0, 0, False, 0
    while True:
        sight = house.backend.look(run)
        for event, end in read_events(run.events, offset):
            offset = end
            if event.attempt == attempt.number:
                watched = watched.see(event)
                asked += event.micro_usd if isinstance(event, ApiUsage) else 0
                if text := news(event):
                    house.view.say(text)
        house.view.show(watched, house.clock())
        if sight != "alive":
            return sight
        tell_budget(house, run.path.name, asked + watched.running_micro_usd(house.clock()))
        if not warned and (text := watched.warning(house.clock())):
            house.view.say(text)
            warned = True
        granted = _grant_wishes(house, run, granted)
        if house.backend.rented and house.clock() - watched.moved_at > house.patience_s:
            house.view.say(f"nothing has moved for {house.patience_s:.0f} s: ending the worker")
            house.backend.kill(run)
            return "ended"
        house.sleep(house.poll_s)


def _grant_wishes(house: House, run: RunDir, granted: int) -> int:
    """Have a worker save at the first wish of a person, and end it at the second."""
    wishes = max(house.interrupts(), {None: 0, "stop": 1, "down": 2}[wish_of(run)])
    if wishes > granted:
        if wishes == 1:
            house.view.say("asking the worker to save; Ctrl-C once more ends it at once")
            try:
                house.backend.ask_to_save(run)
            except StoreError as error:  # the run store is away: at the next look again
                house.view.say(str(error))
                return granted
        else:
            house.backend.kill(run)
    return wishes


def _close_attempt(
    house: House, run: RunDir, attempt: Attempt, *, seen: bool = False, how: str | None = None
) -> str:
    """Give back an attempt's machines and settle everything it has cost. How it ended.

    Args:
        seen: somebody saw it end just now; else its last sign of life counts, where the provider
            has no better word.
        how: it ended; as its own last event says where left out.
    """
    run_id, ledger = run.path.name, house.ledger
    released = house.backend.release(run, attempt.number)
    if not released.proved:  # it may go on costing: the attempt stays open until it is proved
        ledger.append(run_id, Teardown(proved=released.proved, detail=released.detail))
        _check_teardown(house, run_id)
    events = attempt_events(run, attempt.number)
    how = how or _how(events)
    paid = released.paid
    if paid is None:
        last_s = house.clock() if seen else max([attempt.started_at, *(e.t for e in events[-1:])])
        paid = (Paid(attempt.started_at, last_s, _nodes(attempt)),)
    assert attempt.reservation is not None, "an attempt begins with what pays for it"
    for reservation in ledger.books(run_id).reservations:
        if reservation.id != attempt.reservation:
            asked = sum(event.micro_usd for event in events if isinstance(event, ApiUsage))
            ledger.settle(reservation.id, {"teacher_api": asked})
    ended_at = max([attempt.started_at, *(machine.ended_at for machine in paid)])
    ledger.settle(
        attempt.reservation,
        _paid_lines(events, attempt, paid),
        Teardown(proved=released.proved, detail=released.detail),
        AttemptEnded(attempt=attempt.number, ended_at=ended_at, how=how),
    )
    return how


def _paid_lines(
    events: list[AnyEvent], attempt: Attempt, paid: tuple[Paid, ...]
) -> dict[Line, int]:
    """What the machines of an attempt cost, by line [micro-dollars]."""
    lines: Counter[Line] = Counter()
    for machine in paid:
        lines.update(
            machine_lines(
                events,
                attempt.number,
                machine.started_at,
                max(machine.started_at, machine.ended_at),
                attempt.usd_per_hour * machine.nodes / _nodes(attempt),
            )
        )
    return dict(lines)


def _nodes(attempt: Attempt) -> int:
    return int(attempt.offer.get("nodes", 1))


def _how(events: list[AnyEvent]) -> str:
    ends = [event.status for event in events if isinstance(event, WorkerEnded)]
    return ends[-1] if ends else "lost"


# ---- the end ---------------------------------------------------------------------------------


@contextmanager
def _end_recorded(house: House, run_id: str) -> Iterator[None]:
    """Write down how the run ends: by returning, or as the error of its kind."""
    try:
        yield
    except (RefusedError, TeardownUnprovedError):
        raise  # nothing was begun, or nothing is over: so nothing has changed
    except StillhouseError as error:
        state: RunState = "failed"
        if isinstance(error, StoppedError):
            state = "stopped"
        elif isinstance(error, InterruptedRunError):
            state = "interrupted"
        house.ledger.append(run_id, StateChanged(state=state, reason=str(error)))
        kind: Kind = "failed" if state == "failed" else "stopped"
        tell(house, run_id, kind, str(error))
        _check_teardown(house, run_id)
        raise
    house.ledger.append(run_id, StateChanged(state="done"))
    tell(house, run_id, "done", f"{run_id} is done; `still show {run_id}` has its receipt")
    _check_teardown(house, run_id)


def _check_teardown(house: House, run_id: str) -> None:
    teardown = house.ledger.books(run_id).teardown
    if teardown is not None and not teardown.proved:
        text = (
            f"{run_id} may still cost money: {teardown.detail}. "
            f"`still down {run_id}` tries again, and may be repeated."
        )
        tell(house, run_id, "teardown_unproved", text)
        raise TeardownUnprovedError(text)


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
