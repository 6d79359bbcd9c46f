"""What an attempt comes to: what the provider tells, and what has to be guessed."""

from decimal import Decimal
from typing import Any

import pytest

from launcher.machines.backend import Paid
from launcher.market.offers import Offer
from launcher.runs.bill import bill
from recipes.rundir import AnyEvent, StageStarted, WorkerEnded
from tracking.books import Attempt
from tracking.prices import Price, Prices

SPOT = Offer(
    cloud="aws",
    region="us-east-1",
    zone="us-east-1a",
    instance_type="p5.48xlarge",
    nodes=2,
    spot=True,
    usd_per_hour=Decimal("7.20"),
    on_demand_usd_per_hour=Decimal("14.40"),
    source="test",
)
PER_S = 1000
"""Of one machine at the price of the launch [micro-dollars]."""

EVENTS: list[AnyEvent] = [
    StageStarted(t=130.0, attempt=1, stage="train"),
    WorkerEnded(t=190.0, attempt=1, status="done"),
]


def attempt(**fields: Any) -> Attempt:
    known = {
        "number": 1,
        "started_at": 100.0,
        "ended_at": None,
        "how": None,
        "usd_per_hour": SPOT.usd_per_hour,
        "price_source": "test",
        "price_as_of": None,
        "offer": SPOT.as_json(),
        "reservation": "r/1",
    }
    return Attempt(**(known | fields))


def risen(at: float) -> Prices:
    return Prices((Price(0.0, Decimal("3.60")), Price(at, Decimal("7.20"))))


def test_each_second_is_paid_at_the_price_of_its_time_and_on_its_line() -> None:
    lines = bill(EVENTS, attempt(), [Paid(100.0, 200.0, prices=risen(160.0))], 10**9)

    assert lines == {"boot": 30 * PER_S, "train": 30 * PER_S + 30 * 2 * PER_S, "idle": 20 * PER_S}


def test_what_the_provider_tells_is_settled_even_if_it_is_more_than_was_set_aside() -> None:
    paid = [Paid(100.0, 200.0, prices=risen(160.0))]

    assert sum(bill(EVENTS, attempt(), paid, 1).values()) == 140 * PER_S


@pytest.mark.parametrize(("repriced", "times"), [((), 2), ((Price(150.0, Decimal(36)),), 5)])
def test_where_nobody_tells_the_price_it_is_the_highest_there_is(
    repriced: tuple[Price, ...], times: int
) -> None:
    lines = bill(EVENTS, attempt(repriced=repriced), [Paid(100.0, 200.0, guessed=True)], 10**9)

    assert sum(lines.values()) == times * 100 * PER_S


def test_a_guess_is_no_more_than_what_is_left_of_what_was_set_aside() -> None:
    told, guessed = Paid(100.0, 200.0, prices=risen(500.0)), Paid(100.0, 900.0, guessed=True)

    lines = bill(EVENTS, attempt(), [told, guessed], 150 * PER_S)

    assert sum(lines.values()) == 150 * PER_S
    assert lines["train"] >= 60 * PER_S


def test_a_price_that_does_not_move_is_that_of_the_launch() -> None:
    offer = SPOT.model_copy(update={"spot": False, "on_demand_usd_per_hour": None}).as_json()

    assert sum(bill(EVENTS, attempt(offer=offer), [Paid(100.0, 200.0, 2)], 0).values()) == 200_000
