"""When a worker stops."""

from decimal import Decimal

from distill.context import Stop
from recipes.rundir import Limits

LIMITS = Limits(
    attempt=1, started_at=1000.0, usd_per_hour=Decimal("3.60"), machine_usd=Decimal("0.50")
)
"""All has to be saved 500 s after the start."""


def test_a_worker_that_is_given_less_time_stops_then_as_at_its_budget() -> None:
    stop = Stop(LIMITS, clock=lambda: 1290.0)
    assert stop.seconds_left() == 210.0

    stop.ask(by=1300.0)

    assert stop.seconds_left() == 10.0
    assert stop.due(5.0) is None
    assert stop.due(10.0) == "budget"
    assert not stop.interrupted


def test_nobody_can_give_a_worker_more_time_than_its_limits() -> None:
    stop = Stop(LIMITS, clock=lambda: 1000.0)

    stop.ask(by=9999.0)

    assert stop.seconds_left() == 500.0


def test_a_worker_without_limits_takes_one() -> None:
    stop = Stop(LIMITS.model_copy(update={"usd_per_hour": Decimal(0)}), clock=lambda: 1000.0)
    assert stop.seconds_left() is None

    stop.ask(by=1100.0)

    assert stop.seconds_left() == 100.0


def test_a_wish_without_a_moment_is_for_now() -> None:
    stop = Stop(LIMITS, clock=lambda: 1000.0)

    stop.ask()

    assert stop.due() == "interrupt"
