"""What a worker sets aside for its end leaves a run that goes as planned the time that it needs."""

from pathlib import Path
from typing import Any

import pytest
from stand_in_learner import keeper_of

import recipes
from launcher.machines.least import CLOSING_S
from launcher.market.look import Wanted, look_for_offers
from launcher.plans.plan import Plan
from launcher.plans.planner import plan_offers
from launcher.plans.read_facts import read_facts
from launcher.plans.work_of import work_of
from launcher.runs.house import House
from launcher.runs.run import drive, open_run
from recipes.loading import load_recipe
from recipes.recipe import Recipe
from recipes.rundir import Limits
from tracking.entries import Git

SHIPPED = sorted(Path(recipes.__file__).parent.glob("*.yaml"))
RENTED = [path for path in SHIPPED if not load_recipe(path).hardware.local]


def rented(recipe: Recipe, house: House, machine: Any, sky_home: Path) -> tuple[Plan, Limits]:
    """The recipe's plan on the frozen catalogs, and what its worker is given."""
    wanted = Wanted.parse(recipe.hardware.accelerators, recipe.hardware.nodes)
    environ = {"HOME": str(sky_home)}
    offers = look_for_offers(wanted, environ=environ, clock=house.clock).offers
    plan = plan_offers(recipe, offers, read_facts(recipe), house.clock()).chosen
    machine.closing_s = CLOSING_S
    open_run(house.home, house.ledger, "one", recipe, plan, Git())
    drive(house, "one")
    (limits,) = machine.starts
    # Every rented machine has a store; which one is the launch's to say.
    return plan, limits.model_copy(update={"store": "s3://bucket/one"})


@pytest.mark.parametrize("path", RENTED, ids=lambda path: path.stem)
def test_the_first_reserve_of_a_shipped_recipe_is_below_the_slack_of_its_plan(
    path: Path, house: House, machine: Any, sky_home: Path
) -> None:
    recipe = load_recipe(path)
    plan, limits = rented(recipe, house, machine, sky_home)
    ends = limits.stop_at()
    assert ends is not None
    assert limits.save_s is not None
    assert limits.upload_s is not None
    stages = [plan.seconds_of(name) or 0.0 for name in ("boot", "generate", "train")]
    *before, training_s = stages
    steps, began = plan.units["train"], limits.started_at + sum(before)
    parameters = round(work_of(recipe, read_facts(recipe)).student.params)

    keeper = keeper_of(recipe, limits, lambda: began, parameters=parameters, steps=steps)

    slack_s = ends[0] - limits.started_at - sum(stages)
    assert limits.upload_s < keeper.reserve_s(0.0) < slack_s
    assert keeper.reserve_s(training_s / steps) < slack_s
