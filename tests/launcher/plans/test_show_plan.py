"""The plan of a run on this machine as people read it, from a frozen trial."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

import recipes
from launcher.market.offers import LOCAL, Offer
from launcher.plans.plan import Plan, plan_from_trial
from launcher.plans.show_plan import markdown_plan, render_plan
from recipes.calibration import Calibration, StageSpeed
from recipes.loading import load_recipe
from recipes.recipe import ModelTeacher, Recipe

FOLDER = Path(recipes.__file__).parent
AT_HOME = ("quickstart", "quickstart-labels", "quickstart-teacher")

Golden = Callable[[str, str], None]

ANSWERS = StageSpeed(
    units=2000, unit="answers", fixed_s=1.5, seconds_per_unit=(0.0008, 0.001, 0.0012)
)
STEPS = StageSpeed(units=1200, unit="steps", fixed_s=0.5, seconds_per_unit=(0.018, 0.02, 0.024))
PROBLEMS = StageSpeed(units=500, unit="answers", fixed_s=1.0, seconds_per_unit=(0.001, 0.0015))


def plan_of(name: str) -> tuple[Recipe, Plan]:
    recipe = load_recipe(FOLDER / f"{name}.yaml")
    assert recipe.hardware.usd_per_hour is not None
    offer = Offer(cloud=LOCAL, usd_per_hour=recipe.hardware.usd_per_hour, source="recipe")
    stages = {
        **({"generate": ANSWERS} if isinstance(recipe.teacher, ModelTeacher) else {}),
        "train": STEPS,
        **({"evaluate": PROBLEMS} if recipe.evaluation else {}),
    }
    trial = Calibration.model_validate(
        {"device": "cpu", "boot_s": 5.0, "checkpoint_s": 0.1, "stages": stages}
    )
    return recipe, plan_from_trial(recipe, offer, trial, "work")


def test_every_shipped_recipe_for_this_machine_has_a_golden() -> None:
    shipped = {path.stem: load_recipe(path) for path in FOLDER.glob("*.yaml")}

    assert {name for name, recipe in shipped.items() if recipe.hardware.local} == set(AT_HOME)


@pytest.mark.golden
@pytest.mark.parametrize("name", AT_HOME)
def test_the_plan_of_a_shipped_recipe(name: str, golden: Golden) -> None:
    recipe, plan = plan_of(name)
    console = Console(file=io.StringIO(), width=100)

    console.print(render_plan(plan, recipe.budget))

    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    golden(f"launcher/plan-{name}.txt", "\n".join(lines) + "\n")


@pytest.mark.golden
def test_a_plan_for_a_pull_request(golden: Golden) -> None:
    recipe, plan = plan_of("quickstart")

    golden("launcher/plan-quickstart.md", markdown_plan(plan, recipe.budget))
