"""The schema and the pages that are made from the models are up to date."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml

from recipes.reference import reference
from recipes.schema import recipe_schema, schema_json

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "recipes" / "recipe.schema.json"
PAGE = ROOT / "docs" / "recipes.md"
MARK = "<!-- reference -->\n"


def current(path: Path, text: str) -> None:
    """A committed file is what would be made now; `make golden` makes it."""
    if os.environ.get("STILLHOUSE_GOLDEN") == "write":
        path.write_text(text)
    assert path.read_text() == text, f"{path.name} is out of date: `make golden` writes it again"


@pytest.mark.golden
def test_the_committed_schema_is_that_of_the_models() -> None:
    current(SCHEMA, schema_json())


@pytest.mark.golden
def test_the_page_about_recipes_ends_with_the_fields_of_the_models() -> None:
    by_hand, mark, _ = PAGE.read_text().partition(MARK)

    assert mark
    current(PAGE, by_hand + MARK + reference())


def test_the_schema_is_valid_and_has_neither_titles_nor_an_id() -> None:
    schema = json.loads(schema_json())

    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert '"title"' not in schema_json()
    assert '"$id"' not in schema_json()


def test_every_field_of_the_schema_is_described() -> None:
    schema = recipe_schema()
    for entry in (schema, *schema["$defs"].values()):
        assert entry["description"]
        for name, field in entry["properties"].items():
            assert name == "kind" or field["description"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("usd: 0.1", "usd: -5"),
        ("usd: 0.1", "usd: '5'"),
        ("usd: 0.1", "usdd: 5"),
        ("name: small", "name: Small"),
        ("kind: pretrained", "kind: other"),
        ("  kind: pretrained\n", ""),
        ("batch_size: 8", "batch_size: 0"),
        ("batch_size: 8", "batch_size: 8.5"),
    ],
)
def test_an_editor_sees_what_check_sees(
    valid: str, changed: Callable[[str, str], str], old: str, new: str
) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(schema_json()))
    readable = valid.replace("3e-4", "3.0e-4")  # YAML 1.1 takes 3e-4 for text

    assert validator.is_valid(yaml.safe_load(readable))
    assert not validator.is_valid(yaml.safe_load(readable.replace(old, new, 1)))


def test_the_pages_first_recipe_is_valid_and_its_faults_are_those_of_check(
    faults: Callable[[str | bytes], list[str]],
) -> None:
    page = PAGE.read_text()
    recipe = page.partition("```yaml\n")[2].partition("```")[0]
    wrong = (
        recipe.replace("model: Qwen/Qwen2.5-7B", "modell: Qwen/Qwen2.5-7B")
        .replace("1.0e-5", "-1e-5")
        .replace("usd: 5", "usd: 0")
    )

    assert faults(recipe) == []
    told = [fault.replace("small.yaml", "my-student.yaml") for fault in faults(wrong)]
    assert "\n".join(told) in page
