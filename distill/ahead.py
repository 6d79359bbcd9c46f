"""Before the first stage that costs: faults that a later stage would else meet after all was paid.

Reads all data, and those of the tasks with the student's own tokenizer. No weights are read.
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
from recipes.recipe import NewStudent, Task
from recipes.rundir import Warned


def look_ahead(context: Context) -> None:
    """Look through the data, and through the problems of all tasks as the student will be asked.

    A problem that leaves no room in the student's context is counted and said, and harms no other.

    Raises:
        WorkerError: data cannot be used, the student cannot read a task's problem, or none of them
            leaves room for an answer.
    """
    load_rows(context.recipe.data, context.run.path)
    if not context.recipe.evaluation:
        return
    tokenizer, longest = _student(context)
    for task in context.recipe.evaluation:
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
