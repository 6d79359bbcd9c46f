"""Machines that end by a timer are not rented by a clock that is wrong."""

from dataclasses import dataclass
from typing import Any

import pytest

from launcher.runs.right_clock import clock_error_s, require_right_clock
from recipes.errors import RefusedError

NOW = 1_800_000_000.7


@dataclass
class Told:
    """A store that tells its time, after a while."""

    at: float | None
    takes_s: float = 0.0
    here: float = NOW

    def clock(self) -> float | None:
        self.here += self.takes_s
        return self.at


def error_of(store: Any) -> float | None:
    return clock_error_s(store, lambda: store.here)


def test_a_time_that_is_cut_to_its_second_is_no_difference() -> None:
    assert error_of(Told(1_800_000_000.0)) == 0


@pytest.mark.parametrize(("there", "error_s"), [(NOW - 61, 60), (NOW + 60, -60)])
def test_ahead_is_above_0_and_behind_below(there: float, error_s: float) -> None:
    assert error_of(Told(there)) == pytest.approx(error_s)


def test_an_answer_that_took_long_is_no_difference() -> None:
    assert error_of(Told(NOW + 40, takes_s=80)) == 0


def test_a_store_that_tells_no_time_is_unknown_and_refuses_nothing() -> None:
    store: Any = Told(None)

    assert error_of(store) is None
    require_right_clock(store, lambda: NOW)


@pytest.mark.parametrize("seconds", [5.5, -5.5, 7200.0])
def test_a_clock_that_is_off_by_more_than_worlds_try_is_refused(seconds: float) -> None:
    store: Any = Told(NOW - seconds - (seconds > 0))

    with pytest.raises(RefusedError, match="ahead" if seconds > 0 else "behind"):
        require_right_clock(store, lambda: NOW)


@pytest.mark.parametrize("seconds", [4.5, -4.5])
def test_a_clock_that_is_hardly_off_is_not(seconds: float) -> None:
    store: Any = Told(NOW - seconds - (seconds > 0))

    require_right_clock(store, lambda: NOW)
