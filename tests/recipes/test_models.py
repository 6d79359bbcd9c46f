"""What holds for every part of a recipe, those added later included."""

import pytest

from recipes.recipe import Part, Recipe, Sampling, template_columns
from recipes.schema import inside, parts_below, recipe_schema
from recipes.shape import example_of, field_docs, kind_of, place_of, shape_of

PARTS = parts_below(Recipe)


@pytest.mark.parametrize("part", PARTS.values(), ids=str)
def test_every_field_says_what_it_means(part: type[Part]) -> None:
    silent = [name for name in part.model_fields if name not in {"kind", *field_docs(part)}]

    assert silent == []
    assert part.__doc__


@pytest.mark.parametrize("part", PARTS.values(), ids=str)
def test_every_number_has_a_range_and_every_pattern_has_words(part: type[Part]) -> None:
    entry = recipe_schema() if part is Recipe else recipe_schema()["$defs"][part.__name__]
    for name, field in entry["properties"].items():
        for choice in field.get("anyOf", [field]):
            if choice.get("type") in ("integer", "number"):
                assert {"minimum", "exclusiveMinimum"} & set(choice), name
                assert {"maximum", "exclusiveMaximum"} & set(choice), name
            if "pattern" in choice:
                assert choice["patternErrorMessage"].startswith("must be "), name


@pytest.mark.parametrize("part", PARTS.values(), ids=str)
def test_the_examples_of_a_part_make_a_valid_part(part: type[Part]) -> None:
    made = part.model_validate(example_of(part))

    assert part.model_validate(made.model_dump()) == made
    assert part.model_validate_json(made.model_dump_json()) == made


def test_a_part_is_frozen_and_a_misspelt_key_is_an_error() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Sampling().seed = 1  # type: ignore[misc]
    with pytest.raises(ValueError, match="Extra inputs"):
        Sampling.model_validate({"sed": 1})


def test_kinds_of_one_field_differ_and_each_says_its_own() -> None:
    for part in PARTS.values():
        for name, info in part.model_fields.items():
            for kind, below in shape_of(info.annotation).kinds.items():
                assert kind_of(below) == kind, f"{part.__name__}.{name}"
                assert len(inside(shape_of(info.annotation))) > 1


def test_the_kind_that_pydantic_names_in_a_location_is_no_step_of_the_path() -> None:
    place = place_of(("teacher", "model", "model"), Recipe)

    assert place.path == ("teacher", "model")
    assert place.owner is not None
    assert kind_of(place.owner) == "model"
    assert set(place.others) == {"none", "model", "api", "dataset"}


@pytest.mark.parametrize(
    ("template", "columns"),
    [("{a} {{b}} {c}{a}", ("a", "c")), ("none", ()), ("{{}}", ())],
)
def test_a_template_names_its_columns_once_in_order(
    template: str, columns: tuple[str, ...]
) -> None:
    assert template_columns(template) == columns


@pytest.mark.parametrize("template", ["{", "}", "{}", "{0}", "{a.b}", "{a!r}", "{a:>5}", "{a b}"])
def test_a_template_with_anything_but_names_in_braces_is_an_error(template: str) -> None:
    with pytest.raises(ValueError, match=r"brace|'[{}]'|expected"):
        template_columns(template)
