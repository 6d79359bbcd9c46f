"""The planner's answer as people and programs read it, on frozen catalogs."""

import io
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from h100_offers import offer
from rich.console import Console

import recipes
from launcher.market.look import Wanted, look_for_offers
from launcher.plans.planner import Ranked, plan_offers
from launcher.plans.read_facts import read_facts
from launcher.plans.show_ranked import markdown_ranked, ranked_json, render_ranked, why
from recipes.loading import load_recipe, with_changes

FOLDER = Path(recipes.__file__).parent
NOW = 1_800_000_000.0
RENTED = ("s1", "reasoning-7b", "math-1-5b", "api-teacher")

Golden = Callable[[str, str], None]


@pytest.fixture
def plan_of(sky_home: Path) -> Callable[..., Ranked]:
    """Plans a shipped recipe on the frozen catalogs."""

    def plan(name: str, **changes: str) -> Ranked:
        recipe = with_changes(load_recipe(FOLDER / f"{name}.yaml"), changes)
        wanted = Wanted.parse(recipe.hardware.accelerators, recipe.hardware.nodes)
        found = look_for_offers(wanted, environ={"HOME": str(sky_home)}, clock=lambda: NOW)
        return plan_offers(recipe, found.offers, read_facts(recipe), NOW)

    return plan


def printed(ranked: Ranked, offers: int = 5) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(render_ranked(ranked, offers))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def test_every_shipped_recipe_for_rented_machines_has_a_golden() -> None:
    shipped = {path.stem: load_recipe(path) for path in FOLDER.glob("*.yaml")}

    assert {name for name, recipe in shipped.items() if not recipe.hardware.local} == set(RENTED)


@pytest.mark.golden
@pytest.mark.parametrize("name", RENTED)
def test_the_plan_of_a_shipped_recipe(
    name: str, plan_of: Callable[..., Ranked], golden: Golden
) -> None:
    golden(f"launcher/plan-{name}.txt", printed(plan_of(name)))


@pytest.mark.golden
def test_a_plan_for_a_pull_request(plan_of: Callable[..., Ranked], golden: Golden) -> None:
    golden("launcher/plan-s1.md", markdown_ranked(plan_of("s1")))


def test_a_pull_request_has_the_names_of_machines_as_they_are() -> None:
    recipe = load_recipe(FOLDER / "math-1-5b.yaml")
    fields = {"cloud": "azure", "region": "eastus", "zone": None, "accelerators": 1, "nodes": 1}
    offers = [
        offer(usd, instance_type=name, **fields)
        for usd, name in (("2", "Standard_NC40ads_H100_v5"), ("3", "Standard_ND1_H100_v5"))
    ]

    text = markdown_ranked(plan_offers(recipe, offers, read_facts(recipe), NOW))

    assert "The cheapest run of 2 offers that fit budget and hours at P90; the next, azure " in text
    assert "the next, azure Standard_N" in text


@pytest.mark.golden
def test_a_plan_for_programs(plan_of: Callable[..., Ranked], golden: Golden) -> None:
    golden("launcher/plan-s1.json", json.dumps(ranked_json(plan_of("s1"), 2), indent=2) + "\n")


@pytest.mark.golden
def test_a_plan_that_does_not_fit(plan_of: Callable[..., Ranked], golden: Golden) -> None:
    over = plan_of("s1", **{"budget.usd": "40", "budget.hours": "1"})

    golden("launcher/plan-s1-over-budget.txt", printed(over))


def test_the_json_names_the_offer_the_totals_and_how_many_fit(
    plan_of: Callable[..., Ranked],
) -> None:
    ranked = plan_of("s1")

    said = json.loads(json.dumps(ranked_json(ranked, 2)))

    assert said["offer"]["name"] == "aws p5.48xlarge us-east-2a spot x2"
    assert said["usd"]["p50"] == str(ranked.chosen.usd.p50)
    assert said["fits"] is True
    assert [option["rank"] for option in said["options"]] == [1, 2, 3]
    assert said["offers"] == len(ranked)


def test_why_says_how_many_fit_and_what_the_next_one_costs_more(
    plan_of: Callable[..., Ranked],
) -> None:
    assert why(plan_of("s1")).startswith("the cheapest run of ")
    assert "costs $0." in why(plan_of("s1"))
    nothing = plan_of("s1", **{"budget.usd": "1", "budget.hours": "null"})
    assert why(nothing) == f"none of {len(nothing)} offers fits budget at P90; this is the cheapest"


def test_why_says_that_what_fits_at_p90_cannot_be_begun_with_so_little() -> None:
    recipe = with_changes(load_recipe(FOLDER / "math-1-5b.yaml"), {"budget.usd": "4"})
    facts, fields = read_facts(recipe), {"accelerators": 1, "nodes": 1}
    spot = offer("0.50", on_demand_usd_per_hour=Decimal(30), **fields)
    stays = offer("1", spot=False, **fields)

    alone, both = (plan_offers(recipe, offers, facts, NOW) for offers in ([spot], [spot, stays]))

    assert alone.chosen.usd.p90 < 4
    assert why(alone) == (
        "none of 1 offer fits budget and hours at P90 and can be begun with it; this is the "
        "cheapest"
    )
    assert why(both) == (
        "the cheapest run of 1 offer that fits budget and hours at P90 and can be begun with it"
    )


def test_the_json_says_what_it_takes_to_begin_and_why_it_does_not_fit() -> None:
    recipe = with_changes(load_recipe(FOLDER / "math-1-5b.yaml"), {"budget.usd": "4"})
    spot = offer("0.50", on_demand_usd_per_hour=Decimal(30), accelerators=1, nodes=1)

    said = ranked_json(plan_offers(recipe, [spot], read_facts(recipe), NOW))

    assert Decimal(said["usd"]["p90"]) < 4 < Decimal(said["least_usd"])
    assert said["needed_usd"] == said["least_usd"]
    assert said["fits"] is False
    assert said["over"] == said["options"][0]["over"]


def test_no_runners_up_are_shown_where_none_are_asked_for(plan_of: Callable[..., Ranked]) -> None:
    ranked = plan_of("s1")

    assert "us-east-2b" not in printed(ranked, offers=0).split("assumptions")[1]
    assert "cheaper and faster" not in markdown_ranked(ranked, offers=0)
