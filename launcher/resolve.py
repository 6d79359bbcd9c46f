"""A recipe as written -> the same with every path absolute, ready to lie in a run's folder."""

from pathlib import Path

from recipes.errors import InvalidInputError
from recipes.paths import with_paths
from recipes.recipe import HOME_VARIABLE, Recipe


def resolve_paths(recipe: Recipe, folder: Path, home: Path) -> Recipe:
    """Make every path of a recipe absolute.

    Relative ones start at `folder` (the recipe's own), `~/` at the person's home and
    `$STILLHOUSE_HOME/` at `home`. Hub ids stay as they are.

    Raises:
        InvalidInputError: a model folder or a data file is not there; names the field.
    """

    def model(field: str, written: str) -> str:
        path = _absolute(written, folder, home)
        if not (path / "config.json").is_file():
            remedy = (
                " `make quickstart` prepares the quickstart's teacher."
                if written.startswith(HOME_VARIABLE)
                else " Write owner/name for a model on the hub."
            )
            raise InvalidInputError(
                f"{field}: {path} is not a model folder (no config.json in it).{remedy}"
            )
        return str(path)

    def file(field: str, written: str) -> str:
        path = _absolute(written, folder, home)
        if not path.is_file():
            raise InvalidInputError(
                f"{field}: there is no file {path}. Relative paths start at {folder}."
            )
        return str(path)

    return with_paths(recipe, model, file)


def _absolute(path: str, folder: Path, home: Path) -> Path:
    if path.startswith(HOME_VARIABLE):
        return home / path[len(HOME_VARIABLE) :].lstrip("/")
    return (folder / Path(path).expanduser()).resolve()
