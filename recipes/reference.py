"""The recipe's models -> what every field means, in Markdown (the end of `docs/recipes.md`)."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from recipes.faults import listed
from recipes.recipe import Part, Recipe
from recipes.schema import inside, recipe_schema
from recipes.shape import Shape, field_docs, kind_of, shape_of


def reference() -> str:
    """Every part of a recipe, each with a table of its fields."""
    return "\n".join(_sections()) + "\n"


def allowed(property_schema: dict[str, Any]) -> str:
    """The values that a field takes, in words.

    >>> allowed({"type": "integer", "minimum": 1, "maximum": 1000})
    'a whole number from 1 to 1,000'
    >>> allowed({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}]})
    'a number above 0'
    """
    choices = property_schema.get("anyOf", [property_schema])
    (value,) = [choice for choice in choices if choice.get("type") != "null"]
    if "patternErrorMessage" in value:
        return str(value["patternErrorMessage"]).removeprefix("must be ")
    if words := value.get("enum") or ([value["const"]] if "const" in value else []):
        return listed([f"`{each}`" for each in words])
    match value.get("type"):
        case "boolean":
            return "`true` or `false`"
        case "integer":
            return f"a whole number{_range(value)}"
        case "number":
            return f"a number{_range(value)}"
        case "array":
            return _array(value)
    return "text"


def default_of(property_schema: dict[str, Any]) -> str:
    """A field's default as YAML; empty where there is none.

    >>> default_of({"default": 1e-05}), default_of({"default": None}), default_of({})
    ('0.00001', 'null', '')
    """
    if "default" not in property_schema:
        return ""
    return as_yaml(property_schema["default"])


def as_yaml(value: Any) -> str:
    r"""A text, a number or a list of them as YAML on one line.

    >>> for value in ("Qwen/Qwen3-8B", "no", "a: b", "[0-9]\\.", [0.9, 1e-5], 3):
    ...     print(as_yaml(value))
    Qwen/Qwen3-8B
    "no"
    "a: b"
    '[0-9]\.'
    [0.9, 0.00001]
    3
    """
    if isinstance(value, list | tuple):
        return f"[{', '.join(as_yaml(each) for each in value)}]"
    if isinstance(value, float):
        return f"{Decimal(repr(value)):f}"
    if not isinstance(value, str):
        return json.dumps(value)
    if _is_plain(value):
        return value
    as_it_is = "\\" in value and value.isprintable() and "'" not in value
    return f"'{value}'" if as_it_is else json.dumps(value, ensure_ascii=False)


def _is_plain(text: str) -> bool:
    """Every YAML reader takes it for text, with no quotes around it."""
    is_word = text[:1].isalpha() and all(c.isalnum() or c in "._/-" for c in text)
    return is_word and text.lower() not in {
        "yes",
        "no",
        "on",
        "off",
        "true",
        "false",
        "null",
        "y",
        "n",
    }


def _range(value: dict[str, Any]) -> str:
    low, high = value.get("minimum"), value.get("maximum")
    above, below = value.get("exclusiveMinimum"), value.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" from {_number(low)} to {_number(high)}"
    limits = [
        f"{words} {_number(limit)}"
        for words, limit in (
            ("at least", low),
            ("above", above),
            ("at most", high),
            ("below", below),
        )
        if limit is not None
    ]
    return f" {' and '.join(limits)}" if limits else ""


def _number(limit: float) -> str:
    return f"{int(limit):,}" if limit == int(limit) else str(limit)


def _array(value: dict[str, Any]) -> str:
    items = value.get("prefixItems")
    if items:
        return f"a list of {len(items)}: {allowed(items[0])}"
    return f"a list of at most {value['maxItems']}" if "maxItems" in value else "a list"


# ---- Markdown --------------------------------------------------------------------------------


def _sections() -> Iterator[str]:
    schema = recipe_schema()
    entries = {**schema["$defs"], Recipe.__name__: schema}
    yield "### A recipe"
    yield from _table(Recipe, entries)
    for name, info in Recipe.model_fields.items():
        if parts := inside(shape_of(info.annotation)):
            yield f"\n### `{name}`\n\n{field_docs(Recipe)[name]}"
            for part in parts:
                yield from _part(part, entries)
            for field, below in _parts_of(parts).items():
                yield f"\n**`{name}.{field}`** {entries[below.__name__]['description']}"
                yield from _table(below, entries)


def _part(part: type[Part], entries: dict[str, Any]) -> Iterator[str]:
    kind, about = kind_of(part), entries[part.__name__]["description"]
    yield f"\n**`kind: {kind}`** {about}" if kind else f"\n{about}"
    yield from _table(part, entries)


def _parts_of(parts: tuple[type[Part], ...]) -> dict[str, type[Part]]:
    """The fields of some parts that hold a part of one kind only, and that part."""
    fields = [item for part in parts for item in part.model_fields.items()]
    shapes = {name: shape_of(info.annotation) for name, info in fields}
    return {name: shape.part for name, shape in shapes.items() if shape.part}


def _table(part: type[Part], entries: dict[str, Any]) -> Iterator[str]:
    properties = entries[part.__name__]["properties"]
    rows = {field: info for field, info in part.model_fields.items() if field != "kind"}
    if rows:
        yield "\n| field | values | default | |\n|---|---|---|---|"
    for field, info in rows.items():
        shape = shape_of(info.annotation)
        default = "**needed**" if info.is_required() else _default(shape, properties[field])
        values = _values(shape, properties[field])
        cells = f"`{field}`", values, default, " ".join(field_docs(part)[field].split())
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _values(shape: Shape, property_schema: dict[str, Any]) -> str:
    if shape.kinds:
        return f"one of {len(shape.kinds)} kinds: {listed([f'`{kind}`' for kind in shape.kinds])}"
    return "fields, see below" if shape.part else allowed(property_schema)


def _default(shape: Shape, property_schema: dict[str, Any]) -> str:
    default = "" if inside(shape) else default_of(property_schema)
    return "" if default in ("", "null", '""') else f"`{default}`"
