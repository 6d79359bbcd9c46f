"""What the recipe's models say about themselves: which part a field holds, and its docstring."""

import ast
import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from recipes.recipe import Part


@dataclass(frozen=True)
class Shape:
    """What lies below a field: one part, one of several parts by their `kind`, a list, or nothing.

    Nothing (all three empty) means text, a number, or yes and no.
    """

    part: type[Part] | None = None
    kinds: Mapping[str, type[Part]] = field(default_factory=dict)
    items: "Shape | None" = None

    def first_part(self) -> type[Part] | None:
        """The part, or the first of the kinds."""
        return self.part or next(iter(self.kinds.values()), None)


def shape_of(annotation: Any) -> Shape:
    """The shape that a field's annotation asks for."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return Shape(part=annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return shape_of(arguments[0])
    if origin in (tuple, list):
        return Shape(items=shape_of(arguments[0]))
    if origin in (Union, UnionType):
        parts = [shape_of(each).part for each in arguments if each is not NoneType]
        several = {kind_of(part): part for part in parts if part is not None}
        if len(several) > 1:
            return Shape(kinds=several)
        return Shape(part=next(iter(several.values()), None))
    return Shape()


def kind_of(part: type[Part]) -> str:
    """The `kind` that a part is told from others by; empty where it has none."""
    kind = part.model_fields.get("kind")
    return str(kind.default) if kind else ""


@dataclass(frozen=True)
class Place:
    """Where in the models a value of a recipe belongs."""

    path: tuple[str | int, ...]
    shape: Shape
    info: FieldInfo | None = None
    """The field that the value is, or lies in; `None` at the top and for unknown keys."""
    owner: type[Part] | None = None
    """The part that has this field."""
    others: Mapping[str, type[Part]] = field(default_factory=dict)
    """The kinds that the owner is one of."""


def place_of(location: tuple[int | str, ...], top: type[Part]) -> Place:
    """The place of a pydantic error location.

    pydantic names the chosen kind behind a field of several kinds; in a recipe that is no step.
    """
    place = Place((), Shape(part=top))
    others: Mapping[str, type[Part]] = {}
    for step in location:
        shape = place.shape
        if shape.kinds:
            others = shape.kinds
            place = Place(place.path, Shape(part=others.get(str(step))), place.info)
        elif shape.items is not None:
            place = Place((*place.path, step), shape.items, place.info)
        else:
            below = shape.part.model_fields.get(str(step)) if shape.part else None
            inside = shape_of(below.annotation) if below else Shape()
            place = Place((*place.path, step), inside, below, shape.part, others)
            others = {}
    return place


def example_of(part: type[Part]) -> dict[str, Any]:
    """A valid part, made of the examples of its fields."""
    values: dict[str, Any] = {}
    for name, info in part.model_fields.items():
        below = shape_of(info.annotation).first_part()
        if info.examples:
            values[name] = info.examples[0]
        elif info.is_required() and below:
            values[name] = example_of(below)
    return {"kind": kind, **values} if (kind := kind_of(part)) else values


@cache
def field_docs(part: type[Part]) -> Mapping[str, str]:
    """The docstring of every field of a part, inherited ones too; none without source code."""
    docs: dict[str, str] = {}
    for each in reversed(part.__mro__):
        if issubclass(each, Part):
            docs.update(_own_docs(each))
    return docs


def _own_docs(part: type[Part]) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(part))
    except (OSError, TypeError):
        return {}
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    docs: dict[str, str] = {}
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        match statement, following:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str() as text)),
            ):
                docs[name] = inspect.cleandoc(text)
    return docs
