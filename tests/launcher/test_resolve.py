"""Paths of a recipe, made absolute."""

from pathlib import Path

import pytest

from launcher.resolve import resolve_paths
from recipes.errors import InvalidInputError
from recipes.recipe import JsonlData, ModelTeacher, PretrainedStudent, Recipe


def recipe_with(recipe: Recipe, **parts: object) -> Recipe:
    return Recipe.model_validate({**recipe.model_dump(), **parts})


def model_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    return path


def test_a_model_below_the_home_is_found_there(recipe: Recipe, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "home" / "teachers" / "additions")
    teacher = {"kind": "model", "model": "$STILLHOUSE_HOME/teachers/additions"}
    data = {"kind": "generated", "rows": 1, "prompt": "{question}"}
    asked = recipe_with(recipe, teacher=teacher, data=data)

    resolved = resolve_paths(asked, tmp_path, tmp_path / "home")

    assert isinstance(resolved.teacher, ModelTeacher)
    assert resolved.teacher.model == str(folder)


def test_a_data_file_starts_at_the_recipes_folder(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    data = {"kind": "jsonl", "path": "rows.jsonl", "prompt": "{q}", "completion": "{a}"}

    resolved = resolve_paths(recipe_with(recipe, data=data), tmp_path, tmp_path)

    assert isinstance(resolved.data, JsonlData)
    assert resolved.data.path == str(tmp_path / "rows.jsonl")


def test_a_hub_id_stays_as_it_is(recipe: Recipe, tmp_path: Path) -> None:
    student = {"kind": "pretrained", "model": "Qwen/Qwen2.5-1.5B"}

    resolved = resolve_paths(recipe_with(recipe, student=student), tmp_path, tmp_path)

    assert isinstance(resolved.student, PretrainedStudent)
    assert resolved.student.model == "Qwen/Qwen2.5-1.5B"


def test_a_missing_teacher_of_the_quickstart_names_the_command_that_makes_it(
    recipe: Recipe, tmp_path: Path
) -> None:
    teacher = {"kind": "model", "model": "$STILLHOUSE_HOME/teachers/additions"}
    data = {"kind": "generated", "rows": 1, "prompt": "{question}"}

    with pytest.raises(InvalidInputError, match=r"teacher\.model: .* `make quickstart`"):
        resolve_paths(recipe_with(recipe, teacher=teacher, data=data), tmp_path, tmp_path)


def test_a_missing_data_file_of_a_task_is_named_with_its_field(
    recipe: Recipe, tmp_path: Path
) -> None:
    data = {"kind": "jsonl", "path": "none.jsonl", "prompt": "{q}", "completion": "{a}"}
    task = {"task": "t", "data": data}

    with pytest.raises(InvalidInputError, match=r"evaluation\[0\]\.data\.path: there is no file"):
        resolve_paths(recipe_with(recipe, evaluation=[task]), tmp_path, tmp_path)
