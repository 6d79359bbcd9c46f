"""Problems for the quickstart: right, all different, and never in both parts."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.additions import Addition, additions

numbers = st.integers(0, 10**12 - 1)


@given(numbers, numbers)
def test_the_working_computes_the_answer_column_by_column(a: int, b: int) -> None:
    columns = Addition(a, b).working.split(",")
    carry, digits = 0, ""
    for place, comes_to in enumerate(columns):
        first, second = a // 10**place % 10, b // 10**place % 10
        assert comes_to == f"{first + second + carry:02}"
        carry, digits = int(comes_to[0]), comes_to[1] + digits
    assert int(f"{carry}{digits}") == a + b == int(Addition(a, b).answer)


@given(numbers, numbers)
def test_a_problem_is_in_the_same_part_whichever_number_stands_first(a: int, b: int) -> None:
    assert Addition(a, b).part == Addition(b, a).part


def test_no_problem_is_in_both_parts_in_either_order() -> None:
    train = {frozenset((p.a, p.b)) for p in additions(digits=2, part="train", seed=1)}
    held_out = {frozenset((p.a, p.b)) for p in additions(digits=2, part="held_out", seed=2)}

    assert train & held_out == set()


@pytest.mark.parametrize("digits", [1, 2])
def test_both_parts_together_are_every_problem_once(digits: int) -> None:
    low, high = {1: (0, 9), 2: (10, 99)}[digits]
    train = list(additions(digits=digits, part="train", seed=0))
    held_out = list(additions(digits=digits, part="held_out", seed=0))

    everything = sorted((p.a, p.b) for p in train + held_out)
    assert everything == [(a, b) for a in range(low, high + 1) for b in range(low, high + 1)]
    assert 0.05 < len(held_out) / len(everything) < 0.15


def test_the_first_ones_are_the_same_however_many_are_taken_and_differ_by_seed() -> None:
    def first(count: int, seed: int) -> list[Addition]:
        return list(islice(additions(digits=3, part="train", seed=seed), count))

    assert first(200, 0) == first(2000, 0)[:200]
    assert first(200, 0) != first(200, 1)


def test_problems_of_twelve_digits_come_at_once_and_look_random() -> None:
    problems = list(islice(additions(digits=12, part="held_out", seed=0), 200))

    assert all(10**11 <= p.a < 10**12 and 10**11 <= p.b < 10**12 for p in problems)
    # A digit of a sum of independent uniform numbers is uniform: 20 expected, five sigmas are 21.
    middle = [str(p.a + p.b)[-6] for p in problems]
    assert all(middle.count(str(digit)) < 42 for digit in range(10))
