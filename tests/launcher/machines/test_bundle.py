"""What travels to a rented machine has to be here."""

from pathlib import Path

import pytest

from launcher.machines.bundle import make_bundle
from recipes.errors import InvalidInputError
from recipes.recipe import Recipe
from recipes.rundir import RunDir, write_model


def test_a_model_of_the_machine_that_launched_the_run_is_missed_by_name(
    tmp_path: Path, recipe: Recipe
) -> None:
    away = tmp_path / "elsewhere" / "student"
    whole = {**recipe.model_dump(), "student": {"kind": "pretrained", "model": str(away)}}
    run = RunDir(tmp_path / "tiny-1")
    run.path.mkdir()
    write_model(run.recipe, Recipe.model_validate(whole))

    with pytest.raises(InvalidInputError, match=r"student\.model of tiny-1 is .*elsewhere/student"):
        make_bundle(run)
