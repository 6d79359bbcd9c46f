"""Whatever a file holds: a recipe, or faults told in lines that a terminal can print."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

import recipes
from recipes.errors import InvalidRecipeError
from recipes.loading import parse_recipe, with_changes
from recipes.recipe import Recipe
from recipes.tree import read_tree

SHIPPED = [path.read_bytes() for path in sorted(Path(recipes.__file__).parent.glob("*.yaml"))]
SIGNS = st.sampled_from(list("{}[]:-?&*!|>'\"%@`#,~\t\n .0eE_\\\0\ufeff\ud7ff\U0001f600"))
WORDS = st.sampled_from(
    ["kind", "null", "~", "no", "[]", "{}", "- ", "1e999", "-1", "9" * 30, "model", "<<", "!!int"]
)
SCALARS = st.one_of(st.none(), st.text(max_size=20), st.integers().map(str), st.floats().map(str))
VALUES = st.recursive(
    SCALARS,
    lambda below: (
        st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=8), below, max_size=3)
    ),
    max_leaves=5,
)


def refusal(read: Callable[[], Recipe]) -> tuple[str, ...]:
    """The faults that reading ends in, if any. Everything else is a failure of the test."""
    try:
        recipe = read()
    except InvalidRecipeError as error:
        faults = error.faults or ("nothing said",)
    else:
        assert isinstance(recipe, Recipe)
        return ()
    for fault in faults:
        assert ": " in fault
        assert fault.isprintable()
        assert len(fault) < 1000
        fault.encode()
    return faults


def told(content: bytes) -> tuple[str, ...]:
    faults = refusal(lambda: parse_recipe(content, "x.yaml"))
    assert all(fault.startswith("x.yaml") for fault in faults)
    return faults


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
@example(b"\xff")
@example(b"a: !<%0a> b")
@example(b'"\\uD800": 1')
@example(b'name: "\\ud800"')
@example(b"? \n: \n")
@example(b"%TAG ! a\n---\n!b c")
@example(b'data: {kind: jsonl, path: x, prompt: "{a\\nb}"}')
@example(b'evaluation: [{answer_pattern: "(?P<' + b"\\a" * 90 + b'>)"}]')
def test_any_bytes_end_in_a_recipe_or_in_faults(content: bytes) -> None:
    assert told(content)


@settings(max_examples=150, deadline=None)
@given(st.lists(SIGNS | WORDS, max_size=40).map("".join))
def test_any_yaml_signs_end_in_faults_and_both_parsers_agree_on_what_is_read(text: str) -> None:
    content = text.encode()

    assert told(content)
    loaders = {yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader)}
    for loader in loaders:
        tree = read_tree(content, loader)
        assert tree.faults or tree.root is None or tree.root.line >= 1


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SHIPPED), st.data())
def test_a_recipe_with_a_piece_replaced_is_a_recipe_or_has_faults(
    content: bytes, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 40)))
    piece = data.draw(st.binary(max_size=8) | (SIGNS | WORDS).map(str.encode))

    told(content[:start] + piece + content[end:])


def leaves(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The path of every value in a tree."""
    found = [path] if path else []
    if isinstance(value, dict):
        found += [leaf for key, below in value.items() for leaf in leaves(below, (*path, key))]
    if isinstance(value, list):
        found += [leaf for key, below in enumerate(value) for leaf in leaves(below, (*path, key))]
    return found


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SHIPPED), st.data())
def test_a_recipe_with_values_replaced_dropped_and_added_is_a_recipe_or_has_faults(
    content: bytes, data: st.DataObject
) -> None:
    tree = yaml.load(content, Loader=yaml.BaseLoader)
    for _ in range(data.draw(st.integers(1, 4))):
        *above, last = data.draw(st.sampled_from(leaves(tree)))
        parent = tree
        for step in above:
            parent = parent[step]
        match data.draw(st.sampled_from(["replace", "drop", "add"])):
            case "replace":
                parent[last] = data.draw(VALUES)
            case "drop":
                del parent[last]
            case "add" if isinstance(parent, dict):
                parent[data.draw(st.text(max_size=10) | WORDS)] = data.draw(VALUES)
        if not tree:
            break

    told(yaml.dump(tree, allow_unicode=True).encode(errors="replace"))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(SHIPPED),
    st.dictionaries(
        st.sampled_from(["budget.usd", "evaluation.0.task", "teacher", "data.rows", "training.x"])
        | st.text(max_size=20),
        st.text(max_size=20) | WORDS | st.sampled_from(["{kind: none}", "[1, 2]", "5"]),
        min_size=1,
        max_size=3,
    ),
)
def test_any_changes_end_in_a_recipe_or_in_faults(content: bytes, changes: dict[str, str]) -> None:
    recipe = parse_recipe(content, "x.yaml")

    refusal(lambda: with_changes(recipe, changes))


@pytest.mark.parametrize("content", SHIPPED)
def test_a_recipe_cut_off_anywhere_is_a_recipe_or_has_faults(content: bytes) -> None:
    for end in range(0, len(content), 7):
        told(content[:end])
