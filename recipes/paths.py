"""Every place of a recipe where a folder or a file stands, changed by one function."""

from collections.abc import Callable
from typing import Any

from recipes.recipe import HOME_VARIABLE, Recipe

FOLDER_MARKS = ("/", "./", "../", "~/", HOME_VARIABLE)
"""A model that begins so is a folder, and not a hub id."""

Change = Callable[[str, str], str]
"""`(field, path) -> the path instead`; the field as in `evaluation[0].data.path`."""


def with_paths(recipe: Recipe, model: Change, file: Change) -> Recipe:
    """The recipe with the folders of its models and the files of its data changed.

    Hub ids and generated data have none and stay.
    """
    changed = recipe.model_dump()
    for part in ("teacher", "student"):
        fields: dict[str, Any] = changed[part]
        if fields["kind"] in ("model", "pretrained") and fields["model"].startswith(FOLDER_MARKS):
            fields["model"] = model(f"{part}.model", fields["model"])
    sources = {"data": changed["data"]} | {
        f"evaluation[{number}].data": task["data"]
        for number, task in enumerate(changed["evaluation"])
    }
    for field, source in sources.items():
        if "path" in source:
            source["path"] = file(f"{field}.path", source["path"])
    return Recipe.model_validate(changed)
