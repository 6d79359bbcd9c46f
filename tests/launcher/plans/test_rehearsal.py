"""The first steps of a recipe as a run of their own, and what they measure."""

from decimal import Decimal
from pathlib import Path

import pytest

import recipes
from launcher.market.offers import Offer
from launcher.plans.plan import Plan, plan_from_trial
from launcher.plans.planner import plan_offers
from launcher.plans.read_facts import read_facts
from launcher.plans.rehearsal import (
    LEAST_STEPS,
    STEPS,
    Measured,
    measure,
    rehearsal_of,
    step_counts,
    with_measured,
)
from recipes.calibration import Calibration
from recipes.loading import load_recipe
from recipes.recipe import Recipe
from recipes.rundir import AnyEvent, CheckpointSaved, TrainStep

NOW = 1_800_000_000.0
FOLDER = Path(recipes.__file__).parent


def shipped(name: str) -> tuple[Recipe, Plan]:
    recipe = load_recipe(FOLDER / f"{name}.yaml")
    offer = Offer(
        cloud="aws",
        region="us-east-2",
        accelerator="H100",
        accelerators=8,
        nodes=recipe.hardware.nodes,
        usd_per_hour=20,
        source="test",
    )
    return recipe, plan_offers(recipe, [offer], read_facts(recipe), NOW).chosen


def step(number: int, t: float, memory: int | None = None) -> TrainStep:
    return TrainStep(
        t=t,
        attempt=1,
        step=number,
        steps=20,
        loss=1.0,
        learning_rate=0.1,
        grad_norm=1.0,
        tokens=100 * number,
        completion_tokens=100 * number,
        tokens_per_s=1.0,
        memory_bytes=memory,
    )


# ---- its recipe ------------------------------------------------------------------------------


def test_it_is_the_recipe_with_few_steps_its_own_budget_and_no_evaluation() -> None:
    recipe, plan = shipped("reasoning-7b")

    made = rehearsal_of(recipe, plan, Decimal(5), steps=20, nodes=1)

    assert made.name == "reasoning-7b-rehearsal"
    assert (made.training.steps, made.training.epochs) == (20, None)
    assert made.training.checkpoint_every_steps == 10
    assert made.evaluation == ()
    assert (made.budget.usd, made.budget.hours) == (5, None)
    assert recipe.budget.hours is not None
    assert made.hardware.accelerators == "H100:8"
    same = {"teacher", "student", "method"}
    assert made.model_dump(include=same) == recipe.model_dump(include=same)
    assert made.training.batch_size == recipe.training.batch_size


def test_a_teacher_writes_no_more_than_the_steps_learn_from() -> None:
    recipe, plan = shipped("math-1-5b")

    made = rehearsal_of(recipe, plan, Decimal(5), steps=8, nodes=1)

    assert made.data.rows == 8 * recipe.training.batch_size


def test_a_long_name_stays_a_name(recipe: Recipe, plan: Plan) -> None:
    long = recipe.model_copy(update={"name": "a" * 40})

    made = rehearsal_of(long, plan, Decimal(1), steps=2, nodes=1)

    assert made.name == "a" * 30 + "-rehearsal"


def test_it_takes_half_a_minute_of_steps_but_no_more_than_a_quarter_of_them(plan: Plan) -> None:
    assert step_counts(plan) == (25, LEAST_STEPS)  # of 100 steps of 0.1 s
    _, slow = shipped("reasoning-7b")
    assert step_counts(slow) == (STEPS, LEAST_STEPS)
    few = plan.model_copy(update={"units": {"train": 5}})
    assert step_counts(few) == (5,)


# ---- what it measures ------------------------------------------------------------------------


def test_steps_are_timed_without_the_checkpoint_between_them() -> None:
    events: list[AnyEvent] = [
        step(1, 10.0, memory=5),
        step(5, 14.0, memory=9),
        CheckpointSaved(t=17.0, attempt=1, step=5, size_bytes=1, seconds=3.0),
        step(9, 21.0, memory=7),
    ]

    measured = measure(events)

    assert measured == Measured(8, (1.0, 1.0), 100.0, 9, 3.0)
    assert str(measured) == ("8 steps of 1 s, 100 tokens/s, 0.00 GB of memory, a checkpoint in 3 s")


@pytest.mark.parametrize(
    "events", [[], [step(1, 10.0)], [step(1, 10.0), step(2, 10.0)], [step(1, 10.0), step(2, 9.0)]]
)
def test_what_cannot_be_timed_is_no_measurement(events: list[AnyEvent]) -> None:
    assert measure(events) is None


def test_what_was_not_told_is_unknown() -> None:
    measured = measure([step(1, 10.0), step(2, 11.0)])

    assert measured is not None
    assert "memory unknown, no checkpoint" in str(measured)
    assert measured.as_json()["memory_bytes"] is None


def test_a_trial_corrected_by_it_has_its_speed_and_keeps_the_rest(
    recipe: Recipe, plan: Plan, trial: Calibration
) -> None:
    measured = Measured(19, (0.4, 0.5, 0.6), 1000.0, None, 1.0)

    corrected = with_measured(trial, measured)

    again = plan_from_trial(recipe, plan.offer, corrected, "work")
    lines = {line.name: float(line.quantity.p50) * 3600 for line in again.lines}
    assert lines["train"] == pytest.approx(1.0 + 100 * 0.5, rel=1e-4)
    assert lines["boot"] == pytest.approx(5.0, rel=1e-4)
    assert again.checkpoint_s > plan.checkpoint_s
