"""What a run will cost here."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.market.offers import LOCAL, Offer
from launcher.plans.plan import (
    Plan,
    plan_from_history,
    plan_from_trial,
    summary,
    work_key,
)
from recipes.calibration import Calibration, StageSpeed
from recipes.recipe import Recipe

HERE = Offer(cloud=LOCAL, usd_per_hour=Decimal("3.60"), source="recipe")


def with_budget(recipe: Recipe, **changes: Any) -> Recipe:
    budget = {**recipe.budget.model_dump(), **changes}
    return Recipe.model_validate({**recipe.model_dump(), "budget": budget})


def trial_of(steps: int, seconds: tuple[float, ...]) -> Calibration:
    speed = StageSpeed(units=steps, unit="steps", fixed_s=1.0, seconds_per_unit=seconds)
    return Calibration(device="cpu", boot_s=5.0, checkpoint_s=0.1, stages={"train": speed})


def test_a_plan_is_steps_times_seconds_times_price(plan: Plan) -> None:
    # boot 5 s, training 1 s + 100 steps at 0.1 s, at $0.001 a second
    assert float(plan.usd.p50) == pytest.approx(0.016, rel=1e-6)
    assert float(plan.hours.p50) * 3600 == pytest.approx(16.0, rel=1e-6)


@given(
    steps=st.integers(1, 10_000),
    seconds=st.lists(st.floats(1e-4, 100), min_size=1, max_size=9),
    price=st.decimals("0.01", "100", places=2),
)
def test_quantiles_are_in_order_and_lines_sum_to_the_total_exactly(
    steps: int, seconds: list[float], price: Decimal
) -> None:
    recipe = Recipe.model_validate(
        {
            "name": "r",
            "teacher": {"kind": "none"},
            "student": {"kind": "pretrained", "model": "a/b"},
            "data": {"kind": "generated", "rows": 1, "prompt": "{question}", "completion": "x"},
            "training": {"steps": 1, "batch_size": 1, "learning_rate": 0.1},
            "budget": {"usd": "1"},
        }
    )
    offer = HERE.model_copy(update={"usd_per_hour": price})
    plan = plan_from_trial(recipe, offer, trial_of(steps, tuple(seconds)), "w")

    usd = plan.usd
    assert usd.p10 <= usd.p50 <= usd.p90
    assert usd.p90 == sum((line.quantity.p90 * line.usd_per_unit for line in plan.lines), Decimal())
    more = plan_from_trial(recipe, offer, trial_of(steps + 1, tuple(seconds)), "w")
    assert more.usd.p50 >= usd.p50


def test_earlier_runs_replace_the_trial_and_narrow_the_range(recipe: Recipe, plan: Plan) -> None:
    learned = plan_from_history(
        recipe, HERE, [{"boot": 4.0, "train": 22.0}, {"boot": 4.2, "train": 20.0}], plan
    )

    assert float(learned.hours.p50) * 3600 == pytest.approx(25.1, rel=1e-3)
    assert learned.usd.p90 / learned.usd.p50 < plan.usd.p90 / plan.usd.p50
    assert "2 earlier runs" in learned.assumptions[0]


def test_the_hash_changes_with_the_price_and_only_then(plan: Plan) -> None:
    dearer = plan.model_copy(
        update={"offer": plan.offer.model_copy(update={"usd_per_hour": Decimal("3.61")})}
    )

    assert plan.hash == plan.model_copy().hash
    assert plan.hash != dearer.hash


def test_work_is_the_same_whatever_its_name_and_budget(recipe: Recipe) -> None:
    renamed = with_budget(recipe, usd="9").model_copy(update={"name": "other"})
    longer = recipe.model_copy(
        update={"training": recipe.training.model_copy(update={"steps": 101})}
    )

    key = work_key(recipe, "cpu", {"data.path": "a1"})

    assert key == work_key(renamed, "cpu", {"data.path": "a1"})
    assert key != work_key(longer, "cpu", {"data.path": "a1"})
    assert key != work_key(recipe, "gpu", {"data.path": "a1"})
    assert key != work_key(recipe, "cpu", {"data.path": "b2"})


def test_a_plan_survives_its_file_and_its_json_has_the_totals(plan: Plan) -> None:
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert Decimal(summary(plan)["usd"]["p50"]) == plan.usd.p50
    assert summary(plan)["hash"] == plan.hash
