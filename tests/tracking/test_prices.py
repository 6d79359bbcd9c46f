"""Prices that move."""

from decimal import Decimal

import pytest

from tracking.prices import Price, Prices

RISEN = Prices((Price(100.0, Decimal("3.60")), Price(200.0, Decimal("7.20"))))
"""1,000 micro-dollars a second, and then 2,000."""


def test_each_price_holds_until_the_next_one() -> None:
    assert RISEN.micro_usd(150.0, 230.0) == 50 * 1000 + 30 * 2000
    assert list(RISEN.spans(150.0, 230.0)) == [
        (150.0, 200.0, Decimal("3.60")),
        (200.0, 230.0, Decimal("7.20")),
    ]


def test_the_first_price_holds_before_its_time_too() -> None:
    assert RISEN.micro_usd(90.0, 110.0) == 20 * 1000


@pytest.mark.parametrize(("start", "end", "usd"), [(120.0, 200.0, "3.60"), (200.0, 210.0, "7.20")])
def test_a_change_at_an_end_makes_no_piece_of_no_length(start: float, end: float, usd: str) -> None:
    assert list(RISEN.spans(start, end)) == [(start, end, Decimal(usd))]


def test_no_time_costs_nothing() -> None:
    assert RISEN.micro_usd(150.0, 150.0) == 0


def test_as_if_none_had_ever_fallen_is_never_less() -> None:
    prices = Prices(tuple(Price(float(t), Decimal(usd)) for t, usd in enumerate((2, 5, 3, 6, 1))))

    careful = prices.never_falling()

    assert [price.usd_per_hour for price in careful.changes] == [2, 5, 5, 6, 6]
    assert careful.newest.usd_per_hour == prices.highest == 6


def test_prices_that_do_not_follow_on_each_other_are_refused() -> None:
    for changes in ((), (Price(2.0, Decimal(1)), Price(1.0, Decimal(1)))):
        with pytest.raises(ValueError, match="follow"):
            Prices(changes)
