"""A spot price that moves while a run goes on: money and limits move with it."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from launcher.market.offers import Offer
from launcher.plans.plan import Plan
from launcher.runs.house import House
from launcher.runs.run import drive, open_run
from recipes.errors import StoppedError
from recipes.money import from_micro_usd
from recipes.recipe import Recipe
from tracking.books import Attempt
from tracking.entries import Git
from tracking.prices import Price, Prices

# The worker and the machine are of conftest; tests see them only through their fixtures.
Worker = Any
ScriptedMachine = Any
Clock = Any

BUDGET = 1_200_000
CALM, DEAR = Decimal("3.60"), Decimal("7.20")
"""1,000 and 2,000 micro-dollars a second."""

SPOT = Offer(
    cloud="aws",
    region="us-east-1",
    zone="us-east-1a",
    instance_type="p5.48xlarge",
    spot=True,
    usd_per_hour=CALM,
    on_demand_usd_per_hour=DEAR,
    source="catalog",
)
CLOSING = 70 * 2000
"""Until a rise is seen, at the price on demand: a minute between two questions, 10 s between looks
[micro-dollars]."""


@pytest.fixture
def spot(house: House, machine: ScriptedMachine, recipe: Recipe, plan: Plan) -> House:
    """A run on a spot machine, of which AWS says what was planned."""
    machine.rented = True
    machine.told = Prices.fixed(CALM)
    house.poll_s = 10.0
    made = plan.model_copy(update={"offer": SPOT})
    budget = recipe.budget.model_copy(update={"usd": from_micro_usd(BUDGET)})
    rich = recipe.model_copy(update={"budget": budget})
    open_run(house.home, house.ledger, "tiny-1", rich, made, Git())
    return house


def changes(machine: ScriptedMachine, to: Prices | None, *, then_s: float | None) -> Any:
    """A worker in whose time, after 100 s, AWS says something else; it ends so long after that."""

    def script(worker: Worker) -> Iterator[None]:
        worker.boot()
        worker.train(0.0)
        for _ in range(10):
            yield
        machine.told = to and Prices((Price(0.0, CALM), Price(worker.clock(), to.highest)))
        machine.changed_at = worker.clock()
        until = float("inf") if then_s is None else worker.clock() + then_s
        while worker.clock() < until:
            worker.say_that_it_lives()
            yield
        worker.finish()

    return script


def only_attempt(house: House) -> Attempt:
    (attempt,) = house.ledger.books("tiny-1").attempts
    return attempt


def test_a_rise_gives_the_worker_less_time_and_stands_in_the_ledger(
    spot: House, machine: ScriptedMachine
) -> None:
    machine.scripts = [changes(machine, Prices.fixed(DEAR), then_s=200.0)]

    drive(spot, "tiny-1")

    attempt = only_attempt(spot)
    before_s = machine.changed_at - attempt.started_at
    (by,) = machine.saved_by
    left = BUDGET - CLOSING - before_s * 1000
    assert by - machine.changed_at == pytest.approx(left / 2000, abs=0.1)
    assert [price.usd_per_hour for price in attempt.repriced] == [DEAR]
    assert attempt.usd_per_hour == CALM
    assert 0 <= attempt.repriced[0].since - machine.changed_at <= 70


def test_machines_whose_worker_does_not_stop_go_before_their_money_does(
    spot: House, machine: ScriptedMachine
) -> None:
    machine.scripts = [changes(machine, Prices.fixed(DEAR), then_s=None)]

    with pytest.raises(StoppedError, match=r"\$3\.60 an hour at first and \$7\.20 now") as stopped:
        drive(spot, "tiny-1")

    attempt, books = only_attempt(spot), spot.ledger.books("tiny-1")
    assert attempt.ended_at is not None
    paid = machine.told.micro_usd(attempt.started_at, attempt.ended_at)
    assert BUDGET - CLOSING - 20 * 2000 <= paid <= BUDGET
    assert (books.state, machine.releases) == ("stopped", 1)
    assert "still budget tiny-1 --raise" in str(stopped.value)


def test_while_aws_is_silent_its_highest_price_is_reckoned_with(
    spot: House, machine: ScriptedMachine
) -> None:
    machine.scripts = [changes(machine, None, then_s=None)]

    with pytest.raises(StoppedError):
        drive(spot, "tiny-1")

    attempt = only_attempt(spot)
    assert attempt.ended_at is not None
    known = Prices((Price(0.0, CALM), Price(machine.changed_at, DEAR)))
    dearest = known.micro_usd(attempt.started_at, attempt.ended_at)
    assert BUDGET - CLOSING - 20 * 2000 <= dearest <= BUDGET
    assert attempt.repriced == ()


def test_a_silence_of_minutes_ends_nothing_while_there_is_money(
    spot: House, machine: ScriptedMachine
) -> None:
    machine.scripts = [changes(machine, None, then_s=200.0)]

    drive(spot, "tiny-1")

    assert spot.ledger.books("tiny-1").state == "done"
    assert machine.saved_by == []


def test_a_fall_gives_no_time_back(spot: House, machine: ScriptedMachine) -> None:
    machine.scripts = [changes(machine, Prices.fixed(CALM / 2), then_s=200.0)]

    drive(spot, "tiny-1")

    assert machine.saved_by == []
    assert only_attempt(spot).prices.newest.usd_per_hour == CALM / 2


def test_a_store_that_is_away_is_told_at_the_next_look(
    spot: House, machine: ScriptedMachine
) -> None:
    machine.scripts = [changes(machine, Prices.fixed(DEAR), then_s=200.0)]
    machine.deaf = 1

    drive(spot, "tiny-1")

    assert len(machine.saved_by) == 1


def test_an_attempt_begins_at_the_price_of_its_moment(
    spot: House, machine: ScriptedMachine
) -> None:
    machine.told = Prices.fixed(Decimal("4.50"))

    drive(spot, "tiny-1")

    attempt = only_attempt(spot)
    assert attempt.usd_per_hour == Decimal("4.50")
    assert attempt.price_source == "aws spot price history"
    assert machine.starts[0].usd_per_hour == Decimal("4.50")


def test_where_nobody_tells_an_attempt_begins_at_the_price_of_its_plan(
    spot: House, machine: ScriptedMachine
) -> None:
    machine.told = None

    drive(spot, "tiny-1")

    assert only_attempt(spot).usd_per_hour == CALM
    assert only_attempt(spot).price_source == "catalog"


def test_of_machines_on_demand_no_price_is_asked(
    house: House, machine: ScriptedMachine, recipe: Recipe, plan: Plan
) -> None:
    machine.rented = True
    machine.told = Prices.fixed(Decimal(100))
    made = plan.model_copy(update={"offer": SPOT.model_copy(update={"spot": False})})
    open_run(house.home, house.ledger, "tiny-1", recipe, made, Git())

    drive(house, "tiny-1")

    assert only_attempt(house).prices.highest == CALM
    assert machine.starts[0].machine_usd == 1
