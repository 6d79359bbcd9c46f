"""Offers ranked by what the whole run costs on them."""

from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path

import pytest
from h100_offers import NOW, offer
from hypothesis import given
from hypothesis import strategies as st

import recipes
from launcher.market.look import Wanted, look_for_offers
from launcher.market.offers import Offer
from launcher.plans.fits import check_fits
from launcher.plans.plan import Plan, over, summary
from launcher.plans.planner import ALTERNATIVES, STAYING, Ranked, plan_offers
from launcher.plans.read_facts import read_facts
from recipes.errors import RefusedError
from recipes.loading import load_recipe, with_changes
from recipes.recipe import Recipe

FOLDER = Path(recipes.__file__).parent


@cache
def shipped(name: str = "s1", **changes: str) -> Recipe:
    recipe = load_recipe(FOLDER / f"{name}.yaml")
    return with_changes(recipe, changes) if changes else recipe


def ranked(*offers: Offer, recipe: Recipe | None = None, between: float = 6.0) -> Ranked:
    recipe = recipe or shipped()
    return plan_offers(recipe, offers, read_facts(recipe), NOW, spot_hours_between=between)


def names(made: Ranked) -> Sequence[str]:
    return [each.zone or "" for each in made.offers]


# ---- the order -------------------------------------------------------------------------------


def test_s1_fits_its_budget_on_the_cheapest_spot_h100s(sky_home: Path) -> None:
    recipe = shipped()
    found = look_for_offers(
        Wanted.parse(recipe.hardware.accelerators, recipe.hardware.nodes),
        environ={"HOME": str(sky_home)},
        clock=lambda: NOW,
    )

    plan = plan_offers(recipe, found.offers, read_facts(recipe), NOW).chosen

    assert plan.offer.name == "aws p5.48xlarge us-east-2a spot x2"
    assert plan.offer.usd_per_hour == Decimal("39.7432")
    check_fits(plan, recipe)
    assert plan.usd.p90 < 50
    train = next(line.quantity for line in plan.lines if line.name == "train")
    assert train.p10 < Decimal(26) / 60 < train.p90


def test_the_cheapest_run_comes_first_and_not_the_cheapest_hour() -> None:
    slow = offer("15.92", zone="card", accelerator="H100-PCIe", nodes=2)
    quick = offer("17", zone="module")

    assert names(ranked(slow, quick)) == ["module", "card"]


def test_a_machine_that_stays_may_be_cheaper_than_spot_at_nearly_its_price() -> None:
    spot, stays = offer("40", zone="spot"), offer("41", zone="stays", spot=False)

    assert names(ranked(spot, stays)) == ["stays", "spot"]


def test_what_fits_comes_before_what_is_cheaper_and_does_not_fit() -> None:
    recipe = shipped("math-1-5b", **{"budget.hours": "1.5"})
    dear, slow = offer("4", zone="dear"), offer("0.2", zone="slow", accelerator="L40S")
    dear, slow = (each.model_copy(update={"accelerators": 1, "nodes": 1}) for each in (dear, slow))

    made = ranked(slow, dear, recipe=recipe)

    assert names(made) == ["dear", "slow"]
    assert made.fitting == 1
    fits, late = made.options()
    assert late.usd.p50 < fits.usd.p50
    assert fits.over is None
    assert late.over is not None
    assert late.over.endswith((" h", " min"))


def test_a_machine_whose_price_may_rise_above_the_budget_while_it_starts_does_not_fit() -> None:
    """However cheap it is by its price of now, and short the work."""
    recipe = shipped("math-1-5b", **{"budget.usd": "4"})
    fields = {"accelerators": 1, "nodes": 1}
    spot = offer("0.50", zone="spot", on_demand_usd_per_hour=Decimal(30), **fields)
    stays = offer("1", zone="stays", spot=False, **fields)

    made = ranked(spot, stays, recipe=recipe)

    assert names(made) == ["stays", "spot"]
    assert made.fitting == 1
    _, moves = made.options()
    plan = made.plan(1)
    assert moves.usd.p90 < 4 < plan.least_usd
    assert moves.over == f"${plan.least_usd - 4:,.2f}"


@pytest.mark.parametrize("budget", ["4", "3", "0.5"])
def test_an_offer_says_what_it_takes_to_begin_it_whether_its_likely_price_fits_or_not(
    budget: str,
) -> None:
    recipe = shipped("math-1-5b", **{"budget.usd": budget})
    spot = offer("0.50", on_demand_usd_per_hour=Decimal(30), accelerators=1, nodes=1)

    made = ranked(spot, recipe=recipe)

    (option,) = made.options()
    assert made.chosen.least_usd > 4
    assert option.over == f"${made.chosen.needed_usd - Decimal(budget):,.2f}"
    assert option.over == over(recipe.budget, made.chosen.needed_usd, option.hours.p90)


def test_an_offer_above_the_budget_says_by_how_much() -> None:
    (option,) = ranked(offer("100")).options()

    assert option.over == f"${option.usd.p90 - 50:,.2f}"


def test_the_frontier_is_what_nothing_else_beats_in_dollars_and_in_hours() -> None:
    offers = [
        offer("30", zone="cheap"),
        offer("31", zone="dearer"),
        offer("40", zone="quick", spot=False),
        offer("41", zone="dominated", spot=False),
    ]

    made = ranked(*offers)

    on_frontier = {each.offer.zone for each in made.options() if each.on_frontier}
    assert made.fitting == 4
    assert on_frontier == {"cheap", "quick"}


def test_spot_is_left_out_where_the_recipe_does_not_allow_it() -> None:
    recipe = shipped(**{"hardware.spot": "false"})

    assert names(ranked(offer(), offer(zone="stays", spot=False), recipe=recipe)) == ["stays"]
    with pytest.raises(RefusedError, match="without spot machines, and there is no other offer"):
        ranked(offer(), recipe=recipe)


# ---- what cannot be done ---------------------------------------------------------------------


def test_kinds_on_which_it_cannot_run_are_listed_once_with_by_how_much() -> None:
    made = ranked(
        offer(),
        offer(nodes=1),
        offer(nodes=1, spot=False),
        offer(accelerator="Trainium"),
        offer(accelerator=None),
    )

    reasons = {misfit.kind: (misfit.offers, misfit.reason) for misfit in made.misfits}
    assert reasons["H100:8"][0] == 2
    assert "8.5 more than" in reasons["H100:8"][1]
    assert "speed is unknown" in reasons["Trainium"][1]
    assert "speed is unknown" in reasons["no GPU"][1]


def test_a_recipe_that_fits_nowhere_is_refused_with_the_reasons_and_what_to_change() -> None:
    with pytest.raises(RefusedError) as refused:
        ranked(offer(nodes=1))

    message = str(refused.value)
    assert refused.value.exit_code == 3
    assert "H100:8: training needs" in message
    assert "training.gradient_checkpointing" in message


# ---- plans -----------------------------------------------------------------------------------


def test_a_plan_has_lines_units_assumptions_and_survives_its_file() -> None:
    plan = ranked(offer()).chosen

    assert [line.name for line in plan.lines] == ["boot", "train", "save", "evaluate", "lost"]
    assert plan.units == {"train": 315, "evaluate": 12}
    assert any("4,700 tokens each" in each for each in plan.assumptions)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert Decimal(summary(plan)["usd"]["p50"]) == plan.usd.p50


def test_what_an_option_says_is_what_its_plan_comes_to() -> None:
    made = ranked(*(offer(Decimal(usd), zone=f"z{usd}") for usd in (45, 40, 52)))

    for rank, option in enumerate(made.options()):
        plan = made.plan(rank)
        assert plan.offer == option.offer
        assert float(plan.usd.p90) == pytest.approx(float(option.usd.p90), abs=1e-3)
        assert float(plan.hours.p50) == pytest.approx(float(option.hours.p50), abs=1e-5)


def test_a_plan_carries_where_to_go_next_its_own_offer_first_and_some_that_stay() -> None:
    spot = [offer(Decimal(40 + number), zone=f"spot-{number}") for number in range(40)]
    stay = [offer(Decimal(90 + number), zone=f"stay-{number}", spot=False) for number in range(20)]

    made = ranked(*spot, *stay)

    assert len(made.chosen.alternatives) == ALTERNATIVES + STAYING
    assert sum(not each.offer.spot for each in made.chosen.alternatives) == STAYING
    third = made.plan(2)
    assert third.alternatives[0].offer == third.offer
    careful = third.alternatives[0].careful_hours
    assert sum(careful.values()) == third.hours.p90


def test_an_endpoint_is_paid_in_dollars_and_waited_for_at_home() -> None:
    recipe = shipped("api-teacher")
    one = offer("2", accelerators=1, nodes=1)

    plan = ranked(one, recipe=recipe).chosen

    lines = {line.name: line for line in plan.lines}
    assert lines["generate"].usd_per_unit == 0
    assert lines["generate"].quantity.p50 > 1
    assert lines["teacher_api output"].unit == "Mtok"
    assert plan.usd.p50 > plan.usd_of("teacher_api").p50


def test_an_endpoint_counts_where_the_budget_is_asked() -> None:
    recipe = shipped("api-teacher", **{"budget.usd": "2.5"})

    assert ranked(offer("0.1", accelerators=1, nodes=1), recipe=recipe).fitting == 0


# ---- properties ------------------------------------------------------------------------------


@given(
    usd=st.decimals("1", "200", places=4),
    dearer=st.decimals("0", "50", places=4),
    spot=st.booleans(),
)
def test_a_dearer_hour_never_makes_a_cheaper_run(usd: Decimal, dearer: Decimal, spot: bool) -> None:
    cheap, dear = (ranked(offer(each, spot=spot)).chosen.usd for each in (usd, usd + dearer))

    assert cheap.p10 <= dear.p10
    assert cheap.p50 <= dear.p50
    assert cheap.p90 <= dear.p90


@given(
    epochs=st.integers(1, 30),
    more=st.integers(0, 10),
    spot=st.booleans(),
    name=st.sampled_from(["s1", "math-1-5b", "api-teacher"]),
)
def test_more_tokens_never_make_a_cheaper_run(
    epochs: int, more: int, spot: bool, name: str
) -> None:
    fewer, many = (
        ranked(offer(spot=spot), recipe=shipped(name, **{"training.epochs": str(each)})).chosen.usd
        for each in (epochs, epochs + more)
    )

    assert fewer.p50 <= many.p50


@given(between=st.floats(0.3, 50), rarer=st.floats(1, 20), every=st.sampled_from(["50", "null"]))
def test_more_interruptions_never_make_a_cheaper_run(
    between: float, rarer: float, every: str
) -> None:
    recipe = shipped(**{"training.checkpoint_every_steps": every})

    often, seldom = (
        ranked(offer(), recipe=recipe, between=each).chosen.usd
        for each in (between, between * rarer)
    )

    assert often.p50 >= seldom.p50
    if every != "null":  # the checkpoints stay as they are, so that all else rises too
        assert often.p90 >= seldom.p90


@given(prices=st.lists(st.decimals("0.01", "500", places=2), min_size=1, max_size=20))
def test_lines_sum_exactly_quantiles_are_in_order_and_ranks_follow_the_dollars(
    prices: list[Decimal],
) -> None:
    made = ranked(*(offer(usd, spot=bool(number % 2)) for number, usd in enumerate(prices)))

    plan = made.chosen
    usd, hours = plan.usd, plan.hours
    assert usd.p10 <= usd.p50 <= usd.p90
    assert hours.p10 <= hours.p50 <= hours.p90
    assert usd.p90 == sum(line.quantity.p90 * line.usd_per_unit for line in plan.lines)
    assert usd.p90 == hours.p90 * plan.offer.usd_per_hour
    options = made.options()
    for group in (options[: made.fitting], options[made.fitting :]):
        dollars = [each.usd.p50 for each in group]
        assert dollars == sorted(dollars)
    assert all((each.over is None) == (each.usd.p90 <= 50) for each in options)
