"""Additions with the working written out: problems that cost nothing, for the quickstart and tests.

Decides which problems there are and which of them are held out. In the working each character
follows from three others, at places that are always the same: that is what lets a model of a
hundred thousand parameters learn it. It also takes far more than 200 examples, which is what the
quickstart is about (docs/log.md compares other ways to write it).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

_HELD_OUT_SHARE = 10
"""One problem in so many is held out."""

Part = Literal["train", "held_out"]


@dataclass(frozen=True)
class Addition:
    """Two numbers to add; `a + b` and `b + a` are one problem in two orders."""

    a: int
    b: int

    @property
    def question(self) -> str:
        """
        >>> Addition(347, 285).question
        '347+285'
        """
        return f"{self.a}+{self.b}"

    @property
    def working(self) -> str:
        """What each column comes to with the carry into it, from the right, in two digits.

        The first digit is the carry out of the column, the second one belongs to the sum.

        >>> Addition(347, 285).working
        '12,13,06'
        """
        columns: list[str] = []
        carry, a, b = 0, self.a, self.b
        while a or b or not columns:
            comes_to = a % 10 + b % 10 + carry
            columns.append(f"{comes_to:02}")
            a, b, carry = a // 10, b // 10, comes_to // 10
        return ",".join(columns)

    @property
    def answer(self) -> str:
        return str(self.a + self.b)

    @property
    def part(self) -> Part:
        """Where this problem belongs, whichever number stands first and whoever asks."""
        low, high = sorted((self.a, self.b))
        return "held_out" if _hash(f"{low}+{high}") % _HELD_OUT_SHARE == 0 else "train"


def additions(*, digits: int, part: Part, seed: int) -> Iterator[Addition]:
    """Every problem of a part once, in an order of its own for each seed.

    Both numbers have exactly `digits` digits (0 to 9 for one digit): 81 x 100^(digits - 1)
    problems in both parts together. The first n are the same however many are taken.
    """
    low = 10 ** (digits - 1) if digits > 1 else 0
    count = 10**digits - low
    for number in _shuffled(count * count, seed):
        addition = Addition(low + number // count, low + number % count)
        if addition.part == part:
            yield addition


def _shuffled(size: int, seed: int) -> Iterator[int]:
    """0 to `size` - 1, each once, in a random order that needs no memory.

    A four-round Feistel network is a permutation of the numbers of 2 x `half` bits, whatever its
    round function; numbers from `size` up are passed over.
    """
    half = (size.bit_length() + 1) // 2
    mask = (1 << half) - 1
    for number in range(1 << (2 * half)):
        left, right = number >> half, number & mask
        for turn in range(4):
            left, right = right, left ^ (_hash(f"{seed} {turn} {right}") & mask)
        shuffled = left << half | right
        if shuffled < size:
            yield shuffled


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
