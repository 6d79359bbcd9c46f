"""YAML text -> a tree of texts that knows its lines.

Decides what of YAML a recipe may use: maps, lists and texts. What a text means is left to the
field it is for, so `name: no` is a name, `0.1` reaches a Decimal as it was written, and a commit
like `1234e5` stays a commit. Anchors, aliases, tags and further documents are refused: nothing in a
file can grow beyond its size, or become an object.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml
from yaml.events import (
    AliasEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
)

from recipes.faults import Fault, FieldPath, printable

LARGEST_BYTES = 1_000_000
DEEPEST = 50
MOST_VALUES = 2_000

LOADER: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml where PyYAML was built with it: about ten times as fast."""

_NULLS = {"", "~", "null", "Null", "NULL"}
# Only what fits in a byte: a set of characters beyond takes 8 ms to compile, and the parser finds
# those too.
_NOT_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")

Plain: TypeAlias = "str | dict[str, Plain] | list[Plain] | None"
Value: TypeAlias = "str | dict[str, Node] | list[Node] | None"


@dataclass(slots=True)
class Node:
    """A value, and the line on which its key or its dash stands (the first line is 1)."""

    line: int
    value: Value

    def plain(self) -> Plain:
        """The value alone, in new containers."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def line_of(self, path: FieldPath) -> int:
        """The line of the value at `path`, or of the last thing on the way that is there."""
        node = self
        for step in path:
            if isinstance(node.value, dict) and step in node.value:
                node = node.value[str(step)]
            elif isinstance(node.value, list) and isinstance(step, int):
                node = node.value[step] if step < len(node.value) else node
            else:
                break
        return node.line


@dataclass(slots=True)
class Tree:
    """What could be read of a file, and what could not."""

    root: Node | None = None
    faults: list[Fault] = field(default_factory=list)
    unreadable: set[FieldPath] = field(default_factory=set)
    """Values that a fault stands for; they are `None` in the tree."""


def read_tree(content: bytes, loader: type[Any] = LOADER) -> Tree:
    """Read YAML. Never raises for what the content is: whatever is wrong is in `faults`."""
    tree = Tree()
    try:
        text = _decoded(content)
        _Reader(tree, text, loader).read()
    except _CannotGoOn as stop:
        tree.faults.append(stop.fault)
    return tree


class _CannotGoOn(Exception):
    """Nothing behind this place can be read."""

    def __init__(self, message: str, line: int | None = None, path: FieldPath = ()) -> None:
        self.fault = Fault(message, path, line)
        super().__init__(message)


def _decoded(content: bytes) -> str:
    if len(content) > LARGEST_BYTES:
        raise _CannotGoOn("is larger than 1 MB: this is not a recipe")
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise _CannotGoOn("is UTF-16 text: save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        wrong = f"byte 0x{content[error.start]:02x}"
        raise _CannotGoOn(f"is not UTF-8 text ({wrong}): is it a binary file?", line) from error
    if found := _NOT_TEXT.search(text):
        line = text.count("\n", 0, found.start()) + 1
        wrong = f"U+{ord(found.group()):04X}"
        raise _CannotGoOn(f"holds a character that is not text ({wrong})", line)
    return text


class _Reader:
    """Goes through the events of a YAML parser once; recursion ends at `DEEPEST`."""

    def __init__(self, tree: Tree, text: str, loader: type[Any]) -> None:
        self.tree = tree
        self.text = text
        self.events: Iterator[Event] = yaml.parse(text, Loader=loader)
        self.values = 0
        self.depth = 0

    def read(self) -> None:
        try:
            for event in self.events:
                if isinstance(event, DocumentStartEvent):
                    self._document(event)
        except yaml.YAMLError as error:
            raise _in_words(error, self.text) from error

    def _document(self, start: Event) -> None:
        if self.tree.root is not None:
            raise _CannotGoOn("a second document begins here: one recipe a file", _line(start))
        event = next(self.events)
        self.tree.root = Node(_line(event), None)
        self.tree.root.value = self._value(event, (), _line(event))

    def _value(self, event: Event, path: FieldPath, line: int) -> Value:
        self._count(line)
        if isinstance(event, AliasEvent):
            message = f"*{_cut(event.anchor or '')}: aliases are not read: write it out"
            self._unreadable(message, path, line)
            return None
        if isinstance(event, NodeEvent) and event.anchor is not None:
            self._fault(f"&{_cut(event.anchor)}: anchors are not read: leave it out", path, line)
        if isinstance(event, ScalarEvent | CollectionStartEvent) and event.tag is not None:
            self._unreadable(f"{_cut(event.tag)}: tags are not read: leave it out", path, line)
        if isinstance(event, ScalarEvent):
            return self._scalar(event, path, line)
        self.depth += 1
        if self.depth > DEEPEST:
            raise _CannotGoOn(f"is nested more than {DEEPEST} deep: this is not a recipe", line)
        value = self._map(path) if isinstance(event, MappingStartEvent) else self._list(path)
        self.depth -= 1
        return value

    def _scalar(self, event: ScalarEvent, path: FieldPath, line: int) -> str | None:
        value: str = event.value
        is_plain: bool = event.implicit[0]
        if is_plain and value in _NULLS:
            return None
        if "\0" in value:
            self._unreadable("holds a NUL character", path, line)
            return None
        return value

    def _map(self, path: FieldPath) -> dict[str, Node]:
        nodes: dict[str, Node] = {}
        while not isinstance(event := next(self.events), MappingEndEvent):
            key, line = self._key(event, path), _line(event)
            value = next(self.events)
            if key is None:
                self._value(value, (*path, "?"), line)  # read, for the faults in it
            elif key in nodes:
                first = nodes[key].line
                self._fault(f"is given twice, first on line {first}", (*path, key), line)
                self._value(value, (*path, key), line)
            else:
                nodes[key] = Node(line, self._value(value, (*path, key), line))
        return nodes

    def _key(self, event: Event, path: FieldPath) -> str | None:
        if isinstance(event, ScalarEvent):
            if event.anchor is not None or event.tag is not None:
                message = "anchors and tags are not read: leave it out"
                self._fault(message, (*path, event.value), _line(event))
            return str(event.value)
        self._fault("a key must be a word", path, _line(event))
        self._value(event, (*path, "?"), _line(event))
        return None

    def _list(self, path: FieldPath) -> list[Node]:
        nodes: list[Node] = []
        while not isinstance(event := next(self.events), SequenceEndEvent):
            line = _line(event)
            nodes.append(Node(line, self._value(event, (*path, len(nodes)), line)))
        return nodes

    def _count(self, line: int) -> None:
        self.values += 1
        if self.values > MOST_VALUES:
            raise _CannotGoOn(f"holds more than {MOST_VALUES:,} values: this is not a recipe", line)

    def _fault(self, message: str, path: FieldPath, line: int) -> None:
        self.tree.faults.append(Fault(message, path, line))

    def _unreadable(self, message: str, path: FieldPath, line: int) -> None:
        self._fault(message, path, line)
        self.tree.unreadable.add(path)


def _line(event: Event) -> int:
    assert event.start_mark is not None
    return event.start_mark.line + 1


def _cut(name: str) -> str:
    """The name of an anchor, alias or tag as it was written, not too long."""
    return printable(name.replace("tag:yaml.org,2002:", "!!")[:40])


_HINTS = {
    "mapping values are not allowed": 'has a ": " too many: put the text in quotes',
    "could not find expected ':'": "has a key without a colon",
    "expected <block end>": "does not fit the lines above it: check the indentation",
    "did not find expected key": "does not fit the lines above it: check the indentation",
    "did not find expected '-'": "does not fit the lines above it: check the indentation",
    "found unexpected end of stream": "opens a quote that is not closed",
    "expected ',' or": "opens a [ or { that is not closed",
    "node content": "has a [ or { that is not closed, or a comma too many",
    "unknown escape character": "has a backslash in double quotes: use single quotes",
}
_WHERE_IT_BEGAN = {"found unexpected end of stream", "expected ',' or"}


def _in_words(error: yaml.YAMLError, text: str) -> _CannotGoOn:
    """A YAML parser's complaint as people say it. libyaml and PyYAML word theirs differently."""
    problem = str(getattr(error, "problem", None) or error).partition("\n")[0]
    mark = getattr(error, "problem_mark", None)
    hint = next((hint for hint in _HINTS if hint in problem), None)
    if hint in _WHERE_IT_BEGAN:
        mark = getattr(error, "context_mark", None) or mark
    if mark is None:
        return _CannotGoOn(f"is not YAML: {problem}")
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    if re.match(r" *\t", line):
        return _CannotGoOn("is indented with a tab: use spaces", mark.line + 1)
    if "cannot start any token" in problem:
        character = line[mark.column : mark.column + 1]
        return _CannotGoOn(f"text that begins with {character} needs quotes", mark.line + 1)
    return _CannotGoOn(_HINTS[hint] if hint else f"is not YAML: {problem}", mark.line + 1)
