"""A recipe, and what is known of its data and models -> the work it comes to. Pure.

Tokens, samples, steps, answers and bytes: what has to be done, whatever it is done on. How long
that takes is `launcher.plans.run_hours`, what it costs `launcher.plans.planner`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil

from launcher.estimate.memory import VALUE_BYTES, NumberFormat
from launcher.estimate.models import ModelFacts
from launcher.estimate.overheads import weight_bytes
from launcher.estimate.quantiles import Quantiles
from launcher.estimate.work import TrainingWork
from recipes.errors import RefusedError
from recipes.recipe import ApiTeacher, ModelTeacher, Recipe, Sampling, Training

ANSWER_SHARE = Quantiles(0.1, 0.5, 1.0)
"""How long an answer is, as a share of the longest allowed. Nobody knows before it is written."""

API_TOKENS_PER_S = 50.0
"""What one stream of an endpoint is taken to write [tokens/s]; nothing is asked of it here."""


@dataclass(frozen=True)
class Rows:
    """Rows of data, as far as a price needs them."""

    count: int
    tokens: Quantiles
    """Mean of a row: its prompt, and its completion where it has one [tokens]."""
    prompt_tokens: Quantiles
    """Mean of a prompt alone [tokens]; as `tokens` where the two are not known apart."""
    prompt_bytes: int
    """Of all prompts together [bytes]."""
    longest_prompt_bytes: int | None
    """The longest prompt [bytes]; `None` is unknown."""
    longest_tokens: int | None
    """The longest row [tokens]; `None` is unknown."""
    source: str
    """Who says so, for people."""


@dataclass(frozen=True)
class Facts:
    """What has to be known to price a recipe on a machine that nobody has tried it on."""

    rows: Rows
    tasks: tuple[Rows, ...]
    """Of each evaluation, in the recipe's order."""
    student: ModelFacts
    teacher: ModelFacts | None = None
    """`None` where no weights of a teacher are run."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Hash of each data file and model folder, by its field in the recipe."""


@dataclass(frozen=True)
class Answers:
    """What a model has to write. One GPU does it, while the others wait."""

    what: str
    """For people: `the teacher`, or the name of a task."""
    field: str
    """Where the recipe says how: `teacher.sampling`, `evaluation.0`."""
    model: ModelFacts
    count: int
    prompt_tokens: float
    """Mean [tokens]."""
    most_tokens: int
    """The longest answer allowed [tokens]."""
    at_once: int
    computes_in: NumberFormat


@dataclass(frozen=True)
class Work:
    """All that a run has to do."""

    recipe: Recipe
    student: ModelFacts
    training: TrainingWork
    """With the likely number of tokens."""
    token_spread: Quantiles
    """The number of tokens as a share of the likely one."""
    steps: int
    samples_a_step: int
    longest_tokens: int
    """The longest sample there may be [tokens]."""
    generation: Answers | None
    """What a teacher of our own writes; `None` where nothing is to be written here."""
    exams: tuple[Answers, ...]
    asked: int
    """Answers that an endpoint is asked for; 0 where none is."""
    prompt_bytes: int | None
    """Of all prompts that a teacher is asked, each once [bytes]; `None` without a teacher."""
    longest_prompt_bytes: int | None
    """Of the longest of them [bytes]; `None` without a teacher, or where it is unknown."""
    download_bytes: float
    """Weights that each node fetches [bytes]."""
    inputs: Mapping[str, str]
    """Hash of each data file and model folder, by its field in the recipe."""
    notes: tuple[str, ...]

    @property
    def student_bytes(self) -> float:
        """Of the finished student's file: in the format it was trained in [bytes]."""
        return weight_bytes(self.student.params, VALUE_BYTES[self.recipe.training.dtype])

    @property
    def home_hours(self) -> Quantiles:
        """How long the endpoint's answers take, asked from here and not from a machine [h]."""
        teacher = self.recipe.teacher
        if not isinstance(teacher, ApiTeacher):
            return Quantiles.exactly(0.0)
        streams = min(teacher.concurrency, self.asked)
        longest_s = teacher.sampling.max_new_tokens / API_TOKENS_PER_S * self.asked / streams
        return ANSWER_SHARE.times(longest_s / 3600)


def work_of(recipe: Recipe, facts: Facts) -> Work:
    """What a recipe comes to.

    Args:
        recipe: what to do.
        facts: of its data and models; as many tasks as the recipe has.

    Raises:
        RefusedError: the worker would refuse it: answers may come to samples that are too long.
    """
    training, student, rows = recipe.training, facts.student, facts.rows
    sampling = _sampling(recipe)
    samples = rows.count * (sampling.samples_per_prompt if sampling else 1)
    steps = _steps(recipe, samples)
    fits = min(training.max_tokens, student.context_tokens or training.max_tokens)
    if sampling and training.too_long == "error":
        _refuse_too_long(rows, sampling, fits)
    lengths = _sample_tokens(rows, sampling, fits)
    passes = steps / ceil(samples / training.batch_size)
    return Work(
        recipe=recipe,
        student=student,
        training=training_work(
            training,
            student,
            train_tokens=passes * samples * lengths.p50,
            sample_tokens=lengths.p50,
            samples_per_step=min(training.batch_size, samples),
        ),
        token_spread=lengths.times(1 / lengths.p50),
        steps=steps,
        samples_a_step=min(training.batch_size, samples),
        longest_tokens=_longest(rows, sampling, fits),
        generation=_generation(recipe, facts),
        exams=tuple(_exams(recipe, facts)),
        asked=samples if isinstance(recipe.teacher, ApiTeacher) else 0,
        prompt_bytes=rows.prompt_bytes if sampling else None,
        longest_prompt_bytes=rows.longest_prompt_bytes if sampling else None,
        download_bytes=_download_bytes(recipe, facts),
        inputs=facts.inputs,
        notes=tuple(_notes(rows, sampling, lengths, steps, passes)),
    )


def training_work(
    training: Training,
    student: ModelFacts,
    *,
    train_tokens: float,
    sample_tokens: float,
    samples_per_step: float,
) -> TrainingWork:
    """What our worker does to train a student.

    Work on models of one shape, with and without recomputation, shares what was measured of it.
    """
    again = ", recomputed" if training.gradient_checkpointing else ""
    return TrainingWork.of_model(
        student,
        train_tokens=train_tokens,
        sample_tokens=sample_tokens,
        samples_per_step=samples_per_step,
        recompute=training.gradient_checkpointing,
        fusion="attention_and_loss",  # no mask, so fused kernels; the loss comes in pieces
        setup=f"{student.params} parameters in {student.layers} layers{again}",
    )


def _sampling(recipe: Recipe) -> Sampling | None:
    """How the teacher writes; `None` where the completions are there already."""
    teacher = recipe.teacher
    return teacher.sampling if isinstance(teacher, ModelTeacher | ApiTeacher) else None


def _refuse_too_long(rows: Rows, sampling: Sampling, fits: int) -> None:
    """As the worker does, which counts (`distill.ahead`), where the mean prompt tells already."""
    prompt = ceil(rows.prompt_tokens.p10)
    if prompt + sampling.max_new_tokens > fits:
        raise RefusedError(
            f"answers of up to {sampling.max_new_tokens} tokens (teacher.sampling.max_new_tokens) "
            f"to prompts of about {prompt} may come to more than {fits}, the longest sample that "
            "training.max_tokens and the student's context allow, and training.too_long is error. "
            "Lower the one, raise the other, or set training.too_long to drop: then what is longer "
            "is left out."
        )


def _steps(recipe: Recipe, samples: int) -> int:
    """Steps of the optimiser, counted as the worker counts them."""
    training = recipe.training
    if training.steps is not None:
        return training.steps
    return max(1, round((training.epochs or 1) * ceil(samples / training.batch_size)))


def _sample_tokens(rows: Rows, sampling: Sampling | None, fits: int) -> Quantiles:
    """Mean length of what is trained on [tokens]; nothing is longer than what fits."""
    lengths = rows.tokens
    if sampling:
        lengths = rows.prompt_tokens.plus(ANSWER_SHARE.times(sampling.max_new_tokens))
    return Quantiles(*(min(each, float(fits)) for each in (lengths.p10, lengths.p50, lengths.p90)))


def _longest(rows: Rows, sampling: Sampling | None, fits: int) -> int:
    if rows.longest_tokens is None:
        return fits
    return min(fits, rows.longest_tokens + (sampling.max_new_tokens if sampling else 0))


def _generation(recipe: Recipe, facts: Facts) -> Answers | None:
    if not isinstance(recipe.teacher, ModelTeacher):
        return None
    assert facts.teacher is not None, "a teacher that we run has facts"
    sampling = recipe.teacher.sampling
    return Answers(
        what="the teacher",
        field="teacher.sampling",
        model=facts.teacher,
        count=facts.rows.count * sampling.samples_per_prompt,
        prompt_tokens=facts.rows.prompt_tokens.p50,
        most_tokens=_room(facts.teacher, facts.rows, sampling.max_new_tokens),
        at_once=sampling.batch_size,
        computes_in=recipe.teacher.dtype,
    )


def _exams(recipe: Recipe, facts: Facts) -> Iterator[Answers]:
    for number, (task, rows) in enumerate(zip(recipe.evaluation, facts.tasks, strict=True)):
        yield Answers(
            what=task.task,
            field=f"evaluation.{number}",
            model=facts.student,
            count=rows.count,
            prompt_tokens=rows.prompt_tokens.p50,
            most_tokens=_room(facts.student, rows, task.max_new_tokens),
            at_once=task.batch_size,
            computes_in=recipe.training.dtype,
        )


def _room(model: ModelFacts, rows: Rows, wanted: int) -> int:
    """The longest answer that a model's context has room for behind a prompt [tokens]."""
    if model.context_tokens is None:
        return wanted
    return max(1, min(wanted, model.context_tokens - ceil(rows.prompt_tokens.p50)))


def _download_bytes(recipe: Recipe, facts: Facts) -> float:
    student = weight_bytes(facts.student.params) if recipe.student.kind == "pretrained" else 0.0
    return student + (weight_bytes(facts.teacher.params) if facts.teacher else 0.0)


def _notes(
    rows: Rows, sampling: Sampling | None, lengths: Quantiles, steps: int, passes: float
) -> Iterator[str]:
    yield f"data: {rows.count:,} rows, {_range(rows.tokens)} tokens each ({rows.source})"
    if sampling:
        share = ANSWER_SHARE
        yield (
            f"the teacher's answers take {share.p10:.0%}, {share.p50:.0%} or {share.p90:.0%} of "
            f"the {sampling.max_new_tokens:,} tokens allowed: not known before they are written"
        )
    yield (
        f"training: {steps:,} steps, {passes:.3g} passes over samples of {_range(lengths)} tokens"
    )


def _range(quantiles: Quantiles) -> str:
    if quantiles.p10 == quantiles.p90:
        return f"{quantiles.p50:,.0f}"
    return f"{quantiles.p50:,.0f} ({quantiles.p10:,.0f} to {quantiles.p90:,.0f})"
