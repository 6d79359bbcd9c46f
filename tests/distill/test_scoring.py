"""Exact match, and how sure it is."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.scoring import extract, is_match, standard_error


@pytest.mark.parametrize(
    ("text", "pattern", "answer"),
    [
        ("first 12, then 345.", r"([0-9]+)", "345"),
        ("1;2; 3 ", r";([^;]*)$", "3"),
        ("nothing here", r"([0-9]+)", None),
        ("\\boxed{1} or \\boxed{ 2 }", r"\\boxed\{([^}]*)\}", "2"),
        (" all of it\n", None, "all of it"),
        ("ab", r"a(x)?b", None),
        ("", r"(.*)", ""),
    ],
)
def test_the_last_match_is_the_answer(text: str, pattern: str | None, answer: str | None) -> None:
    assert extract(text, pattern) == answer


def test_blanks_at_the_ends_do_not_count_and_everything_else_does() -> None:
    assert is_match(" 12\n", "12 ")
    assert not is_match("1 2", "12")
    assert not is_match("A", "a")
    assert not is_match(None, "12")
    assert not is_match(None, "")


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_error_is_never_zero_and_never_above_half(counts: tuple[int, int]) -> None:
    hits, n = counts

    assert 0 < standard_error(hits, n) <= 0.5
    assert standard_error(hits, n) == pytest.approx(standard_error(n - hits, n))


def test_the_error_between_the_ends_is_the_binomial_one() -> None:
    assert standard_error(495, 500) == pytest.approx(math.sqrt(0.99 * 0.01 / 500))


@pytest.mark.parametrize(("hits", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_faults_of_ours(hits: int, n: int) -> None:
    with pytest.raises(ValueError, match="hits of"):
        standard_error(hits, n)
