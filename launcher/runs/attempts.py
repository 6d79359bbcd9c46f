"""An attempt: one start of the worker, from the money set aside for it to its last cent settled.

Each step is in the ledger before it is taken. An attempt is over only when its machines are proved
gone: until then its money stays set aside.
"""

import shutil

from launcher.errors import ProvisionError, StoodDownError
from launcher.machines.at_home import HOME
from launcher.machines.backend import Paid
from launcher.machines.least import LEAST_S, closing_micro_usd, working_micro_usd
from launcher.market.offers import LOCAL, Offer
from launcher.plans.plan import Plan
from launcher.runs.bill import bill
from launcher.runs.house import STORE, House
from launcher.runs.spot_watch import priced_now
from launcher.runs.tell import tell
from launcher.runs.wishes import forget_wish
from recipes.errors import (
    RefusedError,
    StillhouseError,
    TeardownUnprovedError,
)
from recipes.money import (
    SECONDS_PER_HOUR,
    format_usd,
    from_micro_usd,
    to_micro_usd,
)
from recipes.recipe import Recipe
from recipes.rundir import (
    AnyEvent,
    Limits,
    RunDir,
    WorkerEnded,
    asked_micro_usd,
    attempt_events,
    read_model,
    write_model,
)
from tracking.books import NO_MACHINE, Attempt, Books
from tracking.entries import (
    AttemptEnded,
    AttemptStarted,
    RunState,
    StateChanged,
    Teardown,
)
from tracking.ledger import Ledger

LOADING_S = 2.0
"""Loading the student again, on a machine that does other things too [s]."""

ANSWERED = "answered"
"""How an attempt ends that asked the teacher for all of its answers."""


# ---- its beginning ---------------------------------------------------------------------------


def begin_attempt(house: House, run: RunDir, allow_remote_code: bool) -> Attempt:
    """Record and start the next attempt, on the first offer that yields a machine.

    Raises:
        RefusedError: nothing of the budget or of the hours is left.
        ProvisionError: no offer yields a machine.
        StoodDownError: another home drives the run.
    """
    forget_wish(run)
    plan = read_model(run.plan, Plan)
    while True:
        house.mirror.hold()
        books = house.ledger.books(run.path.name)
        offer = HOME if _asks_teacher_first(house, run, books) else house.next_offer(plan, books)
        if offer is None:
            raise _no_machine(plan, books)
        offer = priced_now(house, offer)
        attempt = _record_attempt(house, run, plan, offer, allow_remote_code)
        try:
            house.mirror.hold(must=True)  # what exists can be found there by whoever comes next
            house.backend.start(run, offer)
        except StoodDownError:
            raise
        except ProvisionError as error:
            house.view.say(f"{offer.name}: {error}")
            close_attempt(house, run, attempt, how=NO_MACHINE)
            continue
        except StillhouseError:
            close_attempt(house, run, attempt, how=NO_MACHINE)
            raise
        house.mirror.hold()
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
    release_orphans(house, run_id)
    books = ledger.books(run_id)
    seconds, left = _seconds_left(books, run.read_recipe()), _money_left(books)
    here = offer.cloud == LOCAL
    api = min(left, to_micro_usd(plan.usd_of("teacher_api").p90)) if here else 0
    machine = 0 if offer is HOME else left - api
    closing = closing_micro_usd(offer, house.backend.closing_s, house.poll_s)
    if not here:
        _check_enough(run_id, offer, machine - closing, seconds)
    state: RunState = "starting" if here else "provisioning"
    ledger.append(run_id, StateChanged(state=state, reason=offer.name))
    if api:
        ledger.reserve(run_id, "teacher_api", api, "answers of the teacher, at their longest")
    if run.done.exists():  # it stopped, and may go on: not before everything is there for that
        house.backend.withdraw(run)
        reopen(run)
    started = AttemptStarted(
        attempt=len(books.attempts) + 1,
        started_at=house.clock(),
        usd_per_hour=offer.usd_per_hour,
        price_source=offer.source,
        price_as_of=offer.as_of,
        offer=offer.as_json(),
        reservation=ledger.reserve(run_id, "train", machine, "the machine, to its last second"),
    )
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
            save_s=plan.save_s,
            upload_s=plan.upload_s,
            only="generate" if offer is HOME else None,
            allow_remote_code=allow_remote_code,
            store=books.notes.get(STORE),
        ),
    )
    ledger.append(run_id, started)
    attempt = ledger.books(run_id).open_attempt
    assert attempt is not None, "the attempt that was just recorded"
    return attempt


def _check_enough(run_id: str, offer: Offer, micro_usd: int, seconds: float | None) -> None:
    """
    Raises:
        RefusedError: a machine would hardly be there before it had to go.
    """
    if micro_usd < working_micro_usd(offer):
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


def reopen(run: RunDir) -> None:
    """Make a run that stopped at a limit one that can go on from its last checkpoint."""
    for path in (run.student, run.answers):
        shutil.rmtree(path, ignore_errors=True)
    run.scores.unlink(missing_ok=True)
    run.done.unlink(missing_ok=True)


def release_orphans(house: House, run_id: str) -> None:
    """Free what a launcher set aside that was killed before its attempt began."""
    for orphan in house.ledger.books(run_id).reservations:
        house.ledger.release(orphan.id)


def _evaluation_s(plan: Plan) -> float | None:
    """What to keep for scoring a student whose training ends early [s]; `None` is unknown."""
    likely = plan.seconds_of("evaluate")
    return None if likely is None else likely + LOADING_S


def _no_machine(plan: Plan, books: Books) -> ProvisionError:
    tried = [str(a.offer.get("name")) for a in books.attempts if a.how == NO_MACHINE]
    dear = len({each.offer.name for each in plan.alternatives} - set(tried))
    too_little = (
        f" For {dear} more what is left of its budget or hours is too little: `still budget "
        f"{books.run_id} --raise USD`."
    )
    return ProvisionError(
        f"no machine could be had for {books.run_id}: tried {', '.join(tried) or 'nothing'}."
        f"{too_little if dear else ''} Nothing of it runs. `still resume {books.run_id}` tries "
        "again."
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


def write_off(ledger: Ledger, run_id: str) -> None:
    """Close an attempt of another home in which that home's own machine asked the teacher.

    Nobody here knows how much it asked for, so all that was set aside counts as spent: too much
    rather than too little.
    """
    books = ledger.books(run_id)
    attempt = books.open_attempt
    assert attempt is not None, "there is something to close"
    for reservation in books.reservations:
        if reservation.id != attempt.reservation:
            ledger.settle(reservation.id, {reservation.line: reservation.micro_usd})
    assert attempt.reservation is not None, "an attempt begins with what pays for it"
    ledger.settle(
        attempt.reservation,
        {},
        Teardown(proved=True, detail="nothing was rented: another home asked the teacher"),
        AttemptEnded(attempt=attempt.number, ended_at=books.last_at, how="lost"),
    )


# ---- its end ---------------------------------------------------------------------------------


def close_attempt(
    house: House, run: RunDir, attempt: Attempt, *, seen: bool = False, how: str | None = None
) -> str:
    """Give back an attempt's machines and settle everything it has cost. How it ended.

    Args:
        seen: somebody saw it end just now; else its last sign of life counts, where the provider
            has no better word.
        how: it ended; as its own last event says where left out.

    Raises:
        StoodDownError: another home drives the run; nothing was given back or settled.
        TeardownUnprovedError: something may be left; nothing was settled.
    """
    house.mirror.hold()
    run_id, ledger = run.path.name, house.ledger
    released = house.backend.release(run, attempt.number)
    if not released.proved:  # it may go on costing: the attempt stays open until it is proved
        ledger.append(run_id, Teardown(proved=released.proved, detail=released.detail))
        check_teardown(house, run_id)
    events = attempt_events(run, attempt.number)
    how = how or how_it_ended(events)
    paid = released.paid
    if paid is None:
        last_s = house.clock() if seen else max([attempt.started_at, *(e.t for e in events[-1:])])
        nodes = Offer.from_json(attempt.offer).nodes
        paid = (Paid(attempt.started_at, last_s, nodes, guessed=house.backend.rented),)
    house.mirror.hold()  # giving back takes minutes, in which somebody may have taken over
    assert attempt.reservation is not None, "an attempt begins with what pays for it"
    reserved = 0
    for reservation in ledger.books(run_id).reservations:
        if reservation.id == attempt.reservation:
            reserved = reservation.micro_usd
        else:
            ledger.settle(reservation.id, {"teacher_api": asked_micro_usd(events)})
    ended_at = max([attempt.started_at, *(machine.ended_at for machine in paid)])
    ledger.settle(
        attempt.reservation,
        bill(events, attempt, paid, reserved),
        Teardown(proved=released.proved, detail=released.detail),
        AttemptEnded(attempt=attempt.number, ended_at=ended_at, how=how),
    )
    house.mirror.hold()
    return how


def how_it_ended(events: list[AnyEvent]) -> str:
    ends = [event.status for event in events if isinstance(event, WorkerEnded)]
    return ends[-1] if ends else "lost"


def check_teardown(house: House, run_id: str) -> None:
    teardown = house.ledger.books(run_id).teardown
    if teardown is not None and not teardown.proved:
        text = (
            f"{run_id} may still cost money: {teardown.detail}. "
            f"`still down {run_id}` tries again, and may be repeated."
        )
        tell(house, run_id, "teardown_unproved", text)
        raise TeardownUnprovedError(text)
