"""Two recipes side by side, as people and programs read it, on frozen catalogs."""

import io
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from rich.console import Console

import recipes
from launcher.market.look import Wanted, look_for_offers
from launcher.plans.differences import differences
from launcher.plans.planner import plan_offers
from launcher.plans.read_facts import read_facts
from launcher.plans.show_diff import Side, diff_json, render_diff, sides
from recipes.loading import load_recipe, with_changes
from recipes.recipe import Recipe

FOLDER = Path(recipes.__file__).parent
NOW = 1_800_000_000.0

PlanOf = Callable[..., Side]


@pytest.fixture
def plan_of(sky_home: Path) -> PlanOf:
    """Plans a shipped recipe on the frozen catalogs."""

    def plan(name: str, **changes: str) -> Side:
        recipe = shipped(name, **changes)
        wanted = Wanted.parse(recipe.hardware.accelerators, recipe.hardware.nodes)
        found = look_for_offers(wanted, environ={"HOME": str(sky_home)}, clock=lambda: NOW)
        return Side(name, recipe, plan_offers(recipe, found.offers, read_facts(recipe), NOW).chosen)

    return plan


def shipped(name: str, **changes: str) -> Recipe:
    return with_changes(load_recipe(FOLDER / f"{name}.yaml"), changes)


def both(a: Side, b: Side) -> tuple[Side, Side]:
    return sides(a.recipe, a.plan, b.recipe, b.plan)


def printed(a: Side, b: Side) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(render_diff(a, b))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


@pytest.mark.golden
def test_two_recipes_side_by_side(plan_of: PlanOf, golden: Callable[[str, str], None]) -> None:
    golden("launcher/diff.txt", printed(*both(plan_of("s1"), plan_of("reasoning-7b"))))


@pytest.mark.golden
def test_the_same_recipe_with_a_few_changes(
    plan_of: PlanOf, golden: Callable[[str, str], None]
) -> None:
    changed = plan_of("s1", **{"training.epochs": "3", "budget.usd": "30"})

    golden("launcher/diff-of-changes.txt", printed(*both(plan_of("s1"), changed)))


def test_the_difference_is_b_less_a_with_its_sign_and_lines_sum_to_it(plan_of: PlanOf) -> None:
    a, b = plan_of("s1"), plan_of("math-1-5b")

    said = json.loads(json.dumps(diff_json(*both(a, b))))
    back = diff_json(*both(b, a))

    usd = Decimal(said["difference"]["usd"]["p50"])
    assert usd == b.plan.usd.p50 - a.plan.usd.p50 < 0
    assert usd == -Decimal(back["difference"]["usd"]["p50"])
    lines = said["difference"]["lines"].values()
    assert sum(Decimal(line["p50"]) for line in lines) == usd
    assert Decimal(said["difference"]["hours"]["p90"]) == b.plan.hours.p90 - a.plan.hours.p90
    assert said["a"]["offer"]["name"] == "aws p5.48xlarge us-east-2a spot x2"
    assert (said["a"]["label"], said["b"]["label"]) == ("s1", "math-1-5b")


def test_a_recipe_beside_itself_differs_in_nothing(plan_of: PlanOf) -> None:
    s1 = plan_of("s1")

    said = diff_json(*both(s1, s1))

    assert said["fields"] == []
    assert {Decimal(each) for each in said["difference"]["usd"].values()} == {Decimal(0)}
    assert "the recipes do not differ" in printed(*both(s1, s1))


def test_fields_are_named_as_set_takes_them_and_equal_amounts_are_equal() -> None:
    a = shipped("s1", **{"budget.usd": "50.00"})
    b = shipped("s1", **{"evaluation.0.max_new_tokens": "100", "training.seed": "7"})

    found = differences(a, b)

    assert [str(each) for each in found] == [
        "training.seed: 0 -> 7",
        "evaluation.0.max_new_tokens: 4096 -> 100",
    ]
    for each in found:
        assert with_changes(a, {each.field: str(each.b)}) != a


def test_a_field_that_only_one_of_them_has_is_said_to_be_left_out() -> None:
    a, b = shipped("s1"), shipped("s1", evaluation="[]")

    fields = {each.field: str(each) for each in differences(a, b)}

    assert fields["evaluation.0.task"] == "evaluation.0.task: math-500-first-12 -> left out"


def test_what_does_not_fit_says_by_how_much_and_is_no_error(plan_of: PlanOf) -> None:
    fits, does_not = plan_of("s1"), plan_of("s1", **{"budget.usd": "30"})

    said = diff_json(*both(fits, does_not))

    assert said["a"]["over"] is None
    assert said["b"]["over"] == f"${does_not.plan.usd.p90 - 30:,.2f}"
    assert f"does not fit: {said['b']['over']} over" in printed(*both(fits, does_not))
