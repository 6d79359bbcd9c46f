"""A run that is open: planned, in the ledger, and nothing of it begun."""

import pytest

from launcher.plans.plan import Plan
from launcher.runs.house import House
from launcher.runs.run import open_run
from recipes.recipe import Recipe
from tracking.entries import Git


@pytest.fixture
def run_id(house: House, recipe: Recipe, plan: Plan) -> str:
    open_run(house.home, house.ledger, "tiny-1", recipe, plan, Git())
    return "tiny-1"
