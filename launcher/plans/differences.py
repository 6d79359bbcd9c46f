"""In which fields two recipes differ. Pure."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from recipes.recipe import Recipe


class Difference(NamedTuple):
    """A field that two recipes do not agree in."""

    field: str
    """As `--set` takes it: `training.steps`, `evaluation.0.task`."""
    a: Any
    b: Any
    """Values of the one and the other; `None` where left out."""

    def __str__(self) -> str:
        return f"{self.field}: {_shown(self.a)} -> {_shown(self.b)}"

    def as_json(self) -> dict[str, Any]:
        """For programs: amounts as text, as in a recipe's JSON."""
        plain = (bool, int, float, str, type(None))
        a, b = (each if isinstance(each, plain) else str(each) for each in (self.a, self.b))
        return {"field": self.field, "a": a, "b": b}


def differences(a: Recipe, b: Recipe) -> list[Difference]:
    """Every field with two values, in the order of a recipe; what is equal is left out.

    >>> from decimal import Decimal
    >>> list(_fields("", {"training": {"steps": 5}, "tasks": ({"n": Decimal(1)},)}))
    [('training.steps', 5), ('tasks.0.n', Decimal('1'))]
    """
    of_a, of_b = (dict(_fields("", recipe.model_dump())) for recipe in (a, b))
    parts = list(Recipe.model_fields)
    names = dict.fromkeys((*of_a, *of_b))
    return [
        Difference(field, of_a.get(field), of_b.get(field))
        for field in sorted(names, key=lambda name: parts.index(name.partition(".")[0]))
        if of_a.get(field) != of_b.get(field)
    ]


def _fields(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    match value:
        case dict():
            parts = [(str(key), part) for key, part in value.items()]
        case tuple() | list():
            parts = [(str(number), part) for number, part in enumerate(value)]
        case _:
            yield name, value
            return
    for key, part in parts:
        yield from _fields(f"{name}.{key}" if name else key, part)


def _shown(value: Any) -> str:
    """A value for people, on one line."""
    if value is None:
        return "left out"
    text = " ".join(str(value).split()) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
