"""From what the teacher wrote to what the student is trained on, with every fault found first."""

from collections.abc import Callable
from typing import Any

from distill.context import WorkerError
from distill.data import Row
from distill.loss import tokens_with_loss
from distill.text import Sample, make_sample
from recipes.recipe import Training


def training_samples(
    pairs: list[tuple[Row, str]],
    tokenizer: Any,
    training: Training,
    context_tokens: int | None,
    warn: Callable[[str, str], None],
    *,
    are_answers: bool = False,
) -> list[Sample]:
    """Rows and completions as samples, in their order.

    Args:
        context_tokens: the student's longest text [tokens]; `None` where it is not known.
        warn: told a code and a sentence where samples are dropped.
        are_answers: a teacher was asked for the completions. These are paid, so that one which
            cannot be learnt is dropped, and ends no run.

    Raises:
        WorkerError: there are none; one is too long; one has no completion; no end of text.
    """
    longest = min(training.max_tokens, context_tokens or training.max_tokens)
    samples: list[Sample] = []
    dropped = unreadable = 0
    for row, completion in pairs:
        try:
            sample = make_sample(tokenizer, row, completion)
        except WorkerError as error:
            if not are_answers or error.code != "vocabulary":
                raise
            unreadable += 1
            continue
        if not completion or tokens_with_loss(sample) < 1:
            raise WorkerError(
                "empty_completion",
                f"row {row.index} of the data has an empty completion: there is nothing to learn",
                "Fill it in, or leave the row out.",
            )
        if len(sample.input_ids) <= longest:
            samples.append(sample)
        elif are_answers or training.too_long == "drop":
            dropped += 1
        else:
            raise _too_long(row, len(sample.input_ids), training.max_tokens, context_tokens)
    if dropped:
        warn(
            "too_long",
            f"{dropped} of {len(pairs)} samples are longer than {longest} tokens and left out",
        )
    if unreadable:
        warn(
            "vocabulary",
            f"{unreadable} of {len(pairs)} answers have characters that the student's tokenizer "
            "has no token for, and are left out",
        )
    if not samples:
        raise _no_samples(len(pairs), dropped, longest)
    return samples


def _too_long(row: Row, tokens: int, max_tokens: int, context_tokens: int | None) -> WorkerError:
    if context_tokens is not None and tokens > context_tokens:
        return WorkerError(
            "too_long",
            f"row {row.index} of the data has {tokens} tokens with its completion, "
            f"and the student's context is {context_tokens}",
            "Take a student with a longer context, or set training.too_long to drop.",
        )
    return WorkerError(
        "too_long",
        f"row {row.index} of the data has {tokens} tokens with its completion, "
        f"and training.max_tokens is {max_tokens}",
        f"Raise training.max_tokens to {tokens} or more, or set training.too_long to drop.",
    )


def _no_samples(pairs: int, too_long: int, longest: int) -> WorkerError:
    if pairs > too_long:
        return WorkerError(
            "no_samples",
            f"nothing is left to train on: {too_long} of {pairs} samples are longer than {longest} "
            "tokens, and the others have characters that the student's tokenizer has no token for",
            "Take another student (for a new one: add to student.characters).",
        )
    if pairs:
        return WorkerError(
            "no_samples",
            f"all {pairs} samples are longer than {longest} tokens, so nothing is left to train on",
            "Raise training.max_tokens, or take a student with a longer context.",
        )
    return WorkerError(
        "no_samples",
        "there is nothing to train on: no prompt, or no answer that was not cut off",
        "Look at the data and at teacher.sampling.max_new_tokens.",
    )
