"""From a row to tokens: what a model is asked, and what it is to learn to answer.

A sample is the tokens of the prompt exactly as the model will meet them when it answers, then the
tokens of the completion, then the end of text. Prompt and completion are tokenised apart, because
that is how they come at inference: the model is given the one and writes the other.
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from distill.context import WorkerError
from distill.data import Row


@dataclass(frozen=True)
class Sample:
    """Something to learn. `input_ids[:prompt_tokens]` is the prompt and carries no loss."""

    input_ids: list[int]
    prompt_tokens: int


def make_sample(tokenizer: Any, row: Row, completion: str) -> Sample:
    """The prompt of `row`, `completion`, and the end of text.

    Raises:
        WorkerError: the tokenizer has no end of text, or its chat template refuses the prompt.
    """
    if tokenizer.eos_token_id is None:
        raise WorkerError(
            "no_eos",
            "the tokenizer has no end-of-text token, so a student could never learn to stop",
            "Choose a model whose tokenizer has an eos_token.",
        )
    prompt = prompt_ids(tokenizer, row)
    answer = _ids(tokenizer, completion, special=False)
    return Sample([*prompt, *answer, tokenizer.eos_token_id], len(prompt))


def prompt_ids(tokenizer: Any, row: Row) -> list[int]:
    """Tokens of what is asked, up to where the model begins to answer.

    Through the chat template where the tokenizer has one; else the prompt as it is, with the
    special tokens that the tokenizer puts before a text.

    Raises:
        WorkerError: the template refuses the messages, or a system message has no template.
    """
    if tokenizer.chat_template is not None:
        return _ids(tokenizer, _rendered(tokenizer, row), special=False)
    if row.system is not None:
        raise WorkerError(
            "template",
            "data.system is given, and the tokenizer has no chat template to put it in",
            "Leave data.system out, and say what it says in data.prompt.",
        )
    return _ids(tokenizer, row.prompt, special=True)


def messages(row: Row) -> list[dict[str, str]]:
    """A row as a conversation that waits for an answer."""
    system = [] if row.system is None else [{"role": "system", "content": row.system}]
    return [*system, {"role": "user", "content": row.prompt}]


def check_characters(tokenizer: Any, texts: Iterable[str], whose: str) -> None:
    """Make sure that every character of `texts` reaches the model.

    Raises:
        WorkerError: the tokenizer of `whose` model loses some; names them.
    """
    seen = sorted({character for text in texts for character in text})
    lost = [character for character in seen if not _representable(tokenizer, character)]
    if lost:
        shown = ", ".join(repr(character) for character in lost[:10])
        more = f" and {len(lost) - 10} more" if len(lost) > 10 else ""
        raise WorkerError(
            "vocabulary",
            f"the {whose}'s tokenizer cannot represent {shown}{more}, which the data contain",
            f"Choose another {whose} (for a new student: add them to student.characters), "
            "or take these characters out of the data.",
        )


def _rendered(tokenizer: Any, row: Row) -> str:
    from jinja2.exceptions import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            messages(row), tokenize=False, add_generation_prompt=True
        )
    except TemplateError as error:
        raise WorkerError(
            "template",
            f"the tokenizer's chat template refuses row {row.index}: {error}",
            "If it knows no system message, leave data.system out.",
        ) from error
    return str(text)


def _ids(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=special)["input_ids"]
    return ids


def _representable(tokenizer: Any, character: str) -> bool:
    try:
        ids = _ids(tokenizer, character, special=False)
    except Exception:  # noqa: BLE001  # what a word-level tokenizer raises without an unknown token
        return False
    if not ids:
        # Normalisers drop blanks and control characters on purpose, and merge combining marks.
        return unicodedata.category(character)[0] in "ZCM"
    return tokenizer.unk_token_id is None or tokenizer.unk_token_id not in ids
