"""The last stage: the finished student answers each task's problems, and the answers are scored.

Answers are on the disk batch by batch and none is asked for twice, also after a kill; the problems
come in an order by chance that is always the same, so that what is answered when time runs out is a
fair sample of all. Answers of another student (one that was trained further since) do not count.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from distill.context import Context, StageStopped
from distill.data import Row, load_rows
from distill.generate import stop_if_due
from distill.generation import Answer, answer_batch
from distill.pace import Pace
from distill.scoring import extract, is_match, standard_error
from distill.text import prompt_ids
from recipes.fingerprints import fingerprint
from recipes.recipe import Part, Task
from recipes.rundir import (
    Score,
    Scored,
    Scores,
    open_for_appending,
    read_lines,
    read_model,
    write_model,
)


class Graded(Part):
    """One answer of the student: a line of `answers/TASK.jsonl`."""

    student: str
    """Whose answer: a hash of the student's files."""
    row: int
    """Number of the problem in the task's data."""
    prompt: str
    text: str
    """What the student wrote."""
    answer: str | None
    """What counts of it; `None` where the answer pattern found nothing."""
    reference: str
    correct: bool
    tokens: int
    finish: Literal["stop", "length"]


@dataclass
class Exam:
    """A task, its problems in the order they are asked, and the answers so far."""

    task: Task
    path: Path
    problems: list[Row]
    answers: dict[int, Graded]

    @property
    def open(self) -> list[Row]:
        """Problems not answered yet."""
        return [problem for problem in self.problems if problem.index not in self.answers]


def evaluate(context: Context) -> None:
    """Answer what is not answered yet, then write `scores.json` and say the scores.

    Does nothing where the scores are already whole.

    Raises:
        StageStopped: a limit was reached: what was answered until then is scored, with n below
            `of`; or a person asked: then nothing is scored yet.
        WorkerError: a task's data cannot be used.
    """
    student = fingerprint(context.run.student)
    context.run.answers.mkdir(mode=0o700, exist_ok=True)
    exams = [_open_exam(context, task, student) for task in context.recipe.evaluation]
    if _is_scored(context, exams):
        return
    try:
        if any(exam.open for exam in exams):
            _sit(context, exams, student)
    except StageStopped as stopped:
        if stopped.reason != "interrupt":
            _score(context, exams)
        raise
    _score(context, exams)


def _open_exam(context: Context, task: Task, student: str) -> Exam:
    """A task's problems, and those of its answers that are this student's."""
    path = context.run.answers / f"{task.task}.jsonl"
    answers = list(_read_answers(path))
    own = {answer.row: answer for answer in answers if answer.student == student}
    if len(own) < len(answers):
        path.unlink()  # another student's, from before it was trained further
        own = {}
    problems = sorted(load_rows(task.data, context.run.path), key=_by_chance)
    return Exam(task, path, problems, own)


def _by_chance(problem: Row) -> str:
    asked = f"{problem.index} {problem.prompt}"
    return hashlib.sha256(asked.encode()).hexdigest()


def _read_answers(path: Path) -> Iterator[Graded]:
    for line, _ in read_lines(path):
        try:
            yield Graded.model_validate_json(line)
        except ValidationError:
            continue


def _is_scored(context: Context, exams: list[Exam]) -> bool:
    if not context.run.scores.exists() or any(exam.open for exam in exams):
        return False
    return read_model(context.run.scores, Scores) == Scores(scores=_scores(exams))


def _sit(context: Context, exams: list[Exam], student: str) -> None:
    """Have the student answer everything that is open."""
    from distill.student import load_student

    done = sum(len(exam.answers) for exam in exams)
    total = sum(len(exam.problems) for exam in exams)
    pace = Pace(context, "evaluate", done=done, total=total)
    model, tokenizer = load_student(context)
    pace.start()
    for exam in exams:
        problems, size = exam.open, exam.task.batch_size
        for start in range(0, len(problems), size):
            batch = problems[start : start + size]
            answers = _answer(context, exam.task, model, tokenizer, batch, pace)
            graded = [
                _grade(exam.task, student, problem, answer)
                for problem, answer in zip(batch, answers, strict=True)
            ]
            _append(exam.path, graded)
            exam.answers.update((answer.row, answer) for answer in graded)
            pace.answered(len(graded), sum(answer.tokens for answer in graded))


def _answer(
    context: Context, task: Task, model: Any, tokenizer: Any, problems: list[Row], pace: Pace
) -> list[Answer]:
    def look_up(tokens: int) -> None:
        pace.writing(tokens * len(problems))
        stop_if_due(context)

    stop_if_due(context)
    prompts = [prompt_ids(tokenizer, problem) for problem in problems]
    return answer_batch(
        model, tokenizer, prompts, max_new_tokens=task.max_new_tokens, on_token=look_up
    )


def _grade(task: Task, student: str, problem: Row, answer: Answer) -> Graded:
    assert problem.completion is not None, "a task without a reference is not a valid recipe"
    found = extract(answer.text, task.answer_pattern)
    return Graded(
        student=student,
        row=problem.index,
        prompt=problem.prompt,
        text=answer.text,
        answer=found,
        reference=problem.completion.strip(),
        correct=is_match(found, problem.completion),
        tokens=answer.tokens,
        finish=answer.finish,
    )


def _append(path: Path, answers: list[Graded]) -> None:
    with open_for_appending(path) as file:
        file.write(b"".join(answer.model_dump_json().encode() + b"\n" for answer in answers))
        file.flush()
        os.fsync(file.fileno())


def _score(context: Context, exams: list[Exam]) -> None:
    scores = _scores(exams)
    write_model(context.run.scores, Scores(scores=scores))
    for task, score in scores.items():
        context.say(Scored, task=task, **score.model_dump())


def _scores(exams: list[Exam]) -> dict[str, Score]:
    """A task without any answer has no score: unknown is not zero."""
    scores = {}
    for exam in exams:
        n, hits = len(exam.answers), sum(answer.correct for answer in exam.answers.values())
        if n:
            scores[exam.task.task] = Score(
                value=hits / n,
                stderr=standard_error(hits, n),
                n=n,
                of=len(exam.problems),
                truncated=sum(answer.finish == "length" for answer in exam.answers.values()),
            )
    return scores
