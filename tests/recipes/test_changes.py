"""A flag of the command line changes a field of the recipe, checked like the file."""

from decimal import Decimal

import pytest

from recipes.errors import InvalidRecipeError
from recipes.loading import parse_recipe, with_changes
from recipes.recipe import Recipe


@pytest.fixture
def recipe(valid: str) -> Recipe:
    return parse_recipe(valid.encode(), "small.yaml")


def test_no_change_is_the_same_recipe(recipe: Recipe) -> None:
    assert with_changes(recipe, {}) == recipe


def test_only_what_was_named_changes_and_the_first_recipe_stays_as_it_was(recipe: Recipe) -> None:
    before = recipe.model_dump()

    changed = with_changes(recipe, {"budget.usd": "0.0001", "evaluation.0.data.rows": "3"})

    assert changed.budget.usd == Decimal("0.0001")
    assert changed.evaluation[0].data.rows == 3
    assert recipe.model_dump() == before
    back = {"budget.usd": "0.1", "evaluation.0.data.rows": "10"}
    assert with_changes(changed, back) == recipe


def test_null_takes_a_value_away_and_lists_and_parts_are_written_as_yaml(recipe: Recipe) -> None:
    changed = with_changes(
        recipe,
        {
            "training.epochs": "null",
            "training.steps": "100",
            "training.betas": "[0.5, 0.6]",
            "evaluation": "[]",
            "teacher": "{kind: api, base_url: 'https://a.example/v1', model: m}",
        },
    )

    assert (changed.training.epochs, changed.training.steps) == (None, 100)
    assert changed.training.betas == (0.5, 0.6)
    assert changed.evaluation == ()
    assert changed.teacher.kind == "api"


def test_text_with_yaml_signs_in_it_is_taken_as_it_is(recipe: Recipe) -> None:
    prompt = '{question}: [x] "#" - & *'

    assert with_changes(recipe, {"data.prompt": prompt}).data.prompt == prompt


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("budget.usd", "-5", "budget.usd: must be above 0, is -5"),
        ("budgt.usd", "5", "budgt: is not a field: did you mean budget?"),
        ("budget.usdd", "5", "budget.usdd: is not a field: did you mean usd?"),
        ("budget", "5", "budget: must be a map of fields (usd, hours), is 5"),
        ("training.steps", "9", "training.steps: give either epochs or steps, not both"),
        ("evaluation.1.task", "x", "evaluation.1: there is no entry 1: there are 1, the first"),
        ("evaluation.x", "x", "evaluation.x: there is no entry 'x'"),
        ("evaluation", "[{", "evaluation: has a [ or { that is not closed"),
        ("name.x", "x", "name.x: there is no 'x' in 'small'"),
        ("name", "null", "name: must be text, is empty"),
        ("teacher.kind", "none", "teacher.model: is only for kind"),
        ("", "x", "'': is not a field: there is name"),
        ("training.betas", "0.5", "training.betas: must be a list, is 0.5"),
    ],
)
def test_a_wrong_change_names_its_field(recipe: Recipe, field: str, value: str, fault: str) -> None:
    with pytest.raises(InvalidRecipeError) as caught:
        with_changes(recipe, {field: value})

    assert [each for each in caught.value.faults if each.startswith(fault)], caught.value.faults


def test_every_wrong_change_is_told_at_once(recipe: Recipe) -> None:
    with pytest.raises(InvalidRecipeError) as caught:
        with_changes(recipe, {"budget.usd": "x", "evaluation.7.task": "x", "training.seed": "-1"})

    assert caught.value.faults == (
        "evaluation.7: there is no entry 7: there are 1, the first is 0",
        "training.seed: must be at least 0, is -1",
        "budget.usd: must be a number, is 'x'",
    )
