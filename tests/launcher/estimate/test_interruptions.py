"""What it costs to lose the machine now and then."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.estimate.interruptions import (
    best_interval,
    expected_completion,
)

COSTS = {"checkpoint": 0.02, "restart": 0.25}

hours = st.floats(0.01, 1000)
gaps = st.floats(0.05, 10_000)


def simulated_hours(rng: np.random.Generator, work: float, interval: float, gap: float) -> float:
    """One run, event by event, for comparison with the closed form."""
    clock, done, next_loss = 0.0, 0.0, rng.exponential(gap)
    ready_at = 0.0
    while done < work - 1e-9:
        end = ready_at + interval + COSTS["checkpoint"]
        if end <= next_loss:
            clock = ready_at = end
            done += interval
        else:
            clock = next_loss
            ready_at = clock + COSTS["restart"]
            next_loss = clock + rng.exponential(gap)
    return clock


@pytest.mark.parametrize("gap", [0.8, 4.0])
def test_the_closed_form_is_the_mean_of_simulated_runs(gap: float) -> None:
    rng = np.random.default_rng(0)
    runs = [simulated_hours(rng, work=5.0, interval=0.25, gap=gap) for _ in range(2000)]

    expected = expected_completion(5.0, interval=0.25, mean_between=gap, **COSTS)

    standard_error = np.std(runs) / math.sqrt(len(runs))
    assert expected.hours == pytest.approx(np.mean(runs), abs=4 * standard_error)


def test_without_interruptions_only_checkpoints_are_added() -> None:
    expected = expected_completion(10, interval=1, mean_between=None, **COSTS)

    assert expected.hours == 10.2
    assert expected.lost_hours == expected.interruptions == 0


def test_the_best_interval_loses_less_than_half_and_than_twice_of_it() -> None:
    best = best_interval(COSTS["checkpoint"], 4.0)

    def total(interval: float) -> float:
        return expected_completion(10, interval=interval, mean_between=4.0, **COSTS).hours

    assert total(best) < total(best / 2)
    assert total(best) < total(2 * best)


def test_a_checkpoint_longer_than_machines_live_is_taken_as_seldom_as_they_go() -> None:
    assert best_interval(checkpoint=3.0, mean_between=1.0) == 1.0


def test_a_run_that_would_never_end_takes_infinite_hours_and_does_not_crash() -> None:
    expected = expected_completion(10, interval=1000, mean_between=0.1, **COSTS)

    assert expected.hours == expected.lost_hours == math.inf


@given(work=hours, more=hours, interval=st.floats(0.01, 10), gap=gaps, shorter=st.floats(0.1, 1))
def test_hours_never_fall_when_work_or_interruptions_rise(
    work: float, more: float, interval: float, gap: float, shorter: float
) -> None:
    def total(work: float, gap: float) -> float:
        return expected_completion(work, interval=interval, mean_between=gap, **COSTS).hours

    calm = expected_completion(work, interval=interval, mean_between=None, **COSTS).hours
    assert calm <= total(work, gap)
    assert total(work, gap) <= total(work + more, gap) * (1 + 1e-12)
    assert total(work, gap) <= total(work, gap * shorter) * (1 + 1e-12)


@given(work=hours, interval=st.floats(0.01, 1), gap=st.floats(0.5, 1000))
def test_the_parts_sum_to_the_whole(work: float, interval: float, gap: float) -> None:
    expected = expected_completion(work, interval=interval, mean_between=gap, **COSTS)

    parts = work + expected.checkpoint_hours + expected.lost_hours
    assert parts == pytest.approx(expected.hours)
