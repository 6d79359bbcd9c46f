"""A first recipe is valid, and taking the marks away keeps it so."""

import re
from typing import get_args

import pytest

from recipes.errors import InvalidInputError
from recipes.loading import parse_recipe
from recipes.new import TeacherKind, new_recipe
from recipes.recipe import Recipe
from recipes.schema import inside
from recipes.shape import shape_of

KINDS: tuple[TeacherKind, ...] = get_args(TeacherKind)


def test_there_is_a_first_recipe_for_every_kind_of_teacher() -> None:
    assert set(KINDS) == set(shape_of(Recipe.model_fields["teacher"].annotation).kinds)


@pytest.mark.parametrize("kind", KINDS)
def test_a_first_recipe_passes_check(kind: TeacherKind) -> None:
    recipe = parse_recipe(new_recipe("my-student", kind).encode(), "my-student.yaml")

    assert recipe.name == "my-student"
    assert recipe.teacher.kind == kind
    assert recipe.evaluation


@pytest.mark.parametrize("kind", KINDS)
def test_a_first_recipe_explains_every_field_of_its_parts_on_lines_that_fit(
    kind: TeacherKind,
) -> None:
    text = new_recipe("my-student", kind)
    recipe = parse_recipe(text.encode(), "my-student.yaml")

    fields = set(re.findall(r"^ *(?:- )?#?(\w+):", text, re.MULTILINE))
    for name in Recipe.model_fields:
        value = getattr(recipe, name)
        if inside(shape_of(Recipe.model_fields[name].annotation)) and name != "evaluation":
            assert fields >= set(type(value).model_fields), name
    lines = text.splitlines()
    assert max(len(line) for line in lines) <= 100
    for number, line in enumerate(lines):
        if re.match(r" *#?(?!kind)\w+:", line):
            assert lines[number - 1].lstrip().startswith("# "), line


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_at_its_default_may_be_uncommented(kind: TeacherKind) -> None:
    text = new_recipe("my-student", kind)
    recipe = parse_recipe(text.encode(), "my-student.yaml")

    uncommented, count = re.subn(r"^( *)#(\w+:)", r"\1\2", text, flags=re.MULTILINE)

    assert count > 20
    assert parse_recipe(uncommented.encode(), "my-student.yaml") == recipe


@pytest.mark.parametrize("name", ["", "Two Words", "a\nb: c", "-x", "x" * 41, "a: b", "ü"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError):
        new_recipe(name)


def test_an_unknown_kind_of_teacher_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="a teacher is none, model, api or dataset"):
        new_recipe("x", "parrot")  # type: ignore[arg-type]
