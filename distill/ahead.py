"""Before the first stage that costs: faults that a later stage would else meet after all was paid.

Reads all data, and whatever somebody will be asked with the student's own tokenizer. No weights are
read.
"""

from collections.abc import Sequence
from typing import Any

from distill.context import Context, WorkerError
from distill.data import load_rows
from distill.models import (
    character_tokenizer,
    load_tokenizer,
    read_context_tokens,
    remote_code_allowed,
)
from distill.text import prompt_ids
from recipes.recipe import ApiTeacher, ModelTeacher, NewStudent, Sampling, Task, Training
from recipes.rundir import Warned


def look_ahead(context: Context, *, is_answered: bool = False) -> None:
    """Look through the data and the problems of all tasks, as the student will meet them.

    A problem that leaves no room in the student's context is counted and said, and harms no other.

    Args:
        is_answered: the teacher's answers are there already, so it is too late to refuse them.

    Raises:
        WorkerError: data cannot be used, or not be read by the student; no problem of a task leaves
            room for an answer; a teacher's answer may come to a sample that is too long.
    """
    recipe = context.recipe
    rows = load_rows(recipe.data, context.run.path)
    teacher = None if is_answered else recipe.teacher
    if not isinstance(teacher, ModelTeacher | ApiTeacher) and not recipe.evaluation:
        return
    tokenizer, longest = _student(context)
    if isinstance(teacher, ModelTeacher | ApiTeacher):
        lengths = [len(prompt_ids(tokenizer, row)) for row in rows]
        _refuse_too_long(recipe.training, teacher.sampling, lengths, longest)
    for task in recipe.evaluation:
        problems = load_rows(task.data, context.run.path)
        lengths = [len(prompt_ids(tokenizer, problem)) for problem in problems]
        _count_without_room(context, task, lengths, longest)


def _student(context: Context) -> tuple[Any, int | None]:
    """The student's tokenizer, and its longest text [tokens] where that is known."""
    student = context.recipe.student
    if isinstance(student, NewStudent):
        return character_tokenizer(student), student.context_tokens
    trusted = remote_code_allowed(student.trust_remote_code, context.limits)
    reference = student.model, student.revision, trusted
    return load_tokenizer(*reference), read_context_tokens(*reference)


def _refuse_too_long(
    training: Training, sampling: Sampling, lengths: Sequence[int], context_tokens: int | None
) -> None:
    """Samples of whole answers, counted in the student's tokens as if they were the teacher's."""
    longest = min(training.max_tokens, context_tokens or training.max_tokens)
    is_set = longest == training.max_tokens
    limit = "training.max_tokens" if is_set else "the student's context"
    longer = "raise training.max_tokens" if is_set else "take a student with a longer context"
    if min(lengths) >= longest:
        raise WorkerError(
            "too_long",
            f"no prompt leaves room for an answer: the shortest has {min(lengths)} tokens, and "
            f"{limit} is {longest}",
            f"Shorten the prompts, or {longer}.",
        )
    row, tokens = max(enumerate(lengths), key=lambda each: each[1])
    most = tokens + sampling.max_new_tokens
    if training.too_long == "drop" or most <= longest:
        return
    room = longest - tokens
    lower = f"Lower teacher.sampling.max_new_tokens to {room}" if room > 0 else "Leave the row out"
    raise WorkerError(
        "too_long",
        f"row {row} of the data may come to {most} tokens, {tokens} of its prompt and "
        f"{sampling.max_new_tokens} (teacher.sampling.max_new_tokens) of its answer, and {limit} "
        f"is {longest}",
        f"{lower}, {longer}, or set training.too_long to drop: then what the teacher makes too "
        "long is left out.",
    )


def _count_without_room(
    context: Context, task: Task, lengths: Sequence[int], longest: int | None
) -> None:
    over = sum(longest is not None and tokens >= longest for tokens in lengths)
    if over == len(lengths):
        raise WorkerError(
            "too_long",
            f"no problem of task {task.task} leaves room for an answer: the shortest has "
            f"{min(lengths)} tokens, and the student's context is {longest}",
            "Take a student with a longer context, or shorter problems.",
        )
    if over:
        context.say(
            Warned,
            code="too_long",
            message=f"{over} of {len(lengths)} problems of task {task.task} leave no room for an "
            f"answer in the student's context of {longest} tokens: they will count as answers "
            "of no tokens, cut off",
        )
