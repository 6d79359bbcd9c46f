"""A recipe's file -> a Recipe, or every fault of the file with its line.

Also changes fields of a recipe by their names, for the flags of the command line.
"""

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from recipes.errors import InvalidRecipeError
from recipes.faults import Fault, FieldPath, listed, printable, shown, told
from recipes.recipe import Recipe
from recipes.tree import LARGEST_BYTES, Tree, read_tree


def load_recipe(path: Path) -> Recipe:
    """Read a recipe's file.

    Raises:
        InvalidRecipeError: it cannot be read, or is not a recipe.
    """
    return parse_recipe(_content(path), str(path))


def parse_recipe(text: bytes, name: str) -> Recipe:
    """Read a recipe from the YAML text of a file called `name`.

    Raises:
        InvalidRecipeError: every fault of the text, each as `name:line field: message`.
    """
    tree = read_tree(text)
    data = tree.root.plain() if tree.root else None
    if isinstance(data, dict) and not tree.faults:
        try:
            return Recipe.model_validate(data)
        except ValidationError:
            pass  # told below, in words
    raise InvalidRecipeError(told(name, _all_faults(tree, data)))


def with_changes(recipe: Recipe, changes: Mapping[str, str]) -> Recipe:
    """The recipe with some fields changed, as a flag of the command line does it.

    Args:
        recipe: the recipe to start from; it stays as it is.
        changes: dotted field (`budget.usd`, `evaluation.0.max_new_tokens`) to its new value as
            text. `null` takes a value away; a list or a part is written as YAML (`[0.9, 0.99]`).

    Raises:
        InvalidRecipeError: every fault of the changed recipe, each as `field: message`.
    """
    data = _with_lists(recipe.model_dump())
    faults = [fault for field, text in changes.items() if (fault := _change(data, field, text))]
    if not faults:
        try:
            return Recipe.model_validate(data)
        except ValidationError:
            pass  # told below, in words
    from recipes.explain import faults_of

    unset = frozenset(fault.path for fault in faults)
    raise InvalidRecipeError(told("", [*faults, *faults_of(data, unset)]))


def _content(path: Path) -> bytes:
    """What a file holds, or a little more than a recipe may."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise _unreadable(path, "is a folder: name the recipe in it")
        if not stat.S_ISREG(mode):
            raise _unreadable(path, "is not a file")
        with path.open("rb") as file:
            return file.read(LARGEST_BYTES + 1)
    except FileNotFoundError as error:
        raise _unreadable(path, "there is no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise _unreadable(path, f"cannot be read: {str(reason).lower()}") from error


def _unreadable(path: Path, message: str) -> InvalidRecipeError:
    return InvalidRecipeError((f"{printable(str(path))}: {message}",))


def _all_faults(tree: Tree, data: Any) -> list[Fault]:
    from recipes.explain import faults_of

    if tree.root is None or not isinstance(data, dict):
        found = "is empty" if data is None else f"is {shown(data)}"
        return tree.faults or [_not_a_map(found, tree.root.line if tree.root else None)]
    return tree.faults + [
        Fault(fault.message, fault.path, tree.root.line_of(fault.path))
        for fault in faults_of(data, frozenset(tree.unreadable))
    ]


def _not_a_map(found: str, line: int | None) -> Fault:
    fields = listed(list(Recipe.model_fields), "and")
    return Fault(f"{found}: a recipe is a map of fields ({fields})", (), line)


def _with_lists(value: Any) -> Any:
    """The same value with lists in place of tuples, so that their entries can be changed."""
    if isinstance(value, dict):
        return {key: _with_lists(below) for key, below in value.items()}
    if isinstance(value, tuple | list):
        return [_with_lists(below) for below in value]
    return value


def _change(data: dict[str, Any], field: str, text: str) -> Fault | None:
    """Set one field. Returns what keeps it from being set; a wrong value is found later."""
    target: Any = data
    path: FieldPath = ()
    *above, last = field.split(".")
    for step in above:
        key = _key(target, step)
        if key is None:
            return Fault(_no_entry(target, step), (*path, step))
        path = (*path, key)
        target = target.setdefault(key, {}) if isinstance(target, dict) else target[key]
    key = _key(target, last)
    if key is None:
        return Fault(_no_entry(target, last), (*path, last))
    old = target.get(key) if isinstance(target, dict) else target[key]
    if not isinstance(old, dict | list):
        target[key] = None if text == "null" else text
        return None
    tree = read_tree(text.encode(errors="replace"))
    target[key] = tree.root.plain() if tree.root else None
    return Fault(tree.faults[0].message, (*path, key)) if tree.faults else None


def _key(target: Any, step: str) -> str | int | None:
    """What to index `target` with; `None` if it cannot be."""
    if isinstance(target, dict):
        return step
    if isinstance(target, list) and step.isdecimal() and int(step) < len(target):
        return int(step)
    return None


def _no_entry(target: Any, step: str) -> str:
    if isinstance(target, list):
        return f"there is no entry {shown(step)}: there are {len(target)}, the first is 0"
    return f"there is no {shown(step)} in {shown(target)}"
