"""The recipe's models -> a JSON Schema, for editors (`recipes/recipe.schema.json`)."""

import json
from typing import Any

from recipes.recipe import Part, Recipe
from recipes.shape import Shape, field_docs, shape_of

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema_json() -> str:
    """JSON Schema (draft 2020-12) of a recipe, with the docstrings as descriptions."""
    return json.dumps({"$schema": DIALECT, **recipe_schema()}, indent=2, ensure_ascii=False) + "\n"


def recipe_schema() -> dict[str, Any]:
    """What pydantic makes of the models, put right for people who write YAML.

    Titles say nothing that the name does not, and go. Numbers may not be text. `kind` has to be
    given wherever it decides, although it has a default in Python.
    """
    schema: dict[str, Any] = _without_titles(Recipe.model_json_schema())
    parts = parts_below(Recipe)
    chosen = {kind for part in parts.values() for kind in _chosen_by_kind(part)}
    for name, part in parts.items():
        entry = schema["$defs"][name] if name != Recipe.__name__ else schema
        docs = field_docs(part)
        for field, value in entry["properties"].items():
            _numbers_only(value)
            if field in docs:
                value["description"] = " ".join(docs[field].split())
        if name in chosen:
            entry["required"] = ["kind", *entry.get("required", [])]
    return schema


def parts_below(part: type[Part]) -> dict[str, type[Part]]:
    """A part and all that can lie in it, by class name, in the order of the fields."""
    found = {part.__name__: part}
    for info in part.model_fields.values():
        for below in inside(shape_of(info.annotation)):
            found |= parts_below(below)
    return found


def inside(shape: Shape) -> tuple[type[Part], ...]:
    """The parts that a field may hold."""
    if shape.items is not None:
        return inside(shape.items)
    return (shape.part,) if shape.part else tuple(shape.kinds.values())


def _chosen_by_kind(part: type[Part]) -> set[str]:
    shapes = [shape_of(info.annotation) for info in part.model_fields.values()]
    kinds = [shape.items.kinds if shape.items else shape.kinds for shape in shapes]
    return {each.__name__ for choice in kinds for each in choice.values()}


def _without_titles(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_titles(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _without_titles(value)
        for key, value in schema.items()
        if key != "title" or not isinstance(value, str)
    }


def _numbers_only(value: dict[str, Any]) -> None:
    """Take away the text that stands beside a number, in place."""
    choices = value.get("anyOf", [])
    if any(choice.get("type") == "number" for choice in choices):
        kept = [choice for choice in choices if choice.get("type") != "string"]
        if len(kept) == 1:
            del value["anyOf"]
            value.update(kept[0])
        else:
            value["anyOf"] = kept
