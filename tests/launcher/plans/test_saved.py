"""A plan in a file: run exactly as it was saved, or refused with what has changed."""

import json
import pickle
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import pytest
from h100_offers import NOW, offer
from hypothesis import given, settings
from hypothesis import strategies as st
from small_model import CONFIG

import recipes
from launcher.market.offers import LOCAL, Offer
from launcher.plans.plan import Plan, plan_from_trial
from launcher.plans.planner import plan_offers
from launcher.plans.read_facts import read_facts
from launcher.plans.saved import (
    PriceMovedError,
    SavedPlan,
    as_saved,
    check_same_recipe,
    read_saved,
    save_plan,
)
from recipes.calibration import Calibration
from recipes.errors import InvalidInputError, RefusedError
from recipes.loading import load_recipe, with_changes
from recipes.recipe import Recipe
from recipes.rundir import write_model

FOLDER = Path(recipes.__file__).parent
S1 = load_recipe(FOLDER / "s1.yaml")
ASKS = load_recipe(FOLDER / "api-teacher.yaml")


def planned(offers: Sequence[Offer], recipe: Recipe = S1) -> Plan:
    return plan_offers(recipe, offers, read_facts(recipe), NOW).chosen


def saved(plan: Plan, recipe: Recipe = S1) -> SavedPlan:
    return SavedPlan(hash=plan.hash, saved_at=NOW, recipe=recipe, plan=plan)


THREE = (offer("40"), offer("41", zone="us-east-2b"), offer("42", zone="us-east-2c"))
PLAN = planned(THREE)


# ---- the file --------------------------------------------------------------------------------


def test_what_was_saved_is_what_is_read(tmp_path: Path) -> None:
    save_plan(tmp_path / "s1.json", S1, PLAN, NOW)

    back = read_saved(tmp_path / "s1.json")

    assert back == saved(PLAN)
    assert back.plan.hash == PLAN.hash


def test_a_file_changed_by_hand_is_no_plan_any_more(tmp_path: Path) -> None:
    path = tmp_path / "s1.json"
    save_plan(path, S1, PLAN, NOW)
    path.write_text(path.read_text().replace('"usd_per_hour": "40"', '"usd_per_hour": "4"'))

    with pytest.raises(InvalidInputError, match=f"the file says {PLAN.hash}"):
        read_saved(path)


@pytest.mark.parametrize("text", ["", "name: s1\n", "[]", "{}", '{"version": 2}', "\x00\xff"])
def test_a_foreign_file_is_named_with_what_writes_a_plan(tmp_path: Path, text: str) -> None:
    path = tmp_path / "foreign.json"
    path.write_text(text)

    with pytest.raises(InvalidInputError, match=r"foreign\.json.*--save FILE` writes a plan"):
        read_saved(path)


def test_a_plan_of_another_form_names_the_field(tmp_path: Path) -> None:
    path = tmp_path / "s1.json"
    save_plan(path, S1, PLAN, NOW)
    broken = json.loads(path.read_text())
    broken["plan"]["offer"]["usd_per_hour"] = "free"
    path.write_text(json.dumps(broken))

    with pytest.raises(InvalidInputError, match=r"plan\.offer\.usd_per_hour"):
        read_saved(path)


@settings(max_examples=100)
@given(st.data())
def test_a_plan_with_a_piece_replaced_is_the_same_plan_or_refused(data: st.DataObject) -> None:
    content = saved(PLAN).model_dump_json().encode()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 20)))
    piece = data.draw(st.binary(max_size=8) | st.sampled_from([b"-1", b"1e999", b"null", b"[]"]))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s1.json"
        path.write_bytes(content[:start] + piece + content[end:])
        with suppress(InvalidInputError):
            assert read_saved(path).plan.hash == PLAN.hash


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"none\.json cannot be read"):
        read_saved(tmp_path / "none.json")
    with pytest.raises(InvalidInputError, match=r"none/s1\.json: cannot be written"):
        save_plan(tmp_path / "none" / "s1.json", S1, PLAN, NOW)


# ---- the same recipe -------------------------------------------------------------------------


def test_another_recipe_is_refused_with_the_fields_that_differ() -> None:
    other = with_changes(S1, {"training.epochs": "3", "budget.usd": "70"})

    check_same_recipe(saved(PLAN), S1)
    with pytest.raises(RefusedError, match=r"training\.epochs: 5.0 -> 3.0; budget\.usd: 50 -> 70"):
        check_same_recipe(saved(PLAN), other)


def test_the_same_amount_written_otherwise_is_the_same_recipe() -> None:
    check_same_recipe(saved(PLAN), with_changes(S1, {"budget.usd": "50.00"}))


def test_the_price_of_ones_own_machine_is_a_price_and_no_other_recipe(
    recipe: Recipe, plan: Plan
) -> None:
    check_same_recipe(saved(plan, recipe), with_changes(recipe, {"hardware.usd_per_hour": "3.70"}))


# ---- the same work ---------------------------------------------------------------------------


def test_data_that_grew_are_refused_with_both_counts() -> None:
    grown = planned(THREE, with_changes(S1, {"data.rows": "2000"}))

    with pytest.raises(RefusedError, match=r"was train 315, evaluate 12 and is train 625"):
        as_saved(saved(PLAN), grown, THREE, 10)


def own_data(folder: Path, question: str, count: int = 100) -> Recipe:
    """S1 on rows of one's own, all alike."""
    path = folder / "rows.jsonl"
    path.write_text((json.dumps({"q": question, "a": "x"}) + "\n") * count)
    data = {"kind": "jsonl", "path": str(path), "prompt": "{q}", "completion": "{a}"}
    return Recipe.model_validate({**S1.model_dump(), "data": data, "evaluation": []})


def test_as_many_rows_that_are_longer_are_refused_and_the_field_is_named(tmp_path: Path) -> None:
    recipe = own_data(tmp_path, "q" * 4_000)
    plan = planned(THREE, recipe)
    longer = planned(THREE, own_data(tmp_path, "q" * 40_000))

    assert longer.units == plan.units
    with pytest.raises(RefusedError, match=r"^data\.path: what lies there has changed"):
        as_saved(saved(plan, recipe), longer, THREE, 10)


def test_data_written_again_as_they_were_are_the_same(tmp_path: Path) -> None:
    recipe = own_data(tmp_path, "q" * 4_000)
    plan = planned(THREE, recipe)

    again = planned(THREE, own_data(tmp_path, "q" * 4_000))

    assert as_saved(saved(plan, recipe), again, THREE, 10) == plan


def test_another_model_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    recipe = with_changes(S1, {"student.model": str(tmp_path)})
    plan = planned(THREE, recipe)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": 12}))

    with pytest.raises(RefusedError, match=r"^student\.model: what lies there has changed"):
        as_saved(saved(plan, recipe), planned(THREE, recipe), THREE, 10)


def test_a_plan_made_on_another_machine_is_refused(plan: Plan) -> None:
    elsewhere = plan.model_copy(update={"work": "another processor"})

    with pytest.raises(RefusedError, match="on another machine than this one"):
        as_saved(saved(plan), elsewhere, [plan.offer], 10)


# ---- prices ----------------------------------------------------------------------------------


def test_a_plan_of_the_same_prices_has_the_same_hash_whenever_it_was_made() -> None:
    later = tuple(each.model_copy(update={"as_of": NOW + 3600}) for each in THREE)
    again = plan_offers(S1, later, read_facts(S1), NOW + 3700).chosen
    dearer = planned((offer("40"), offer("41.01", zone="us-east-2b"), THREE[2]))

    assert again.hash == PLAN.hash
    assert dearer.hash != PLAN.hash


def test_where_nothing_moved_it_is_the_very_plan() -> None:
    later = tuple(each.model_copy(update={"as_of": NOW + 3600}) for each in THREE)

    assert as_saved(saved(PLAN), planned(later), later, 10) == PLAN


def test_an_offer_that_is_gone_is_refused_with_the_best_there_is() -> None:
    rest = THREE[1:]

    with pytest.raises(RefusedError, match=r"us-east-2a spot x2 .* is not offered any more") as no:
        as_saved(saved(PLAN), planned(rest), rest, 10)
    assert "the best now is aws p5.48xlarge us-east-2b spot x2 at $41.00/h" in str(no.value)


def test_a_dearer_hour_is_refused_with_both_prices_and_a_way_out() -> None:
    now = (offer("45"), *THREE[1:])

    with pytest.raises(PriceMovedError) as refused:
        as_saved(saved(PLAN), planned(now), now, 10)

    assert refused.value.exit_code == 3
    assert str(pickle.loads(pickle.dumps(refused.value))) == (
        "aws p5.48xlarge us-east-2a spot x2 costs $45.00/h now and $40.00/h in the plan: 12.5 % "
        "more, and 10 % is tolerated. Nothing was started. Plan again with `still plan --save`, or "
        "allow it with --tolerance 13."
    )
    assert as_saved(saved(PLAN), planned(now), now, 13).offer.usd_per_hour == 45


@given(
    cents=st.integers(1, 20_000),
    tolerance=st.integers(0, 300),
)
def test_it_runs_at_todays_price_exactly_where_that_is_tolerated(
    cents: int, tolerance: int
) -> None:
    price = Decimal(cents) / 100
    now = (offer(price),)

    if price > 40 * (1 + Decimal(tolerance) / 100):
        with pytest.raises(PriceMovedError):
            as_saved(saved(PLAN), PLAN, now, tolerance)
        return
    run = as_saved(saved(PLAN), PLAN, now, tolerance)
    assert run.offer.usd_per_hour == price
    assert run.hours == PLAN.hours
    assert run.usd.p90 == run.hours.p90 * price
    assert [each.offer for each in run.alternatives] == [run.offer]


def test_alternatives_that_are_left_have_todays_prices() -> None:
    now = (THREE[0], offer("44", zone="us-east-2c"))

    run = as_saved(saved(PLAN), planned(now), now, 10)

    prices = {each.offer.zone: each.offer.usd_per_hour for each in run.alternatives}
    assert prices == {"us-east-2a": 40, "us-east-2c": 44}
    assert run.lines == PLAN.lines


def test_dearer_tokens_are_refused_too() -> None:
    one = (offer("2", accelerators=1, nodes=1),)
    prices = {
        "teacher.usd_per_million_input_tokens": "1",
        "teacher.usd_per_million_output_tokens": "4",
    }
    recipe = with_changes(ASKS, prices)
    dearer = with_changes(recipe, {"teacher.usd_per_million_output_tokens": "5"})
    plan = planned(one, recipe)

    with pytest.raises(PriceMovedError, match=r"teacher_api output costs \$5.00/Mtok now"):
        as_saved(saved(plan, recipe), planned(one, dearer), one, 10)
    run = as_saved(saved(plan, recipe), planned(one, dearer), one, 25)
    assert run.unit_price("teacher_api output") == 5
    assert run.unit_price("generate") == 0  # waiting at home stays free


def test_ones_own_machine_may_become_dearer_within_the_tolerance(
    recipe: Recipe, plan: Plan, trial: Calibration
) -> None:
    now = Offer(cloud=LOCAL, usd_per_hour=Decimal("3.80"), source="recipe")
    today = plan_from_trial(recipe, now, trial, "work")

    assert as_saved(saved(plan), today, [now], 10).usd == today.usd
    with pytest.raises(PriceMovedError, match=r"this machine costs \$3.80/h now and \$3.60/h"):
        as_saved(saved(plan), today, [now], 5)


def test_a_machine_that_was_free_has_no_percentage(plan: Plan, trial: Calibration) -> None:
    free = plan.offer.model_copy(update={"usd_per_hour": Decimal(0)})
    was = plan.model_copy(update={"offer": free})

    with pytest.raises(PriceMovedError, match=r"\$0.00/h in the plan: which is new"):
        as_saved(saved(was), plan, [plan.offer], 10)


def test_a_saved_plan_is_one_json_object_of_a_version(tmp_path: Path) -> None:
    write_model(tmp_path / "p", saved(PLAN))

    said = json.loads((tmp_path / "p").read_text())
    assert set(said) == {"version", "hash", "saved_at", "recipe", "plan"}
    assert said["version"] == 1
