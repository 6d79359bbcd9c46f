"""A fault in a recipe, and the words it is told in.

`quickstart.yaml:14 budget.usd: must be above 0, is -5`: the file, the line, the field, what would
be right, and what is there.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

FieldPath = tuple[str | int, ...]
"""Keys and list positions from the top of a recipe to a value."""

MOST_FAULTS = 100
"""More are counted, not listed: a file with so many is another kind of file."""

_LONGEST_SHOWN = 40
_NUMBER = re.compile(r"[-+.\d][-+.,\deE_]{0,39}")
_PLAIN_KEY = re.compile(r"[\w-]{1,40}")


@dataclass(frozen=True)
class Fault:
    """Something that keeps a recipe from being read."""

    message: str
    path: FieldPath = ()
    line: int | None = None

    def told(self, name: str) -> str:
        """The fault as one line. `name` is the file's; empty where there is none."""
        place = f"{name}:{self.line}" if name and self.line else name
        field = dotted(self.path)
        where = " ".join(part for part in (place, field) if part)
        return printable(f"{where}: {self.message}" if where else self.message)


def told(name: str, faults: Iterable[Fault]) -> tuple[str, ...]:
    """All faults in the order of the file, each once, and how many more there are."""
    in_order = sorted(faults, key=lambda fault: fault.line or 0)
    lines = tuple(dict.fromkeys(fault.told(name) for fault in in_order))
    if len(lines) <= MOST_FAULTS:
        return lines
    return (*lines[:MOST_FAULTS], f"{printable(name)}: and {len(lines) - MOST_FAULTS:,} more")


def dotted(path: FieldPath) -> str:
    """
    >>> dotted(("evaluation", 0, "max_new_tokens"))
    'evaluation.0.max_new_tokens'
    """
    steps = (str(step) for step in path)
    return ".".join(step if _PLAIN_KEY.fullmatch(step) else shown(step) for step in steps)


def shown(value: Any) -> str:
    """What stands in the file, on one line and not too long.

    >>> [shown(value) for value in ("-5", "five", None, ["5"], "x" * 50, False)]
    ['-5', "'five'", 'empty', 'a list', "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...'", 'false']
    """
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, str):
        if _NUMBER.fullmatch(value):
            return value
        return repr(value if len(value) <= _LONGEST_SHOWN else f"{value[:_LONGEST_SHOWN]}...")
    if isinstance(value, int | float):
        return str(value)
    return str(value) if type(value).__name__ == "Decimal" else "a map"


def listed(words: Collection[str], last: str = "or") -> str:
    """
    >>> listed(["none", "model", "api"])
    'none, model or api'
    """
    *others, final = words
    return f"{', '.join(others)} {last} {final}" if others else final


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The one of `words` that was probably meant, if any.

    >>> nearest("learning_rat", ["learning_rate", "steps"])
    'learning_rate'
    """
    if len(word) > _LONGEST_SHOWN:
        return None  # comparing takes the product of both lengths
    from difflib import get_close_matches  # only for a file with faults

    close = get_close_matches(word.lower().replace("-", "_"), list(words), n=1, cutoff=0.6)
    return close[0] if close else None


def printable(text: str) -> str:
    """Text in a form that every terminal takes, whatever bytes a file's name is made of."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
