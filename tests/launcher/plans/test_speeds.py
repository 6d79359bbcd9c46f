"""How fast this machine is: from earlier runs, or from a trial that is kept."""

from pathlib import Path

import pytest

from launcher.plans.plan import Plan
from launcher.plans.speeds import plan_here
from launcher.runs.house import House
from launcher.runs.run import drive, open_run
from recipes.calibration import Calibration
from recipes.errors import StillhouseError
from recipes.recipe import Recipe
from tracking.entries import Git


class Trials:
    """Counts how often this machine was measured."""

    def __init__(self, answer: Calibration) -> None:
        self.answer = answer
        self.count = 0

    def __call__(self, recipe: Recipe, allow_remote_code: bool) -> Calibration:
        self.count += 1
        return self.answer


def test_a_machine_is_measured_once_for_the_same_work(
    house: House, recipe: Recipe, trial: Calibration
) -> None:
    trials = Trials(trial)

    first = plan_here(recipe, house.home, [], trials)
    second = plan_here(recipe, house.home, [], trials)

    assert trials.count == 1
    assert first == second


def test_other_work_is_measured_anew(house: House, recipe: Recipe, trial: Calibration) -> None:
    trials = Trials(trial)
    longer = recipe.model_copy(update={"training": recipe.training.model_copy(update={"steps": 7})})

    plan_here(recipe, house.home, [], trials)
    plan_here(longer, house.home, [], trials)

    assert trials.count == 2


def test_a_file_of_the_recipe_that_has_changed_is_other_work(
    house: House, recipe: Recipe, trial: Calibration, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"q": "1+1=", "a": "2"}\n')
    data = {"kind": "jsonl", "path": str(rows), "prompt": "{q}", "completion": "{a}"}
    of_file = Recipe.model_validate({**recipe.model_dump(), "data": data})
    trials = Trials(trial)

    first = plan_here(of_file, house.home, [], trials)
    rows.write_text('{"q": "1+2=", "a": "3"}\n')  # as long as before
    second = plan_here(of_file, house.home, [], trials)
    third = plan_here(of_file, house.home, [], trials)

    assert trials.count == 2
    assert len({first.work, second.work}) == 2
    assert third == second


def test_a_finished_run_corrects_the_next_plan(
    house: House, recipe: Recipe, trial: Calibration
) -> None:
    planned: Plan = plan_here(recipe, house.home, [], Trials(trial))
    open_run(house.home, house.ledger, "tiny-1", recipe, planned, Git())
    drive(house, "tiny-1")  # the scripted worker trains for 10 s, where the trial said 11

    learned = plan_here(recipe, house.home, house.ledger.runs(), Trials(trial))

    assert "1 earlier run " in learned.assumptions[0]
    assert float(learned.usd_of("train").p50) == pytest.approx(0.010, rel=0.05)


def test_a_run_of_other_work_teaches_nothing(
    house: House, recipe: Recipe, plan: Plan, trial: Calibration
) -> None:
    open_run(
        house.home, house.ledger, "tiny-1", recipe, plan, Git()
    )  # its plan is of another work key
    drive(house, "tiny-1")

    learned = plan_here(recipe, house.home, house.ledger.runs(), Trials(trial))

    assert "trial" in learned.assumptions[0]


def test_a_trial_that_fails_is_not_kept(house: House, recipe: Recipe, trial: Calibration) -> None:
    def fails(recipe: Recipe, allow_remote_code: bool) -> Calibration:
        raise StillhouseError("out of memory")

    with pytest.raises(StillhouseError, match="out of memory"):
        plan_here(recipe, house.home, [], fails)

    assert plan_here(recipe, house.home, [], Trials(trial)).units == {"train": 100}
