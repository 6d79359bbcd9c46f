"""What does not fit is refused with the figures, and with what would fit."""

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from h100_offers import NOW, offer
from hypothesis import example, given
from hypothesis import strategies as st

import recipes
from launcher.market.look import on_nodes
from launcher.market.offers import LOCAL, Offer
from launcher.plans.fits import OverBudgetPlanError, check_begins, check_fits, less_by_lines
from launcher.plans.instead import NODES, less_work, other_machines
from launcher.plans.plan import CostLine, Plan, Quantiles, plan_from_trial
from launcher.plans.planner import Ranked, plan_offers
from launcher.plans.read_facts import read_facts
from recipes.calibration import Calibration
from recipes.loading import load_recipe, with_changes
from recipes.recipe import Recipe

FOLDER = Path(recipes.__file__).parent
S1 = load_recipe(FOLDER / "s1.yaml")
HERE = Offer(cloud=LOCAL, usd_per_hour=Decimal("3.60"), source="recipe")


def with_budget(recipe: Recipe, **changes: Any) -> Recipe:
    budget = {**recipe.budget.model_dump(), **changes}
    return Recipe.model_validate({**recipe.model_dump(), "budget": budget})


def ranked(*offers: Offer, recipe: Recipe) -> Ranked:
    return plan_offers(recipe, offers, read_facts(recipe), NOW)


def count_in(text: str) -> int:
    """The proposed number of samples or steps."""
    (number,) = re.findall(r"data\.rows=(\d+)|to ([\d,]+) steps", text)
    return int("".join(number).replace(",", ""))


# ---- the refusal -----------------------------------------------------------------------------


def test_a_plan_above_the_budget_is_refused_with_both_figures_and_what_would_fit(
    recipe: Recipe, plan: Plan
) -> None:
    small = with_budget(recipe, usd="0.02")
    with pytest.raises(OverBudgetPlanError) as refused:
        check_fits(plan, small, less_by_lines(plan, small))

    message = str(refused.value)
    assert refused.value.exit_code == 3
    assert "$0.0160" in message  # the estimate
    assert "$0.0200" in message  # the budget
    assert "Nothing was started" in message
    assert "Raise budget.usd to $0.0260" in message
    assert "lower the training from 100 to 65 steps" in message
    assert "--accept-partial" in message


def test_the_budget_that_is_proposed_is_enough(recipe: Recipe, plan: Plan) -> None:
    check_fits(plan, with_budget(recipe, usd="0.0260"))


@given(usd=st.decimals("0.000001", "1000000", places=9))
def test_the_budget_that_is_proposed_is_enough_as_it_is_printed(usd: Decimal) -> None:
    line = CostLine(
        name="train",
        quantity=Quantiles(p10=usd, p50=usd, p90=usd),
        unit="h",
        usd_per_unit=Decimal(1),
    )
    dear = made(100).model_copy(update={"lines": (line,)})

    with pytest.raises(OverBudgetPlanError) as refused:
        check_fits(dear, with_budget(tiny(), usd="0.0000009"))

    (enough,) = re.findall(r"Raise budget\.usd to \$([\d.,]+)\. ", str(refused.value))
    proposed = Decimal(enough.replace(",", ""))
    assert usd <= proposed <= max(usd * Decimal("1.1"), usd + Decimal("0.0001"))


def test_a_budget_too_small_for_anything_proposes_no_number_of_steps(
    recipe: Recipe, plan: Plan
) -> None:
    small = with_budget(recipe, usd="0.0001")

    assert less_by_lines(plan, small) == ""
    with pytest.raises(OverBudgetPlanError, match=r"Raise budget.usd to \$0.0260\. To start"):
        check_fits(plan, small)


def test_a_plan_longer_than_the_hours_is_refused_with_hours_that_are_enough(
    recipe: Recipe, plan: Plan
) -> None:
    with pytest.raises(OverBudgetPlanError, match=r"its limit is 0\.3 min") as refused:
        check_fits(plan, with_budget(recipe, hours="0.005"))

    (enough,) = re.findall(r"budget\.hours to ([\d.]+)\.", str(refused.value))
    check_fits(plan, with_budget(recipe, hours=enough))


def test_a_plan_with_less_than_its_machines_are_begun_with_is_refused_with_what_is_enough() -> None:
    spot = offer("20", on_demand_usd_per_hour=Decimal(110))
    small = with_budget(S1, usd="19")
    plan = ranked(spot, recipe=small).chosen

    with pytest.raises(OverBudgetPlanError) as refused:
        check_begins(plan, small, "Or take others.")

    message = str(refused.value)
    assert "not begun with less than $19.31: an hour may come to $110.00 while it" in message
    assert "--accept-partial" not in message  # it would not help
    (enough,) = re.findall(r"Raise budget\.usd to \$([\d.]+)\. Or take others\.", message)
    check_begins(plan, with_budget(S1, usd=enough))


def test_hours_in_which_no_machine_is_begun_are_refused_with_hours_that_are_enough() -> None:
    short = with_changes(S1, {"budget.hours": "0.15"})
    plan = ranked(offer(), recipe=short).chosen

    with pytest.raises(OverBudgetPlanError) as refused:
        check_begins(plan, short)

    message = str(refused.value)
    assert "its limit is 9.0 min, and no machine is begun with less than 10.0 min left." in message
    assert "--accept-partial" not in message  # it would not help
    (enough,) = re.findall(r"Raise budget\.hours to ([\d.]+)\.$", message)
    check_begins(plan, with_changes(S1, {"budget.hours": enough}))


def test_ten_minutes_are_enough_to_begin_and_a_second_less_is_not() -> None:
    plan = ranked(offer(), recipe=S1).chosen

    assert plan.begins(with_changes(S1, {"budget.hours": "0.16667"}).budget)
    assert not plan.begins(with_changes(S1, {"budget.hours": "0.1664"}).budget)


def test_what_the_teacher_may_answer_for_comes_before_the_machines() -> None:
    asks = load_recipe(FOLDER / "api-teacher.yaml")
    one = offer("2", accelerators=1, nodes=1)
    waits = ranked(one, recipe=asks).work.home_hours.p90
    short = with_changes(asks, {"budget.hours": f"{waits + 0.1:.3f}"})
    made = ranked(one, recipe=short)

    assert made.fitting == 0
    with pytest.raises(OverBudgetPlanError, match="and the teacher may answer for"):
        check_begins(made.chosen, short)
    check_begins(made.chosen, with_changes(asks, {"budget.hours": f"{waits + 0.17:.3f}"}))


# ---- less work -------------------------------------------------------------------------------


@given(
    usd=st.decimals("0.005", "0.03", places=4),
    hours=st.sampled_from([None, "0.0041", "0.0063"]),
    fixed_s=st.sampled_from([0.0, 0.7, 2.3, 8.1, 30.0]),
)
def test_on_this_machine_so_many_steps_fit_and_no_more(
    usd: Decimal, hours: str | None, fixed_s: float
) -> None:
    odd = usd + Decimal("0.00003")  # no whole number of steps takes exactly so much
    recipe = with_budget(tiny(), usd=odd, hours=hours)
    proposed = less_by_lines(made(100, fixed_s), recipe)

    most = count_in(proposed) if proposed else 0
    if most:
        check_fits(made(most, fixed_s), recipe)
    if most < 100:
        with pytest.raises(OverBudgetPlanError):
            check_fits(made(most + 1, fixed_s), recipe)


@given(
    usd=st.decimals("0.005", "0.2", places=4),
    fixed_s=st.floats(0, 30),
    steps=st.tuples(*[st.floats(0.01, 1)] * 3),
)
@example(usd=Decimal("0.0064"), fixed_s=1.0, steps=(1.0, 1.0, 1.0))  # to the last digit
def test_the_steps_that_are_proposed_fit_however_uneven_those_of_the_trial_were(
    usd: Decimal, fixed_s: float, steps: tuple[float, float, float]
) -> None:
    recipe = with_budget(tiny(), usd=usd)
    proposed = less_by_lines(made(100, fixed_s, steps), recipe)

    if proposed:
        check_fits(made(count_in(proposed), fixed_s, steps), recipe)


def tiny() -> Recipe:
    return Recipe.model_validate(
        {
            "name": "tiny",
            "teacher": {"kind": "none"},
            "student": {
                "kind": "new",
                "characters": "01",
                "layers": 1,
                "hidden_size": 8,
                "heads": 1,
                "intermediate_size": 8,
            },
            "data": {
                "kind": "generated",
                "rows": 50,
                "prompt": "{question}",
                "completion": "{answer}",
            },
            "training": {"steps": 100, "batch_size": 2, "learning_rate": 0.001},
            "hardware": {"local": True, "usd_per_hour": "3.60"},
            "budget": {"usd": "1.00"},
        }
    )


def made(
    steps: int, fixed_s: float = 0.0, seconds: tuple[float, float, float] = (0.09, 0.1, 0.11)
) -> Plan:
    trial = Calibration.model_validate(
        {
            "device": "cpu",
            "boot_s": 2.0,
            "checkpoint_s": 0.2,
            "stages": {
                "train": {
                    "units": steps,
                    "unit": "steps",
                    "fixed_s": fixed_s,
                    "seconds_per_unit": seconds,
                }
            },
        }
    )
    return plan_from_trial(tiny(), HERE, trial, "work")


def test_here_passes_over_data_are_made_fewer_by_fewer_samples() -> None:
    data = tiny().model_dump()
    data["training"] |= {"steps": None, "epochs": 4.0}
    recipe = with_budget(Recipe.model_validate(data), usd="0.01")

    assert less_by_lines(made(100), recipe).startswith("take 21 of 50 samples (--set data.rows=21)")


@pytest.mark.parametrize("budget", ["30", "40", "45"])
def test_on_rented_machines_the_proposed_samples_fit_and_one_more_does_not(budget: str) -> None:
    recipe = with_changes(S1, {"budget.usd": budget})

    most = count_in(less_work(recipe, offer(), read_facts(recipe), NOW))

    for rows, fits in ((most, True), (most + 1, False)):
        fewer = with_changes(recipe, {"data.rows": str(rows)})
        assert bool(ranked(offer(), recipe=fewer).fitting) is fits


def test_on_rented_machines_steps_are_proposed_where_the_recipe_counts_steps() -> None:
    recipe = with_changes(
        S1, {"training.epochs": "null", "training.steps": "300", "budget.usd": "40"}
    )

    proposed = less_work(recipe, offer(), read_facts(recipe), NOW)

    assert "from 300 to" in proposed
    fewer = with_changes(recipe, {"training.steps": str(count_in(proposed))})
    assert ranked(offer(), recipe=fewer).fitting == 1


def test_where_boot_and_evaluation_alone_are_too_dear_no_number_is_proposed() -> None:
    recipe = with_changes(S1, {"budget.usd": "5"})

    assert less_work(recipe, offer(), read_facts(recipe), NOW) == ""


# ---- other machines --------------------------------------------------------------------------


def test_a_refusal_names_which_other_machines_would_fit() -> None:
    recipe = with_changes(S1, {"budget.usd": "35"})
    h200 = offer("22", accelerator="H200", nodes=1)
    wanted, elsewhere = ranked(offer(), recipe=recipe), ranked(h200, recipe=recipe)

    with pytest.raises(OverBudgetPlanError) as refused:
        check_fits(wanted.chosen, recipe, "", other_machines(elsewhere))

    message = str(refused.value)
    assert "its budget is $35.00" in message
    assert "Or take 8 H200 and 0.9 h instead" in message
    assert "hardware.accelerators H200:8, hardware.nodes 1" in message
    assert other_machines(wanted) == ""


def test_machines_are_joined_only_where_their_cloud_can() -> None:
    single = [offer("10", nodes=1), offer("8", nodes=1, cloud="runpod")]

    joined = [each for nodes in NODES for each in on_nodes(single, nodes)]

    assert [(each.cloud, each.nodes, each.usd_per_hour) for each in joined] == [
        ("aws", 1, 10),
        ("runpod", 1, 8),
        ("aws", 2, 20),
        ("aws", 4, 40),
        ("aws", 8, 80),
    ]
