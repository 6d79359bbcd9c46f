"""A run from its first entry in the ledger to its last: where work is started and settled.

    planned -> starting -> running -> done | stopped | failed | interrupted -> (resume) starting …
                   ^          |
                   +- lost ---+   a machine that was taken away is followed by another

Each step is in the ledger before it is taken, so that any process can pick a run up where another
one was killed: `drive` is what `still launch`, `still resume` and the watcher all call, and it
asks the ledger, the run's folder and the backend, never its own memory, where the run stands.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from launcher.errors import StoodDownError
from launcher.machines.backend import Sight
from launcher.machines.local import Follower
from launcher.plans.plan import Plan, summary
from launcher.runs.attempts import (
    ANSWERED,
    begin_attempt,
    check_teardown,
    close_attempt,
    how_it_ended,
    release_orphans,
)
from launcher.runs.house import STORE, House
from launcher.runs.notices import Kind
from launcher.runs.spot_watch import SpotWatch
from launcher.runs.tell import tell, tell_budget
from launcher.runs.view import Watched, news
from launcher.runs.wishes import wish_of
from recipes.errors import (
    InterruptedRunError,
    RefusedError,
    StillhouseError,
    StoppedError,
    TeardownUnprovedError,
)
from recipes.money import (
    from_micro_usd,
    to_micro_usd,
)
from recipes.recipe import Recipe
from recipes.rundir import (
    ApiUsage,
    Done,
    Failed,
    RunDir,
    read_events,
    read_model,
    write_model,
)
from recipes.store import StoreError
from tracking.books import Attempt, Books
from tracking.entries import (
    Git,
    Noted,
    Opened,
    Quantiles,
    RunState,
    StateChanged,
    Teardown,
)
from tracking.home import Home
from tracking.ledger import Ledger


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
        StoodDownError: another home has taken it over.
        StoppedError: stopped at its budget or its hours; what is done is saved.
        InterruptedRunError: a person stopped it; it can be resumed.
        TeardownUnprovedError: something of it may still cost.
        StillhouseError: it failed, and says why.
    """
    run = house.home.run(run_id)
    with Follower(run, house.sleep), _in_the_store(house):
        attempt = house.ledger.books(run_id).open_attempt
        if attempt is not None and house.backend.look(run) != "alive":
            close_attempt(house, run, attempt, seen=False)
            attempt = None
        is_first = True
        with _end_recorded(house, run_id):
            while attempt is not None or may_go_on(house.ledger.books(run_id), run):
                attempt = attempt or _next_attempt(house, run, allow_remote_code, is_first)
                house.tracker(run_id)
                again = _attempt_to_its_end(house, run, attempt)
                attempt, is_first = None, False
                if not again:
                    break
            _raise_unless_done(run, wished=_is_wished(house, run))


def _next_attempt(house: House, run: RunDir, allow_remote_code: bool, is_first: bool) -> Attempt:
    """
    Raises:
        InterruptedRunError: after a machine that was lost too little is left for another one.
    """
    try:
        return begin_attempt(house, run, allow_remote_code)
    except StoodDownError:
        raise
    except RefusedError as error:
        if is_first:
            raise
        raise InterruptedRunError(str(error)) from error


def release(house: House, run_id: str) -> None:
    """Give back all that a run has rented, when nobody drives it; may be repeated.

    Raises:
        RefusedError: somebody drives it.
        StoodDownError: another home has taken it over.
        TeardownUnprovedError: something may still be there.
    """
    run = house.home.run(run_id)
    with Follower(run, house.sleep), _in_the_store(house):
        if attempt := house.ledger.books(run_id).open_attempt:
            close_attempt(house, run, attempt)
            reason = "everything was given back"
            state: RunState = "interrupted"
            if run.done.exists():
                state = read_model(run.done, Done).status
            house.ledger.append(run_id, StateChanged(state=state, reason=reason))
            tell(house, run_id, "stopped", reason)
        else:
            release_orphans(house, run_id)
            attempts = house.ledger.books(run_id).attempts
            released = house.backend.release(run, attempts[-1].number if attempts else 0)
            house.ledger.append(run_id, Teardown(proved=released.proved, detail=released.detail))
        check_teardown(house, run_id)


def may_go_on(books: Books, run: RunDir) -> bool:
    """Whether work is left: nothing is done, or it stopped for want of money and was given more."""
    if not run.done.exists():
        return True
    done = read_model(run.done, Done)
    return (done.status, done.reason) == ("stopped", "budget") and books.raised_since_attempt


@contextmanager
def _in_the_store(house: House) -> Iterator[None]:
    """Have the run's store know who drives, and in the end what came of it."""
    house.mirror.hold()
    try:
        yield
    except StillhouseError:
        house.mirror.hold()
        raise
    house.mirror.hold()


# ---- following an attempt --------------------------------------------------------------------


def _attempt_to_its_end(house: House, run: RunDir, attempt: Attempt) -> bool:
    """Follow an attempt, give its machines back, settle it. Whether another one should follow."""
    try:
        sight = _follow(house, run, attempt)
    except StoodDownError:  # somebody else looks at them
        raise
    except Exception:  # whatever it is, nobody would look at its machines any more
        close_attempt(house, run, attempt, seen=True)
        raise
    how = close_attempt(house, run, attempt, seen=True)
    tell_budget(house, run.path.name)
    wished = _is_wished(house, run)
    if how == ANSWERED:
        return not wished
    if run.done.exists() and not wished and may_go_on(house.ledger.books(run.path.name), run):
        house.view.say("stopped at its budget, which was raised meanwhile: going on")
        return True
    taken_away = sight == "lost" or how == "interrupted"
    if not (house.backend.rented and taken_away) or wished:
        return False
    text = "the machine is lost; going on from the last checkpoint on another one"
    house.ledger.append(run.path.name, StateChanged(state="interrupted", reason=text))
    tell(house, run.path.name, "interrupted", text)
    house.view.say(text)
    return True


def _is_wished(house: House, run: RunDir) -> bool:
    """Whether a person has asked for the end."""
    return wish_of(run) is not None or house.interrupts() > 0


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
    price = SpotWatch(house, run, attempt)
    offset, granted, warned, asked = 0, 0, False, 0
    while True:
        house.mirror.keep()
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
        watched = replace(watched, repriced=price.look())
        tell_budget(house, run.path.name, asked + watched.running_micro_usd(house.clock()))
        if not warned and (text := watched.warning(house.clock())):
            house.view.say(text)
            warned = True
        granted = _grant_wishes(house, run, granted)
        if granted == 2:  # whatever became of that, it is given back next
            return "ended"
        heard_at = max(watched.moved_at, house.mirror.away_until)
        if house.backend.rented and house.clock() - heard_at > house.patience_s:
            house.view.say(f"nothing has moved for {house.patience_s:.0f} s: ending the worker")
            house.backend.kill(run)
            return "ended"
        house.sleep(house.poll_s)


def _grant_wishes(house: House, run: RunDir, granted: int) -> int:
    """Have a worker save at the first wish of a person, and end it at the second; how many were
    granted, 2 at most."""
    wishes = min(2, max(house.interrupts(), {None: 0, "stop": 1, "down": 2}[wish_of(run)]))
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
        kind: Kind = "failed" if state == "failed" else "stopped"
        _end_as(house, run_id, state, str(error), kind, str(error))
        raise
    text = f"{run_id} is done; `still show {run_id}` has its receipt"
    _end_as(house, run_id, "done", "", "done", text)


def _end_as(house: House, run_id: str, state: RunState, reason: str, kind: Kind, text: str) -> None:
    """Write down and tell how it ended, once: whoever asks again later changes nothing."""
    books = house.ledger.books(run_id)
    if (books.state, books.reason) != (state, reason):
        house.ledger.append(run_id, StateChanged(state=state, reason=reason))
        tell(house, run_id, kind, text)
    check_teardown(house, run_id)


def _raise_unless_done(run: RunDir, *, wished: bool) -> None:
    """
    Args:
        wished: a person has asked for the end.
    """
    run_id = run.path.name
    if run.done.exists():
        done = read_model(run.done, Done)
        if done.status == "stopped":
            raise StoppedError(_stopped(run_id, done))
        return
    events = [event for event, _ in read_events(run.events)]
    how = how_it_ended(events[-1:])
    if how in ("interrupted", ANSWERED):
        raise InterruptedRunError(f"{run_id} is saved. `still resume {run_id}` goes on from there.")
    said = [event for event in events if isinstance(event, Failed)]
    if how == "failed" and said:
        raise StillhouseError(
            f"{said[-1].message}. {said[-1].remedy}. What was finished stays: after the change, "
            f"`still resume {run_id}`."
        )
    if wished:
        raise InterruptedRunError(
            f"{run_id} was ended. `still resume {run_id}` goes on from what was saved."
        )
    raise StillhouseError(
        f"the worker of {run_id} ended without a word: killed, out of memory, or stopped by an "
        f"error before it could begin. Its last output is in {run.log}. `still resume {run_id}` "
        "goes on from what was saved."
    )


def _stopped(run_id: str, done: Done) -> str:
    limit = {"budget": "its budget", "deadline": "its hours", None: "a limit"}[done.reason]
    if done.steps == 0:
        saved = "before the training began, so there is no student yet; the data is kept"
    else:
        saved = f"after {done.steps:,} of {done.of_steps:,} steps; the student of then is saved"
    return f"{run_id} stopped at {limit}, {saved}. `still show {run_id}` has the receipt."
