"""A first recipe: every field with what it means, the needed ones filled in.

The words are those of the models' docstrings, so that they are written once.
"""

import textwrap
from collections.abc import Iterator
from typing import Any, Literal, get_args

from recipes.errors import InvalidInputError
from recipes.faults import listed
from recipes.loading import parse_recipe
from recipes.recipe import ExactMatch, HubData, Part, Recipe
from recipes.reference import allowed, as_yaml, default_of
from recipes.schema import recipe_schema
from recipes.shape import example_of, field_docs, kind_of, shape_of

TeacherKind = Literal["none", "model", "api", "dataset"]

_WIDTH = 96

_HEAD = """\
# yaml-language-server: $schema=recipe.schema.json
# (for editors; `still schema > recipe.schema.json` writes that file)
#
# What stands behind `# ` explains the field below it. What stands behind a bare `#` is a field at
# its default: take the `#` away to change it.
#
#   still check {name}.yaml     is it valid?
#   still plan {name}.yaml      what will it cost?
#   still launch {name}.yaml    distil, inside the budget
"""


def new_recipe(name: str, kind: TeacherKind = "model") -> str:
    """The text of a commented recipe that passes `still check`.

    Args:
        name: the recipe's name; also what its file is called in the text.
        kind: who writes what the student learns.

    Raises:
        InvalidInputError: not a name, or no such kind.
    """
    if kind not in get_args(TeacherKind):
        raise InvalidInputError(f"{kind}: a teacher is {listed(get_args(TeacherKind))}")
    schema = recipe_schema()
    writer = _Writer({**schema["$defs"], Recipe.__name__: schema})
    text = _HEAD.format(name=name) + "\n".join(writer.part(Recipe, _start(name, kind), "")) + "\n"
    parse_recipe(text.encode(), "")
    return text


def _start(name: str, kind: TeacherKind) -> dict[str, Any]:
    """The fields that are filled in: the models' examples, and what makes them one recipe."""
    teachers = shape_of(Recipe.model_fields["teacher"].annotation).kinds
    recipe = example_of(Recipe) | {"name": name, "teacher": example_of(teachers[kind])}
    ask = "{problem}\n\nPut the final answer in \\boxed{{}}."
    problems = example_of(HubData) | {"prompt": ask, "rows": 1000}
    recipe["data"] = dict(problems)
    if kind in ("model", "api"):
        del recipe["data"]["completion"]
        recipe["teacher"]["sampling"] = {"max_new_tokens": 2048}
    recipe["method"] = {"kind": "from_text"}
    recipe["evaluation"] = [
        example_of(ExactMatch)
        | {
            "data": problems | {"split": "test", "completion": "{answer}", "rows": 100},
            "answer_pattern": r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}",
            "max_new_tokens": 2048,
        }
    ]
    recipe["hardware"] = {"accelerators": "any"}
    recipe["budget"] |= {"hours": 4}
    return recipe


class _Writer:
    """Writes parts as YAML, a comment above each field."""

    def __init__(self, entries: dict[str, Any]) -> None:
        self._entries = entries

    def part(self, part: type[Part], values: dict[str, Any], margin: str) -> Iterator[str]:
        """The lines of a part: its kind, then every field, set or at its default."""
        properties = self._entries[part.__name__]["properties"]
        if kind := kind_of(part):
            yield f"{margin}kind: {kind}"
        for name, info in part.model_fields.items():
            if name == "kind":
                continue
            if margin == "":
                yield ""
            value = values.get(name)
            yield from self._comment(part, name, margin, isinstance(value, dict | list))
            shape = shape_of(info.annotation)
            if name not in values:
                yield f"{margin}#{name}: {default_of(properties[name])}"
            elif shape.items and shape.items.part:
                yield f"{margin}{name}:"
                for each in values[name]:
                    yield from _as_item(self.part(shape.items.part, each, f"{margin}    "), margin)
            elif below := shape.part or shape.kinds.get(
                values[name]["kind"] if shape.kinds else ""
            ):
                yield f"{margin}{name}:"
                yield from self.part(below, values[name], f"{margin}  ")
            else:
                yield f"{margin}{name}: {as_yaml(value)}"

    def _comment(self, part: type[Part], name: str, margin: str, is_part: bool) -> Iterator[str]:
        doc = " ".join(field_docs(part)[name].split())
        if not is_part:
            words = allowed(self._entries[part.__name__]["properties"][name])
            doc = doc if words == "text" else f"{doc} {words[0].upper()}{words[1:]}."
        yield from textwrap.wrap(
            doc, _WIDTH, initial_indent=f"{margin}# ", subsequent_indent=f"{margin}# "
        )


def _as_item(lines: Iterator[str], margin: str) -> Iterator[str]:
    """The lines of a part as an entry of a list: a dash before the first."""
    for number, line in enumerate(lines):
        yield f"{margin}  - {line.lstrip()}" if number == 0 else line
