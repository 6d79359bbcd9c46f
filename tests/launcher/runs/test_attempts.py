"""An attempt: money is set aside before it begins, and settled when its machines are gone."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from launcher.errors import NoCapacityError
from launcher.machines.backend import Paid, Released
from launcher.machines.least import CLOSING_S, LOOK_EVERY_S
from launcher.plans.plan import Plan
from launcher.runs.house import House
from launcher.runs.run import drive, open_run, release
from recipes.errors import (
    RefusedError,
    StillhouseError,
    TeardownUnprovedError,
)
from recipes.recipe import Recipe
from recipes.store import StoreUnreachableError
from tracking.entries import AttemptStarted, Git

# The worker and the machine are of conftest; tests see them only through their fixtures.
Worker = Any
ScriptedMachine = Any

USD_PER_S = 1000
"""The recipe's machine costs $3.60 an hour: so many micro-dollars a second."""


def dies_in_training(worker: Worker) -> Iterator[None]:
    worker.boot()
    yield
    worker.train(10.0)
    yield


def test_a_run_is_in_the_ledger_before_its_worker_starts(
    house: House, run_id: str, machine: ScriptedMachine
) -> None:
    seen: list[tuple[str, int]] = []
    start = machine.start

    def spying_start(run: Any, offer: Any) -> None:
        books = house.ledger.books(run_id)
        seen.append((books.state, books.reserved_micro_usd))
        start(run, offer)

    machine.start = spying_start
    drive(house, run_id)

    assert seen == [("starting", 1_000_000)]


def test_a_finished_run_has_its_seconds_settled_and_nothing_left_reserved(
    house: House, run_id: str
) -> None:
    drive(house, run_id)

    books = house.ledger.books(run_id)
    (attempt,) = books.attempts
    assert attempt.ended_at is not None
    paid_s = attempt.ended_at - attempt.started_at
    assert books.state == "done"
    assert books.reserved_micro_usd == 0
    assert books.spent_micro_usd == pytest.approx(paid_s * USD_PER_S, abs=1)
    assert books.lines["train"] == pytest.approx(10_000, rel=0.05)


def test_limits_give_the_worker_what_is_left_of_the_budget(
    house: House, run_id: str, machine: ScriptedMachine
) -> None:
    machine.scripts = [dies_in_training, *machine.scripts]
    with pytest.raises(StillhouseError, match="without a word"):
        drive(house, run_id)
    spent = house.ledger.books(run_id).spent_micro_usd

    drive(house, run_id)

    assert [limits.attempt for limits in machine.starts] == [1, 2]
    assert int(machine.starts[1].machine_usd * 1_000_000) == 1_000_000 - spent


def test_what_giving_back_takes_is_kept_free_of_work(
    house: House, run_id: str, machine: ScriptedMachine
) -> None:
    machine.closing_s = 30.0

    drive(house, run_id)

    (limits,) = machine.starts
    assert int(limits.machine_usd * 1_000_000) == 1_000_000 - 30 * USD_PER_S
    assert house.ledger.books(run_id).overshoots == ()


def test_work_after_the_last_checkpoint_of_a_killed_worker_is_lost(
    house: House, run_id: str, machine: ScriptedMachine, clock: Any
) -> None:
    def dies_late(worker: Worker) -> Iterator[None]:
        yield from dies_in_training(worker)
        clock.now += 7.0

    machine.scripts = [dies_late]

    with pytest.raises(StillhouseError):
        drive(house, run_id)

    assert house.ledger.books(run_id).lines["lost"] == pytest.approx(7_000, rel=0.1)


def test_a_run_whose_worker_died_unseen_costs_until_its_last_sign_of_life(
    house: House, run_id: str, machine: ScriptedMachine, clock: Any
) -> None:
    def finishes_at_once(worker: Worker) -> Iterator[None]:
        worker.boot()
        worker.train(10.0)
        worker.finish()
        yield from ()

    machine.scripts = [finishes_at_once]
    close, house.ledger.settle = house.ledger.settle, _dies  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        drive(house, run_id)
    house.ledger.settle = close  # type: ignore[method-assign]
    clock.now += 86_400.0

    drive(house, run_id)

    books = house.ledger.books(run_id)
    assert books.state == "done"
    assert books.spent_micro_usd == pytest.approx(10.0 * USD_PER_S, rel=0.01)


def _dies(*_: object) -> None:
    raise SystemExit(1)


def test_money_set_aside_by_a_launcher_killed_before_its_attempt_is_free_again(
    house: House, run_id: str, machine: ScriptedMachine
) -> None:
    append = house.ledger.append

    def dies_before_the_attempt(run: str, *entries: Any) -> None:
        if any(isinstance(entry, AttemptStarted) for entry in entries):
            raise SystemExit(1)
        append(run, *entries)

    house.ledger.append = dies_before_the_attempt  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        drive(house, run_id)
    assert house.ledger.books(run_id).reserved_micro_usd == 1_000_000
    house.ledger.append = append  # type: ignore[method-assign]

    drive(house, run_id)

    assert house.ledger.books(run_id).state == "done"
    assert house.ledger.books(run_id).reserved_micro_usd == 0
    assert [limits.machine_usd for limits in machine.starts] == [1]


def test_a_run_without_money_left_is_refused_with_the_way_out(
    house: House, run_id: str, machine: ScriptedMachine
) -> None:
    def burns_everything(worker: Worker) -> Iterator[None]:
        worker.boot()
        worker.train(1000.0)
        yield

    machine.scripts = [burns_everything]
    with pytest.raises(StillhouseError):
        drive(house, run_id)

    with pytest.raises(RefusedError, match="still budget tiny-1 --raise"):
        drive(house, run_id)
    assert len(machine.starts) == 1


def test_hours_used_by_earlier_attempts_are_not_given_again(
    house: House, recipe: Recipe, plan: Plan, machine: ScriptedMachine
) -> None:
    budget = {**recipe.budget.model_dump(), "hours": "1"}
    timed = Recipe.model_validate({**recipe.model_dump(), "budget": budget})
    open_run(house.home, house.ledger, "timed-1", timed, plan, Git())
    machine.scripts = [dies_in_training, *machine.scripts]
    with pytest.raises(StillhouseError):
        drive(house, "timed-1")

    drive(house, "timed-1")

    first, second = (limits.seconds for limits in machine.starts)
    assert first == 3600.0
    assert second is not None
    assert 3580.0 < second < 3590.0


def test_a_store_that_takes_nothing_at_the_start_leaves_no_attempt_open(
    house: House, run_id: str, machine: ScriptedMachine
) -> None:
    def no_store(run: Any, offer: Any) -> None:
        raise StoreUnreachableError("the store is away", "Try again.")

    machine.start = no_store

    with pytest.raises(StoreUnreachableError):
        drive(house, run_id)

    assert house.ledger.books(run_id).open_attempt is None
    assert house.ledger.books(run_id).reserved_micro_usd == 0


def test_the_providers_own_times_are_what_is_paid(
    house: House, run_id: str, machine: ScriptedMachine
) -> None:
    machine.rented = True
    machine.released = Released(
        proved=True, detail="gone", paid=(Paid(1_800_000_000.0, 1_800_000_100.0),)
    )

    drive(house, run_id)

    assert house.ledger.books(run_id).spent_micro_usd == 100 * USD_PER_S


def test_an_offer_without_a_machine_is_passed_over_and_costs_nothing(
    house: House, run_id: str, machine: ScriptedMachine, plan: Plan
) -> None:
    offers = [plan.offer, plan.offer]
    house.next_offer = lambda plan, books: offers[len(books.attempts)]
    start = machine.start

    def first_has_none(run: Any, offer: Any) -> None:
        machine.start = start
        raise NoCapacityError("no p5.48xlarge in us-east-1b")

    machine.start = first_has_none
    machine.released = Released(proved=True, detail="nothing there", paid=())
    drive(house, run_id)

    books = house.ledger.books(run_id)
    assert [attempt.how for attempt in books.attempts] == ["no machine", "done"]
    assert books.state == "done"


def test_a_run_whose_teardown_is_unproved_says_what_to_look_at(
    house: House, run_id: str, machine: ScriptedMachine
) -> None:
    machine.released = Released(proved=False, detail="volume vol-1 in us-east-1 is still there")

    with pytest.raises(TeardownUnprovedError, match=r"vol-1.*still down tiny-1") as unproved:
        drive(house, run_id)

    assert unproved.value.exit_code == 6
    books = house.ledger.books(run_id)
    assert books.open_attempt is not None  # it may go on costing, so its money stays set aside
    assert books.reserved_micro_usd == 1_000_000

    with pytest.raises(TeardownUnprovedError):
        release(house, run_id)
    machine.released = Released(proved=True, detail="gone")
    release(house, run_id)

    books = house.ledger.books(run_id)
    assert books.state == "done"
    assert books.reserved_micro_usd == 0
    assert 0 < books.spent_micro_usd < 1_000_000


def test_no_machine_is_rented_for_money_or_hours_that_are_gone_before_it_has_booted(
    house: House, recipe: Recipe, plan: Plan, machine: ScriptedMachine
) -> None:
    machine.rented = True
    rented = plan.offer.model_copy(update={"cloud": "aws", "usd_per_hour": Decimal(36)})
    house.next_offer = lambda _plan, _books: rented
    open_run(house.home, house.ledger, "tiny-1", recipe, plan, Git())  # a dollar is 100 s of it

    with pytest.raises(RefusedError, match=r"not enough to begin.*--raise"):
        drive(house, "tiny-1")

    assert machine.starts == []
    assert house.ledger.books("tiny-1").reserved_micro_usd == 0


@pytest.mark.parametrize("spot", [True, False])
def test_a_machine_is_begun_with_as_much_as_its_plan_asks_for_and_with_nothing_less(
    house: House, recipe: Recipe, plan: Plan, machine: ScriptedMachine, spot: bool
) -> None:
    update = {
        "cloud": "aws",
        "spot": spot,
        "usd_per_hour": Decimal("2.50"),
        "on_demand_usd_per_hour": Decimal("6.88") if spot else None,
    }
    rented = plan.model_copy(update={"offer": plan.offer.model_copy(update=update)})
    machine.rented, machine.closing_s = True, CLOSING_S
    house.poll_s = LOOK_EVERY_S
    house.next_offer = lambda _plan, _books: rented.offer

    def open_with(run_id: str, usd: Decimal) -> None:
        budget = recipe.budget.model_copy(update={"usd": usd})
        changed = recipe.model_copy(update={"budget": budget})
        open_run(house.home, house.ledger, run_id, changed, rented, Git())

    open_with("short-1", rented.least_usd - Decimal("0.000001"))
    open_with("enough-1", rented.least_usd)

    with pytest.raises(RefusedError, match="not enough to begin"):
        drive(house, "short-1")
    assert machine.starts == []
    drive(house, "enough-1")
    assert len(machine.starts) == 1


def test_no_spot_machine_is_asked_for_that_would_have_to_be_here_in_a_moment(
    house: House, recipe: Recipe, plan: Plan, machine: ScriptedMachine
) -> None:
    """Half an hour of work at its price, and by the price on demand too little for a launch."""
    machine.rented = True
    update = {
        "cloud": "aws",
        "spot": True,
        "usd_per_hour": Decimal(2),
        "on_demand_usd_per_hour": Decimal(10),
    }
    spot = plan.offer.model_copy(update=update)
    house.next_offer = lambda _plan, _books: spot
    open_run(house.home, house.ledger, "tiny-1", recipe, plan, Git())

    with pytest.raises(RefusedError, match=r"not enough to begin.*--raise"):
        drive(house, "tiny-1")

    assert machine.starts == []


def test_what_was_set_aside_by_a_launcher_that_was_killed_at_once_is_free_again_after_release(
    house: House, run_id: str
) -> None:
    house.ledger.reserve(run_id, "train", 5)

    release(house, run_id)

    assert house.ledger.books(run_id).reserved_micro_usd == 0
