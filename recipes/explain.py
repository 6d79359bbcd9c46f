"""pydantic's errors -> every fault of a recipe, in a person's words.

A model checks the rules between its fields only once the fields themselves are right. To tell all
faults at once, what is wrong is replaced by something that is right, and the rest is checked again;
whatever touches a replaced value is left unsaid.
"""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from recipes.faults import Fault, FieldPath, listed, nearest, shown
from recipes.recipe import BrokenRule, Recipe
from recipes.shape import Place, Shape, example_of, field_docs, place_of

_ROUNDS = 5
"""Fields, the rules of their parts, those of the parts above: what is left then is not new."""


def faults_of(data: dict[str, Any], unreadable: frozenset[FieldPath] = frozenset()) -> list[Fault]:
    """Every fault of a recipe's values; none if they make a recipe. Changes `data`.

    Args:
        data: the recipe as maps, lists and texts.
        unreadable: values about which everything has been said already.
    """
    faults: list[Fault] = []
    settled = _Settled()
    settled.add(unreadable)
    for _ in range(_ROUNDS):
        try:
            Recipe.model_validate(data)
        except ValidationError as error:
            errors = error.errors(include_url=False)
        else:
            break
        for each in errors:
            faults.extend(_faults(each, settled))
        mended = frozenset(_mend(data, each) for each in errors) - {()}
        if not mended:
            break
        settled.add(mended)
    return faults


class _Settled:
    """Paths about which everything has been said."""

    def __init__(self) -> None:
        self._paths: set[FieldPath] = set()
        self._above: set[FieldPath] = set()

    def add(self, paths: frozenset[FieldPath]) -> None:
        self._paths |= paths
        self._above.update(path[:depth] for path in paths for depth in range(len(path)))

    def covers(self, path: FieldPath) -> bool:
        """The value at `path` is settled, or lies in one that is."""
        return any(path[:depth] in self._paths for depth in range(len(path) + 1))

    def touches(self, path: FieldPath) -> bool:
        """The same, or a settled value lies in the one at `path`."""
        return self.covers(path) or path in self._above


def _faults(error: ErrorDetails, settled: _Settled) -> Iterator[Fault]:
    place = place_of(error["loc"], Recipe)
    if error["type"] == "rules":
        for rule in cast("tuple[BrokenRule, ...]", error["ctx"]["rules"]):
            looked_at = [(*place.path, *_steps(field)) for field in rule.fields]
            if not any(settled.touches(path) for path in looked_at):
                yield Fault(rule.message, looked_at[0])
        return
    path = (*place.path, "kind") if error["type"].startswith("union_tag") else place.path
    if not settled.covers(path):
        yield Fault(_in_words(error, place), path)


def _steps(field: str) -> FieldPath:
    return tuple(int(step) if step.isdigit() else step for step in field.split("."))


# ---- words -----------------------------------------------------------------------------------

_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "decimal": "a number",
    "finite": "a number that is not infinite",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "list": "a list",
}
_LIMITS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def _in_words(error: ErrorDetails, place: Place) -> str:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    for limit, words in _LIMITS.items():
        if limit in context:
            return f"must be {words} {_number(context[limit])}, is {shown(value)}"
    match kind:
        case "missing":
            return _missing(place)
        case "extra_forbidden":
            return _unknown(str(place.path[-1]), place)
        case "union_tag_not_found":
            return f"is missing: {listed(list(place.shape.kinds))}"
        case "union_tag_invalid":
            return _choice(list(place.shape.kinds), str(context["tag"]))
        case "literal_error":
            expected = str(context["expected"]).replace("'", "").replace(" or ", ", ")
            return _choice(expected.split(", "), value)
        case "model_type" | "model_attributes_type":
            return f"must be a map of fields ({_keys(place.shape)}), is {shown(value)}"
        case "string_pattern_mismatch":
            return _pattern(place) + (f", is {shown(value)}" if _may_be_shown(place) else "")
        case "string_too_short":
            return f"must have at least {_characters(context['min_length'])}, has {len(value)}"
        case "string_too_long":
            return f"must have at most {_characters(context['max_length'])}, has {len(value):,}"
        case "too_long":
            return f"must hold at most {context['max_length']} values, holds more"
        case "value_error":
            return str(context["error"])
        case "int_parsing_size":
            return "must be a whole number with fewer digits"
    wanted = _TYPES.get(kind.partition("_")[0])
    if wanted:
        return f"must be {wanted}, is {shown(value)}"
    return f"{error['msg']}, is {shown(value)}"


def _missing(place: Place) -> str:
    if isinstance(place.path[-1], int):
        return "is missing: the list is too short"
    docs = field_docs(place.owner) if place.owner else {}
    doc = docs.get(str(place.path[-1]), "").partition("\n\n")[0].replace("\n", " ")
    return f"is missing: {doc[:1].lower()}{doc[1:].rstrip('.')}" if doc else "is missing"


def _unknown(key: str, place: Place) -> str:
    known = list(place.owner.model_fields) if place.owner else []
    for kind, other in place.others.items():
        if key in other.model_fields:
            return f"is only for kind {kind}"
    if close := nearest(key, known):
        return f"is not a field: did you mean {close}?"
    return f"is not a field: there is {listed(known, 'and')}"


def _choice(allowed: list[str], value: Any) -> str:
    close = nearest(value, allowed) if isinstance(value, str) else None
    question = f": did you mean {close}?" if close else ""
    return f"must be {listed(allowed)}, is {shown(value)}{question}"


def _keys(shape: Shape) -> str:
    if shape.kinds:
        return f"the first is kind: {listed(list(shape.kinds))}"
    return ", ".join(shape.part.model_fields) if shape.part else ""


def _pattern(place: Place) -> str:
    extra = place.info.json_schema_extra if place.info else None
    assert isinstance(extra, Mapping), "a field with a pattern says it in words too"
    return str(extra["patternErrorMessage"])


def _may_be_shown(place: Place) -> bool:
    """Not where a wrong value is likely a key that belongs elsewhere."""
    return place.info is None or place.info.repr


def _characters(count: int) -> str:
    return "1 character" if count == 1 else f"{count:,} characters"


def _number(limit: float | Decimal) -> str:
    return f"{int(limit):,}" if limit == int(limit) else str(limit)


# ---- mending ---------------------------------------------------------------------------------


def _mend(data: dict[str, Any], error: ErrorDetails) -> FieldPath:
    """Replace what an error is about by something valid. Returns the path that was replaced."""
    place = place_of(error["loc"], Recipe)
    path = place.path
    if not path:
        return ()  # rules of the whole recipe are the last to be checked
    if isinstance(path[-1], int) and place.shape.first_part() is None:
        path = path[:-1]  # a list of numbers is replaced as a whole
    parent: Any = data
    for step in path[:-1]:
        parent = parent[step]
    if part := place.shape.first_part():
        parent[path[-1]] = example_of(part)
    elif place.info is None or not place.info.is_required():
        parent.pop(path[-1], None)
    else:
        assert place.info.examples, f"{path} is required and has no example"
        parent[path[-1]] = place.info.examples[0]
    return path
