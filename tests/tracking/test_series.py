from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.rundir import ApiUsage, Progress, StageStarted, TrainStep
from tracking.books import Attempt
from tracking.receipt import make_receipt
from tracking.series import Meter, Point, event_points, params, result_points, shortened, tags


def attempt(number: int, started_at: float, ended_at: float | None, price: str) -> Attempt:
    return Attempt(
        number=number,
        started_at=started_at,
        ended_at=ended_at,
        how=None,
        usd_per_hour=Decimal(price),
        price_source="recipe",
        price_as_of=None,
        offer={},
        reservation=None,
    )


def train_step(t: float, number: int = 1, mfu: float | None = None) -> TrainStep:
    return TrainStep(
        t=t,
        attempt=number,
        step=7,
        steps=9,
        loss=0.5,
        learning_rate=0.1,
        grad_norm=1.0,
        tokens=100,
        completion_tokens=60,
        tokens_per_s=50.0,
        mfu=mfu,
    )


def test_a_step_is_metrics_with_its_moment_and_number() -> None:
    points = list(event_points(train_step(10.0), Meter((attempt(1, 0.0, None, "3.60"),))))

    assert Point("train/loss", 0.5, 10.0, 7) in points
    assert Point("train/tokens_per_s", 50.0, 10.0, 7) in points
    assert Point("cost/so_far_usd", 0.01, 10.0, 7) in points


def test_an_unknown_mfu_is_no_metric_and_not_zero() -> None:
    meter = Meter(())
    without = {point.key for point in event_points(train_step(1.0), meter)}
    with_it = {point.key for point in event_points(train_step(1.0, mfu=0.4), meter)}

    assert with_it - without == {"train/mfu"}


def test_the_cost_so_far_counts_earlier_machines_this_one_and_the_teacher() -> None:
    meter = Meter((attempt(1, 0.0, 100.0, "3.60"), attempt(2, 500.0, None, "36")))
    list(
        event_points(ApiUsage(t=1, attempt=1, input_tokens=1, output_tokens=1, micro_usd=7), meter)
    )

    assert meter.micro_usd(train_step(10.0, number=1)) == 10_000 + 7
    assert meter.micro_usd(train_step(510.0, number=2)) == 100_000 + 100_000 + 7
    assert meter.micro_usd(train_step(510.0, number=3)) is None


def test_events_without_figures_have_no_points() -> None:
    assert list(event_points(StageStarted(t=1, attempt=1, stage="train"), Meter(()))) == []


def test_training_steps_are_not_counted_twice() -> None:
    """`progress` of the training says what `train_step` says better."""
    progress = Progress(t=1, attempt=1, stage="train", done=1, total=2, unit="steps")

    assert list(event_points(progress, Meter(()))) == []


def test_results_have_a_point_for_what_is_known_only(workshop: Any) -> None:
    run = workshop.whole_run("demo-1")
    receipt = make_receipt(workshop.ledger.books("demo-1"), run)

    points = {point.key: point.value for point in result_points(receipt, t=5.0)}

    assert points["cost/total_usd"] == pytest.approx(0.001667)
    assert points["cost/train_usd"] == pytest.approx(0.000834)
    assert points["time/wall_s"] == 55
    assert points["score/additions_stderr"] == 0.005
    assert "cost/billed_usd" not in points


def test_tags_tell_price_code_and_state(workshop: Any) -> None:
    workshop.whole_run("demo-1")

    said = tags(workshop.ledger.books("demo-1"))

    assert said["stillhouse.status"] == "done"
    assert said["stillhouse.offer"] == "this machine"
    assert said["stillhouse.price_source"] == "recipe"
    assert said["stillhouse.git_dirty"] == "True"
    assert said["mlflow.source.git.commit"] == "c0ffee"
    assert "stillhouse.price_as_of" not in said  # unknown


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@settings(max_examples=40)
@given(recipe=st.dictionaries(st.text(min_size=1, max_size=5), JSON))
def test_any_recipe_becomes_short_texts(recipe: dict[str, Any]) -> None:
    assert all(len(text) <= 20 for text in params(recipe, longest=20).values())


def test_lists_are_named_by_number_and_empty_things_are_shown() -> None:
    recipe = {"tasks": [{"name": "a"}, {"name": "b"}], "none": [], "open": None, "on": True}

    assert params(recipe, longest=100) == {
        "tasks.0.name": "a",
        "tasks.1.name": "b",
        "none": "[]",
        "on": "True",
    }


def test_a_cut_text_says_that_it_is_cut() -> None:
    assert shortened("x" * 7000, 6000).endswith("x… (7,000 in all)")
    assert len(shortened("x" * 7000, 6000)) == 6000
