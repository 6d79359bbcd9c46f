from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.scoring import standard_error
from recipes.rundir import Score
from tracking.compare import Comparison, compare, frontier, score_difference, usd_per_point
from tracking.receipt import Receipt, make_receipt
from tracking.show import render_comparison, render_runs, runs_json


def score(value: float, n: int = 500, of: int = 500) -> Score:
    """As the worker writes it."""
    hits = round(value * n)
    return Score(value=hits / n, stderr=standard_error(hits, n), n=n, of=of)


@pytest.fixture
def receipts(workshop: Any) -> list[Receipt]:
    """A distillation, and the same student on labels alone: cheaper, and far worse."""
    labels = {
        **workshop.recipe,
        "name": "demo-labels",
        "teacher": {"kind": "none"},
        "data": {
            "kind": "generated",
            "prompt": "{question}",
            "completion": "{answer}",
            "rows": 200,
        },
    }
    workshop.whole_run("demo-261122-0331-k7q2", score=0.99)
    workshop.whole_run("demo-labels-261122-0332-m3xz", score=0.07, recipe=labels)
    first, second = (
        make_receipt(books, workshop.home.run(books.run_id))
        for books in reversed(workshop.ledger.runs())
    )
    return [first, second.model_copy(update={"metered_usd": Decimal("0.0009")})]


def rescored(receipt: Receipt, **changes: Any) -> Receipt:
    return receipt.model_copy(update=changes)


# ---- the frontier

POINTS = st.lists(
    st.none() | st.tuples(st.decimals(0, 10, places=1), st.integers(0, 10).map(lambda n: n / 10)),
    max_size=12,
)


def beats(one: tuple[Decimal, float], other: tuple[Decimal, float]) -> bool:
    return one[0] <= other[0] and one[1] >= other[1] and one != other


@given(points=POINTS)
def test_the_frontier_is_what_no_other_point_beats(
    points: list[tuple[Decimal, float] | None],
) -> None:
    expected = [
        point is not None and not any(beats(other, point) for other in points if other is not None)
        for point in points
    ]

    assert frontier(points) == expected


def test_equal_runs_are_all_on_the_frontier() -> None:
    same = (Decimal("1.0"), 0.5)

    assert frontier([same, (Decimal("1.00"), 0.5), (Decimal(2), 0.5)]) == [True, True, False]


# ---- the table


@pytest.mark.golden
def test_the_comparison_of_two_runs_reads_well(
    receipts: list[Receipt], printed: Callable[..., str], golden: Callable[[str, str], None]
) -> None:
    text = printed(render_comparison(compare(receipts)))

    assert max(map(len, text.splitlines())) <= 80
    golden("tracking/compare.txt", text)


@pytest.mark.golden
def test_a_comparison_in_json_comes_back_as_it_was(
    receipts: list[Receipt], golden: Callable[[str, str], None]
) -> None:
    said = compare(receipts).model_dump_json(indent=2)

    assert Comparison.model_validate_json(said) == compare(receipts)
    golden("tracking/compare.json", said + "\n")


def test_cheaper_and_worse_beside_dearer_and_better_are_both_worth_having(
    receipts: list[Receipt],
) -> None:
    assert [row.on_frontier for row in compare(receipts).rows] == [True, True]


def test_dearer_and_worse_is_not(receipts: list[Receipt]) -> None:
    good, bad = receipts
    rows = compare([good, rescored(bad, metered_usd=Decimal(1))]).rows

    assert [row.on_frontier for row in rows] == [True, False]


def test_dollars_a_point_of_no_score_are_unknown(
    receipts: list[Receipt], printed: Callable[..., str]
) -> None:
    good, bad = receipts
    comparison = compare(
        [good, rescored(bad, scores={}), rescored(bad, scores={"additions": score(0)})]
    )

    assert [row.usd_per_point for row in comparison.rows] == [Decimal("0.000016838"), None, None]
    assert comparison.rows[1].on_frontier is False
    assert printed(render_comparison(comparison)).count("unknown") == 3


def test_points_are_hundredths_of_the_score() -> None:
    assert usd_per_point(Decimal(50), 0.5) == 1
    assert usd_per_point(Decimal(0), 0.5) == 0
    assert usd_per_point(Decimal(50), None) is None


def test_a_run_that_goes_on_is_on_no_frontier_however_cheap_it_looks(
    receipts: list[Receipt], printed: Callable[..., str]
) -> None:
    good, cheap = receipts
    going_on = rescored(cheap, status="running", scores=good.scores)
    comparison = compare([good, going_on])

    assert [row.on_frontier for row in comparison.rows] == [True, False]
    assert comparison.notes == (f"not over, dollars and hours so far: {cheap.run_id}",)
    assert "so far" in printed(render_comparison(comparison))


@pytest.mark.parametrize("status", ["running", "failed"])
def test_what_is_not_settled_is_no_price_and_no_difference(
    receipts: list[Receipt], printed: Callable[..., str], status: str
) -> None:
    good, cheap = receipts
    unsettled = rescored(
        cheap, status=status, metered_usd=Decimal(0), reserved_usd=Decimal(50), scores=good.scores
    )

    comparison = compare([good, unsettled])
    shown = printed(render_comparison(comparison))

    assert comparison.rows[1].usd_per_point is None
    assert [row.on_frontier for row in comparison.rows] == [True, False]
    assert comparison.difference is not None
    assert comparison.difference.usd is None
    assert "up to $50.00" in shown
    assert "dollars not settled yet" in shown
    assert "$0.00 " not in shown
    assert "less" not in shown


def test_runs_without_a_task_in_common_are_not_ranked(receipts: list[Receipt]) -> None:
    good, bad = receipts
    comparison = compare([good, rescored(bad, scores={"gsm8k": score(0.3)})])

    assert comparison.task is None
    assert [row.on_frontier for row in comparison.rows] == [False, False]
    assert comparison.notes[0].startswith("no task was scored in all of these runs")
    assert comparison.difference is not None
    assert comparison.difference.scores == ()


def test_scores_on_different_problems_are_said_to_be_so(receipts: list[Receipt]) -> None:
    good, bad = receipts
    other = rescored(bad, scores={"additions": score(0.07, of=50, n=50)})

    assert compare([good, other]).notes == (
        "additions was not the same everywhere: it had 50, 500 problems",
    )


def test_prices_from_different_sources_are_said_to_be_so(receipts: list[Receipt]) -> None:
    good, bad = receipts
    assert bad.price is not None
    other = rescored(bad, price=bad.price.model_copy(update={"source": "aws"}))

    assert compare([good, other]).notes == ("prices are from different sources: aws, recipe",)


def test_an_unfinished_evaluation_shows_how_far_it_came(
    receipts: list[Receipt], printed: Callable[..., str]
) -> None:
    good, _ = receipts
    partial = rescored(good, scores={"additions": score(0.9, n=120)})

    assert "120 of 500" in printed(render_comparison(compare([partial])))


def test_only_a_pair_has_a_difference(receipts: list[Receipt]) -> None:
    assert compare(receipts[:1]).difference is None
    assert compare([*receipts, receipts[0]]).difference is None


# ---- differences


def test_the_error_of_a_difference_is_that_of_both() -> None:
    difference = score_difference("t", score(0.5, n=100), score(0.8, n=100))

    assert difference.value == pytest.approx(0.3)
    assert difference.stderr == pytest.approx((0.05**2 + 0.04**2) ** 0.5)
    assert difference.beyond_error


def test_no_winner_within_the_error(receipts: list[Receipt], printed: Callable[..., str]) -> None:
    good, _ = receipts
    hardly = rescored(good, scores={"additions": Score(value=0.995, stderr=0.003, n=500, of=500)})

    shown = printed(render_comparison(compare([good, hardly])))

    assert "additions +0.005 ± 0.006: within the error, so neither can be called better" in shown


@pytest.mark.parametrize(
    ("few", "many", "beyond"),
    [(1, 1, False), (1, 3, False), (3, 3, False), (4, 4, True), (2, 3, False), (500, 500, True)],
)
def test_none_of_few_beside_all_of_few_is_not_certain(few: int, many: int, beyond: bool) -> None:
    """By Fisher's exact test 0 of 3 beside 3 of 3 comes by chance one time in ten, 0 of 4 beside
    4 of 4 one time in 35."""
    none, all_of_them = score(0, few, few), score(1, many, many)

    assert score_difference("t", none, all_of_them).value == 1
    assert score_difference("t", none, all_of_them).beyond_error is beyond


def test_a_score_that_claims_no_error_is_not_believed() -> None:
    lucky, unlucky = Score(value=1, stderr=0, n=3, of=3), Score(value=0, stderr=0, n=1, of=1)

    difference = score_difference("t", unlucky, lucky)

    assert difference.stderr > 0
    assert not difference.beyond_error


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 1000), st.integers(1, 1000))
def test_a_difference_turned_round_is_its_negative(a: float, b: float, n: int, m: int) -> None:
    there = score_difference("t", score(a, n, n), score(b, m, m))
    back = score_difference("t", score(b, m, m), score(a, n, n))

    assert there.value == -back.value
    assert (there.stderr, there.beyond_error) == (back.stderr, back.beyond_error)
    assert there.stderr > 0


# ---- the list of runs


@pytest.mark.golden
def test_the_list_of_runs_reads_well(
    workshop: Any, printed: Callable[..., str], golden: Callable[[str, str], None]
) -> None:
    workshop.whole_run("demo-261122-0331-k7q2")
    workshop.open("demo-261122-0332-m3xz")

    text = printed(render_runs(workshop.ledger.runs()))

    assert max(map(len, text.splitlines())) <= 80
    golden("tracking/runs.txt", text)


def test_the_list_of_runs_for_programs_has_dollars_as_strings(workshop: Any) -> None:
    workshop.whole_run("demo-1")

    (line,) = runs_json(workshop.ledger.runs())

    assert line == {
        "run_id": "demo-1",
        "recipe": "demo",
        "status": "done",
        "reason": "",
        "opened_at": 1795318260.0,
        "metered_usd": "0.001667",
        "reserved_usd": "0.000000",
        "budget_usd": "0.050000",
        "attempts": 1,
    }
