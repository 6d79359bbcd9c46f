"""Exact match: is what the student wrote the reference, and how sure is the share of hits."""

import math
import re


def extract(text: str, answer_pattern: str | None) -> str | None:
    """The answer in what a model wrote, without blanks at its ends.

    Args:
        answer_pattern: a regular expression with one group; its last match counts, since a model
            that thinks aloud ends with its answer. `None` takes the whole text.

    Returns:
        `None` where the pattern is nowhere in the text.

    >>> extract("so 5, no: 7 ", r"([0-9]+)")
    '7'
    """
    if answer_pattern is None:
        return text.strip()
    matches = list(re.finditer(answer_pattern, text))
    return matches[-1][1].strip() if matches and matches[-1][1] is not None else None


def is_match(answer: str | None, reference: str) -> bool:
    """Whether an answer equals the reference, blanks at the ends aside."""
    return answer is not None and answer.strip() == reference.strip()


def standard_error(hits: int, n: int) -> float:
    """Standard error of the share `hits / n`.

    The binomial sqrt(p (1 - p) / n). Where all or none are hits it would claim certainty: there it
    is that of Agresti and Coull (1998), which adds two hits and two misses.

    Args:
        n: answers, at least 1.

    >>> round(standard_error(50, 100), 3), round(standard_error(500, 500), 4)
    (0.05, 0.0028)
    """
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"{hits} hits of {n} answers")
    if hits in (0, n):
        hits, n = hits + 2, n + 4
    share = hits / n
    return math.sqrt(share * (1 - share) / n)
