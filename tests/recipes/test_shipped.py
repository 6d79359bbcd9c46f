"""Every recipe that we ship is right, and says what it is."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

import recipes
from recipes.loading import load_recipe
from recipes.schema import schema_json

FOLDER = Path(recipes.__file__).parent
SHIPPED = sorted(FOLDER.glob("*.yaml"))


def test_the_page_about_recipes_lists_all_that_are_shipped() -> None:
    page = (FOLDER.parent / "docs" / "recipes.md").read_text()

    assert {"quickstart-teacher", "quickstart", "quickstart-labels", "s1"} <= {
        path.stem for path in SHIPPED
    }
    listed = re.findall(r"\(\.\./recipes/(\S+)\.yaml\)", page)
    assert sorted(listed) == sorted(path.stem for path in SHIPPED)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_valid_and_called_like_its_file(path: Path) -> None:
    recipe = load_recipe(path)

    assert recipe.name == path.stem
    assert recipe.description
    assert recipe.budget.hours is not None


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_fits_its_schema_as_editors_read_it(path: Path) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(schema_json()))

    errors = validator.iter_errors(yaml.safe_load(path.read_text()))

    assert [f"{list(error.path)}: {error.message}" for error in errors] == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_begins_with_its_schema_what_it_does_and_how_to_run_it(
    path: Path,
) -> None:
    first, *rest = path.read_text().splitlines()
    head = "\n".join(line for line in rest[: rest.index("")])

    assert first == "# yaml-language-server: $schema=recipe.schema.json"
    assert f"recipes/{path.name}" in head
    assert re.search("Not measured here|Expect an exact match", head)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_everything_from_the_hub_is_named_at_a_commit(path: Path) -> None:
    recipe = load_recipe(path)
    sources = [recipe.data, *(task.data for task in recipe.evaluation)]
    revisions = [source.revision for source in sources if source.kind == "hub"]
    if recipe.student.kind == "pretrained":
        revisions.append(recipe.student.revision)
    if recipe.teacher.kind == "model" and not recipe.teacher.model.startswith("$"):
        revisions.append(recipe.teacher.revision)

    assert [each for each in revisions if not re.fullmatch("[0-9a-f]{40}", each or "")] == []


def test_the_two_quickstarts_train_and_score_the_same_student_the_same_way() -> None:
    distilled, labels = (
        load_recipe(FOLDER / name) for name in ("quickstart.yaml", "quickstart-labels.yaml")
    )

    assert distilled.student == labels.student
    assert distilled.evaluation == labels.evaluation
    assert distilled.teacher.kind == "model"
    assert labels.teacher.kind == "none"


def test_the_quickstarts_teacher_has_not_seen_the_held_out_problems() -> None:
    for name in ("quickstart-teacher", "quickstart", "quickstart-labels"):
        recipe = load_recipe(FOLDER / f"{name}.yaml")
        assert recipe.data.kind == "generated"
        assert recipe.data.part == "train"
        for task in recipe.evaluation:
            assert task.data.kind == "generated"
            assert task.data.part == "held_out"
