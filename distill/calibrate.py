"""A trial of a recipe on this machine: some seconds of each stage, on the real shapes.

    python -m distill calibrate RECIPE_JSON      prints a `recipes.calibration.Calibration`

Works beside the recipe's file in a folder of its own, which it removes. Pays nobody: a teacher
behind an API is not asked.

Where the trial cannot know, it takes the upper end. A student that has learnt nothing never stops
by itself, so its answers are as long as the task allows. Answers that take longer than a trial may
count as `max_new_tokens` long.
"""

import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import torch

from distill import checkpoint
from distill.ahead import look_ahead
from distill.batching import Batches, planned_samples, planned_steps
from distill.context import Context, Stop, WorkerError
from distill.data import Row, load_rows
from distill.failures import as_worker_error
from distill.generation import Answer, answer_batch
from distill.learner import DTYPES, Learner
from distill.models import (
    context_tokens,
    device_name,
    load_model,
    load_tokenizer,
    pick_device,
    remote_code_allowed,
    start_transformers,
)
from distill.pulse import Mute
from distill.samples import training_samples
from distill.student import load_student, open_student, save_student
from distill.team import ALONE
from distill.text import Sample, make_sample, messages, prompt_ids
from distill.train import learning_rate
from distill.trained import Trained
from recipes.calibration import Calibration, StageSpeed
from recipes.errors import StillhouseError
from recipes.privacy import redacted
from recipes.recipe import ApiTeacher, ModelTeacher, Recipe, Sampling, Training
from recipes.rundir import Limits, RunDir, Stage, read_model

WARM_UP_STEPS = 2
MIN_STEPS, MAX_STEPS, STEPS_S = 5, 50, 2.0
"""At least, at most, and until so many seconds have passed."""

ANSWERS_S = 10.0
"""Longest time to watch one batch being answered [s]."""

TRIED_SAMPLES = 1024
"""Samples that steps are drawn from, unless a step itself has more."""

TRIED_BATCHES = 3
"""Batches answered, unless that takes too long."""

API_TOKENS_PER_S = 50.0
"""What one stream of an endpoint is taken to write [tokens/s]; nothing is asked of it here."""


Result = TypeVar("Result")


def main(recipe_json: Path, started_at: float, allow_remote_code: bool = False) -> int:
    """Print the calibration; the exit code.

    Args:
        started_at: when the process began [unix s].
    """
    try:
        recipe = read_model(recipe_json, Recipe)
        with tempfile.TemporaryDirectory(prefix=".trial-", dir=recipe_json.parent) as folder:
            context = _context(recipe, Path(folder), allow_remote_code)
            boot_s = time.time() - started_at
            try:
                calibration = calibrate(context, boot_s)
            except Exception as error:
                print(redacted(traceback.format_exc()), file=sys.stderr)  # noqa: T201
                raise as_worker_error(error, None, recipe) from error
    except StillhouseError as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    print(calibration.model_dump_json(indent=2))  # noqa: T201
    return 0


def _context(recipe: Recipe, folder: Path, allow_remote_code: bool) -> Context:
    limits = Limits(
        attempt=1,
        started_at=0,
        usd_per_hour=Decimal(0),
        machine_usd=Decimal(0),
        allow_remote_code=allow_remote_code,
    )
    start_transformers()
    if recipe.training.threads:
        torch.set_num_threads(recipe.training.threads)
    return Context(RunDir(folder), recipe, limits, Mute(1), Stop(limits), pick_device())


def calibrate(context: Context, boot_s: float) -> Calibration:
    """Measure every stage that the recipe has.

    Args:
        context: with a folder that may be filled, and no limit.
        boot_s: from the start of the process until now [s].

    Raises:
        WorkerError: the recipe cannot be worked on, for the reasons that a run would give.
    """
    recipe, stages = context.recipe, dict[Stage, StageSpeed]()
    look_ahead(context)
    rows, load_s = _timed(lambda: load_rows(recipe.data, context.run.path))
    answers: list[tuple[Row, Answer]] = []
    if isinstance(recipe.teacher, ModelTeacher):
        stages["generate"], answers = _try_teacher(context, recipe.teacher, rows, load_s)
    elif isinstance(recipe.teacher, ApiTeacher):
        stages["generate"] = _assumed_endpoint(recipe.teacher, len(rows))
    stages["train"], checkpoint_s = _try_training(context, rows, answers)
    if recipe.evaluation:
        stages["evaluate"] = _try_evaluation(context)
    sizes = [_prompt_bytes(row) for row in rows] if "generate" in stages else []
    return Calibration(
        device=device_name(context.device),
        boot_s=boot_s,
        checkpoint_s=checkpoint_s,
        prompt_bytes=sum(sizes) if sizes else None,
        longest_prompt_bytes=max(sizes) if sizes else None,
        stages=stages,
    )


# ---- generate --------------------------------------------------------------------------------


def _try_teacher(
    context: Context, teacher: ModelTeacher, rows: list[Row], load_s: float
) -> tuple[StageSpeed, list[tuple[Row, Answer]]]:
    trusted = remote_code_allowed(teacher.trust_remote_code, context.limits)
    (tokenizer, model), model_s = _timed(
        lambda: (
            load_tokenizer(teacher.model, teacher.revision, trusted),
            load_model(teacher.model, teacher.revision, teacher.dtype, context.device, trusted),
        )
    )
    sampling = teacher.sampling
    tried, answers = _try_answers(model, tokenizer, rows, sampling)
    speed = StageSpeed(
        units=len(rows) * sampling.samples_per_prompt,
        unit="answers",
        fixed_s=load_s + model_s,
        seconds_per_unit=tried,
    )
    return speed, answers


def _assumed_endpoint(teacher: ApiTeacher, rows: int) -> StageSpeed:
    """An assumption and no measurement: a tenth, half and all of `max_new_tokens` an answer."""
    sampling = teacher.sampling
    longest_s = sampling.max_new_tokens / API_TOKENS_PER_S / teacher.concurrency
    return StageSpeed(
        units=rows * sampling.samples_per_prompt,
        unit="answers",
        fixed_s=0,
        seconds_per_unit=(longest_s / 10, longest_s / 2, longest_s),
    )


def _prompt_bytes(row: Row) -> int:
    return sum(len(message["content"].encode()) for message in messages(row))


# ---- train -----------------------------------------------------------------------------------


def _try_training(
    context: Context, rows: list[Row], answers: list[tuple[Row, Answer]]
) -> tuple[StageSpeed, float]:
    """The stage's speed, and the seconds of one checkpoint [s]. Leaves a student in the folder."""
    training, total = context.recipe.training, planned_samples(context.recipe, len(rows))
    torch.manual_seed(training.seed)
    (model, tokenizer), open_s = _timed(lambda: open_student(context))
    wanted = min(total, max(training.batch_size, TRIED_SAMPLES))
    samples, samples_s = _timed(lambda: _samples(context, rows, answers, tokenizer, model, wanted))
    repeated = [samples[number % len(samples)] for number in range(wanted)]
    learner = Learner(model, training, context.device, ALONE)
    tried = _try_steps(learner, training, repeated)
    _, checkpoint_s = _timed(
        lambda: checkpoint.save(context.run.checkpoints, learner.steps, learner.state())
    )
    trained = Trained(steps=learner.steps, of_steps=learner.steps)
    dtype = DTYPES[training.dtype]
    _, save_s = _timed(
        lambda: save_student(
            context.run.student, model, tokenizer, learner.weights(), dtype, trained
        )
    )
    speed = StageSpeed(
        units=planned_steps(context.recipe, len(rows)),
        unit="steps",
        fixed_s=open_s + samples_s * total / len(samples) + save_s,
        seconds_per_unit=tried,
    )
    return speed, checkpoint_s


def _samples(
    context: Context,
    rows: list[Row],
    answers: list[tuple[Row, Answer]],
    tokenizer: Any,
    model: Any,
    wanted: int,
) -> list[Sample]:
    """What there is to train on: the data's completions, the teacher's answers, or stand-ins."""
    training, teacher = context.recipe.training, context.recipe.teacher
    longest, nobody = context_tokens(model), lambda *_: None
    if not isinstance(teacher, ModelTeacher | ApiTeacher):
        pairs = [(row, row.completion) for row in _spread(rows, wanted) if row.completion]
        return training_samples(pairs, tokenizer, training, longest, nobody)
    whole = [(row, answer) for row, answer in answers if answer.finish == "stop"]
    pairs = [(row, answer.text) for row, answer in whole if answer.text.strip()]
    try:
        return training_samples(pairs, tokenizer, training, longest, nobody, are_answers=True)
    except WorkerError as error:
        if error.code != "no_samples":  # of these few; a run has more
            raise
    limit, most = min(training.max_tokens, longest or sys.maxsize), teacher.sampling.max_new_tokens
    some = _stand_ins(_spread(rows, wanted), tokenizer, most, limit)
    return some or _stand_ins(rows, tokenizer, most, limit)


def _stand_ins(
    rows: Sequence[Row], tokenizer: Any, max_new_tokens: int, limit: int
) -> list[Sample]:
    """Samples with completions of the longest length, of all rows that leave room for one.

    What they say does not change their speed. That some row leaves room is known (`look_ahead`).
    """
    samples = []
    for row in rows:
        sample = make_sample(tokenizer, row, "")
        room = limit - sample.prompt_tokens
        if room > 0:
            completion = sample.input_ids[-1:] * min(max_new_tokens, room)
            prompt = sample.input_ids[: sample.prompt_tokens]
            samples.append(Sample([*prompt, *completion], sample.prompt_tokens))
    return samples


def _try_steps(
    learner: Learner, training: Training, samples: Sequence[Sample]
) -> tuple[float, ...]:
    """Seconds of several steps, after a few to warm up."""
    lengths = [len(sample.input_ids) for sample in samples]
    batches = Batches(lengths, training.batch_size, training.seed)
    seconds: list[float] = []
    while len(seconds) < WARM_UP_STEPS + MIN_STEPS or (
        sum(seconds[WARM_UP_STEPS:]) < STEPS_S and len(seconds) < WARM_UP_STEPS + MAX_STEPS
    ):
        batch = [samples[number] for number in batches.at(learner.steps)]
        rate = learning_rate(training, learner.steps, 1000)
        seconds.append(_timed(lambda: learner.step(batch, rate))[1])  # noqa: B023 - called at once
    return tuple(seconds[WARM_UP_STEPS:])


# ---- evaluate --------------------------------------------------------------------------------


def _try_evaluation(context: Context) -> StageSpeed:
    """All tasks as one: each trial of theirs weighs as much as it has problems."""
    (model, tokenizer), load_s = _timed(lambda: load_student(context))
    total, seconds = 0, [0.0] * TRIED_BATCHES
    for task in context.recipe.evaluation:
        problems, data_s = _timed(lambda: load_rows(task.data, context.run.path))  # noqa: B023
        load_s += data_s
        total += len(problems)
        sampling = Sampling(max_new_tokens=task.max_new_tokens, batch_size=task.batch_size)
        tried, _ = _try_answers(model, tokenizer, problems, sampling)
        for number in range(TRIED_BATCHES):
            seconds[number] += len(problems) * tried[number % len(tried)]
    return StageSpeed(
        units=total,
        unit="answers",
        fixed_s=load_s,
        seconds_per_unit=tuple(spent / total for spent in seconds),
    )


# ---- answers ---------------------------------------------------------------------------------


class _LongEnough(Exception):
    """A batch was watched for as long as a trial may."""


def _try_answers(
    model: Any, tokenizer: Any, rows: Sequence[Row], sampling: Sampling
) -> tuple[tuple[float, ...], list[tuple[Row, Answer]]]:
    """Seconds an answer [s], for each batch tried, and the answers of those that were finished."""
    tried: list[float] = []
    answered: list[tuple[Row, Answer]] = []
    some = _spread(rows, TRIED_BATCHES * sampling.batch_size)
    _answers(model, tokenizer, some[:2], sampling, max_new_tokens=2)  # kernels are chosen, once
    for start in range(0, len(some), sampling.batch_size):
        batch = some[start : start + sampling.batch_size]
        answers, seconds = _answers(
            model, tokenizer, batch, sampling, max_new_tokens=sampling.max_new_tokens
        )
        tried.append(seconds / len(batch))
        answered += zip(batch, answers, strict=False)
        if sum(tried) * sampling.batch_size > ANSWERS_S:
            break
    return tuple(tried), answered


def _answers(
    model: Any, tokenizer: Any, rows: Sequence[Row], sampling: Sampling, max_new_tokens: int
) -> tuple[list[Answer], float]:
    """Answers of a batch, none where it took too long; and its seconds [s], at most all tokens'."""
    began = time.perf_counter()
    written = 0

    def look_up(tokens: int) -> None:
        nonlocal written
        written = tokens
        if time.perf_counter() - began > ANSWERS_S:
            raise _LongEnough

    try:
        answers = answer_batch(
            model,
            tokenizer,
            [prompt_ids(tokenizer, row) for row in rows],
            max_new_tokens=max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seeds=[row.index for row in rows],
            on_token=look_up,
        )
    except _LongEnough:
        return [], (time.perf_counter() - began) * max_new_tokens / written
    return answers, time.perf_counter() - began


# ---- helpers ---------------------------------------------------------------------------------


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """What `work` returns, and how long it took [s]."""
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


def _spread(rows: Sequence[Row], wanted: int) -> list[Row]:
    """So many rows, evenly from the whole: data are often sorted."""
    count = min(wanted, len(rows))
    return [rows[number * len(rows) // count] for number in range(count)]
