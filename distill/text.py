"""From a row to tokens: what a model is asked, and what it is to learn to answer.

A sample is the tokens of the prompt exactly as the model will meet them when it answers, then the
tokens of the completion, then the end of text. Prompt and completion are tokenised apart, because
that is how they come at inference: the model is given the one and writes the other.
"""

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
        WorkerError: the tokenizer has no end of text, or no token for some character; its chat
            template refuses the prompt.
    """
    if tokenizer.eos_token_id is None:
        raise WorkerError(
            "no_eos",
            "the tokenizer has no end-of-text token, so a student could never learn to stop",
            "Choose a model whose tokenizer has an eos_token.",
        )
    prompt = prompt_ids(tokenizer, row)
    answer = _ids(tokenizer, row, completion, special=False)
    return Sample([*prompt, *answer, tokenizer.eos_token_id], len(prompt))


def prompt_ids(tokenizer: Any, row: Row) -> list[int]:
    """Tokens of what is asked, up to where the model begins to answer.

    Through the chat template where the tokenizer has one; else the prompt as it is, with the
    special tokens that the tokenizer puts before a text.

    Raises:
        WorkerError: the template refuses the messages, or a system message has no template; the
            tokenizer has no token for some character.
    """
    if tokenizer.chat_template is not None:
        return _ids(tokenizer, row, _rendered(tokenizer, row), special=False)
    if row.system is not None:
        raise WorkerError(
            "template",
            "data.system is given, and the tokenizer has no chat template to put it in",
            "Leave data.system out, and say what it says in data.prompt.",
        )
    return _ids(tokenizer, row, row.prompt, special=True)


def messages(row: Row) -> list[dict[str, str]]:
    """A row as a conversation that waits for an answer."""
    system = [] if row.system is None else [{"role": "system", "content": row.system}]
    return [*system, {"role": "user", "content": row.prompt}]


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


def _ids(tokenizer: Any, row: Row, text: str, *, special: bool) -> list[int]:
    """Tokens of a text, every character of it among them."""
    ids = _tokenize(tokenizer, text, special=special)
    unknown = tokenizer.unk_token_id
    if ids is None or (unknown is not None and unknown in ids):
        _refuse_lost_characters(tokenizer, row, text)
    assert ids is not None, "a text whose characters all have tokens has tokens"
    return ids


def _tokenize(tokenizer: Any, text: str, *, special: bool) -> list[int] | None:
    try:
        ids: list[int] = tokenizer(text, add_special_tokens=special)["input_ids"]
    except Exception as error:
        # A bare Exception is what a word-level tokenizer without an unknown token raises.
        if type(error) is not Exception:
            raise
        return None
    return ids


def _refuse_lost_characters(tokenizer: Any, row: Row, text: str) -> None:
    lost = []
    for character in sorted(set(text)):
        ids = _tokenize(tokenizer, character, special=False)
        if ids is None or tokenizer.unk_token_id in ids:
            lost.append(repr(character))
    if lost:
        shown = ", ".join(lost[:10]) + (f" and {len(lost) - 10} more" if len(lost) > 10 else "")
        raise WorkerError(
            "vocabulary",
            f"the model's tokenizer has no token for {shown}, which row {row.index} contains",
            "Take these characters out of the data, or choose another model "
            "(for a new student: add them to student.characters).",
        )
