"""A recipe as written -> the same with every path absolute, ready to lie in a run's folder."""

from pathlib import Path
from typing import Any

from recipes.errors import InvalidInputError
from recipes.recipe import HOME_VARIABLE, Recipe

_FOLDER_MARKS = ("/", "./", "../", "~/", HOME_VARIABLE)


def resolve_paths(recipe: Recipe, folder: Path, home: Path) -> Recipe:
    """Make every path of a recipe absolute.

    Relative ones start at `folder` (the recipe's own), `~/` at the person's home and
    `$STILLHOUSE_HOME/` at `home`. Hub ids stay as they are.

    Raises:
        InvalidInputError: a model folder or a data file is not there; names the field.
    """
    changed = recipe.model_dump()
    for part in ("teacher", "student"):
        _resolve_model(changed[part], part, folder, home)
    _resolve_data(changed["data"], "data", folder, home)
    for number, task in enumerate(changed["evaluation"]):
        _resolve_data(task["data"], f"evaluation[{number}].data", folder, home)
    return Recipe.model_validate(changed)


def _resolve_model(part: dict[str, Any], field: str, folder: Path, home: Path) -> None:
    if part["kind"] not in ("model", "pretrained") or not part["model"].startswith(_FOLDER_MARKS):
        return
    path = _absolute(part["model"], folder, home)
    if not (path / "config.json").is_file():
        remedy = (
            " `make quickstart` prepares the quickstart's teacher."
            if part["model"].startswith(HOME_VARIABLE)
            else " Write owner/name for a model on the hub."
        )
        raise InvalidInputError(
            f"{field}.model: {path} is not a model folder (no config.json in it).{remedy}"
        )
    part["model"] = str(path)


def _resolve_data(data: dict[str, Any], field: str, folder: Path, home: Path) -> None:
    if "path" not in data:
        return
    path = _absolute(data["path"], folder, home)
    if not path.is_file():
        raise InvalidInputError(
            f"{field}.path: there is no file {path}. Relative paths start at {folder}."
        )
    data["path"] = str(path)


def _absolute(path: str, folder: Path, home: Path) -> Path:
    if path.startswith(HOME_VARIABLE):
        return home / path[len(HOME_VARIABLE) :].lstrip("/")
    return (folder / Path(path).expanduser()).resolve()
