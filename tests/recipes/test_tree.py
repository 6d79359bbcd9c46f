"""What of YAML is read, what is refused, and in which words."""

from typing import Any

import pytest
import yaml

from recipes.tree import read_tree

LOADERS = [yaml.SafeLoader, *([yaml.CSafeLoader] if hasattr(yaml, "CSafeLoader") else [])]


@pytest.fixture(params=LOADERS, ids=lambda loader: str(loader.__name__))
def told(request: pytest.FixtureRequest) -> Any:
    """The faults of a text as one line each, by each of PyYAML's two parsers."""

    def read(content: bytes) -> list[str]:
        return [fault.told("x.yaml") for fault in read_tree(content, request.param).faults]

    return read


def test_maps_lists_and_texts_are_read_as_they_are_written() -> None:
    tree = read_tree(b"a: [1.0, 'no', ~, null, \"\"]\nb:\n  c: >\n    two\n    words\n  d:\n")

    assert tree.faults == []
    assert tree.root is not None
    assert tree.root.plain() == {
        "a": ["1.0", "no", None, None, ""],
        "b": {"c": "two words\n", "d": None},
    }


def test_every_value_knows_the_line_of_its_key_or_dash() -> None:
    tree = read_tree(b"# comment\na:\n  - x\n  -\n    b: 1\n    c:\n      2\n")

    assert tree.root is not None
    lines = {path: tree.root.line_of(path) for path in [(), ("a",), ("a", 0), ("a", 1, "c")]}
    assert lines == {(): 2, ("a",): 2, ("a", 0): 3, ("a", 1, "c"): 6}


def test_the_line_of_something_missing_is_that_of_what_it_is_missing_from() -> None:
    tree = read_tree(b"a:\n  b: 1\nc: [x]\n")

    assert tree.root is not None
    assert tree.root.line_of(("a", "d", "e")) == 1
    assert tree.root.line_of(("c", 5)) == 3


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"a: 1\nb:\n\tc: 1", "x.yaml:3: is indented with a tab: use spaces"),
        (b"a: b: c", 'x.yaml:1: has a ": " too many: put the text in quotes'),
        (b"a: 1\nb: 'x", "x.yaml:2: opens a quote that is not closed"),
        (b'a: 1\nb: "x\n\n', "x.yaml:2: opens a quote that is not closed"),
        (b"a: @x", "x.yaml:1: text that begins with @ needs quotes"),
        (b"a: `x`", "x.yaml:1: text that begins with ` needs quotes"),
        (b'a: "\\d"', "x.yaml:1: has a backslash in double quotes: use single quotes"),
        (b"a:\n    b: 1\n  c: 1", "does not fit the lines above it: check the indentation"),
        (b"a: 1\nb\nc: 1\n", "x.yaml:"),
        (b"a: {b: 1", "x.yaml:"),
        (b"%YAML 9.9\n---\na: 1", "x.yaml:1: is not YAML: found incompatible YAML document"),
    ],
)
def test_what_is_no_yaml_is_one_fault_with_its_line(told: Any, content: bytes, fault: str) -> None:
    faults = told(content)

    assert len(faults) == 1
    assert fault in faults[0]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"a\x00b", "x.yaml:1: holds a character that is not text (U+0000)"),
        (b"a: 1\n\x1b[31m", "x.yaml:2: holds a character that is not text (U+001B)"),
        (b"\x89PNG\r\n\x1a\n", "x.yaml:1: is not UTF-8 text (byte 0x89): is it a binary file?"),
        (b"a: 1\nb: \xff", "x.yaml:2: is not UTF-8 text (byte 0xff): is it a binary file?"),
        ("a: 1".encode("utf-16"), "x.yaml: is UTF-16 text: save it as UTF-8"),
        (b"a: '\xef\xbf\xbf'", "x.yaml: is not YAML: "),
        (b"x" * 1_000_001, "x.yaml: is larger than 1 MB: this is not a recipe"),
    ],
)
def test_what_is_no_text_is_one_fault(told: Any, content: bytes, fault: str) -> None:
    (found,) = told(content)

    assert found.startswith(fault)


def test_a_byte_order_mark_is_no_fault() -> None:
    tree = read_tree(b"\xef\xbb\xbfa: 1")

    assert tree.root is not None
    assert tree.root.plain() == {"a": "1"}


def test_anchors_aliases_and_tags_are_refused_and_the_rest_is_read(told: Any) -> None:
    content = b"a: &one x\nb: *one\nc: !!python/object:os.system ls\nd: !x {e: 1}\nf: 1\nf: 2\n"

    assert told(content) == [
        "x.yaml:1 a: &one: anchors are not read: leave it out",
        "x.yaml:2 b: *one: aliases are not read: write it out",
        "x.yaml:3 c: !!python/object:os.system: tags are not read: leave it out",
        "x.yaml:4 d: !x: tags are not read: leave it out",
        "x.yaml:6 f: is given twice, first on line 5",
    ]


def test_a_key_given_twice_is_found_at_every_depth(told: Any) -> None:
    assert told(b"a:\n  - b: {c: 1, d: 2, c: 3}\n    b: 1\n") == [
        "x.yaml:2 a.0.b.c: is given twice, first on line 2",
        "x.yaml:3 a.0.b: is given twice, first on line 2",
    ]


def test_a_bomb_of_aliases_is_not_expanded(told: Any) -> None:
    lines = [b"a0: &a0 [x]"]
    lines += [b"a%d: &a%d [%s]" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 12)]

    faults = told(b"\n".join(lines))

    assert "x.yaml:1 a0: &a0: anchors are not read: leave it out" in faults
    assert "x.yaml:2 a1.0: *a0: aliases are not read: write it out" in faults


@pytest.mark.parametrize("piece", [b"[", b"- ", b"{a: ", b"? "])
def test_bottomless_nesting_is_refused_early(told: Any, piece: bytes) -> None:
    assert told(piece * 50_000)[-1].endswith("is nested more than 50 deep: this is not a recipe")


def test_fifty_levels_are_read_and_the_fifty_first_is_not(told: Any) -> None:
    assert told(b"[" * 50 + b"]" * 50) == []
    assert len(told(b"[" * 51 + b"]" * 51)) == 1


def test_a_file_of_very_many_values_is_refused(told: Any) -> None:
    (fault,) = told(b"a:\n" + b"- x\n" * 100_000)

    assert fault == "x.yaml:2000: holds more than 2,000 values: this is not a recipe"


def test_keys_must_be_words(told: Any) -> None:
    assert told(b"? [a, b]\n: 1\n") == ["x.yaml:1: a key must be a word"]


def test_a_second_document_is_refused_and_the_first_is_kept(told: Any) -> None:
    tree = read_tree(b"a: 1\n---\nb: 2\n")

    assert told(b"a: 1\n---\nb: 2\n") == [
        "x.yaml:2: a second document begins here: one recipe a file"
    ]
    assert tree.root is not None
    assert tree.root.plain() == {"a": "1"}


def test_a_nul_written_as_an_escape_is_refused(told: Any) -> None:
    assert told(b'a: "x\\0y"') == ["x.yaml:1 a: holds a NUL character"]
