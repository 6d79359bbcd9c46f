"""A recipe: teacher, student, method, data, training, evaluation, hardware wishes, budget.

It says what, never where: where the work runs, and for how much, is decided by the launcher. Models
are immutable, a misspelt key is an error, validators check and never alter, and a field stands in
one place only: a command-line flag changes a field of the recipe.
"""

import re
from decimal import Decimal
from string import Formatter
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

HOME_VARIABLE = "$STILLHOUSE_HOME"
"""The one variable a path in a recipe may begin with. The launcher replaces it."""


class Part(BaseModel):
    """A piece of a recipe: immutable, and a misspelt key is an error."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        validate_default=True,
        protected_namespaces=(),
    )


def template_columns(template: str) -> tuple[str, ...]:
    """Names of the columns that a template takes, in order, each once.

    Raises:
        ValueError: braces that do not pair, or anything but a plain name inside them.

    >>> template_columns("{question} = {{boxed}} {question}")
    ('question',)
    """
    names: dict[str, None] = {}
    for _, name, spec, conversion in Formatter().parse(template):
        if name is None:
            continue
        if not name.isidentifier() or spec or conversion:
            raise ValueError(
                f"{{{name}}} is not a column: write {{name}}, and {{{{ or }}}} for a brace"
            )
        names[name] = None
    return tuple(names)


def _check_template(template: str) -> str:
    template_columns(template)
    return template


def _check_pattern(pattern: str) -> str:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from error
    if groups != 1:
        raise ValueError(f"must have exactly one group (...), has {groups}")
    return pattern


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
"""Lower-case letters, digits and dashes, 40 at most: it also names clusters and experiments."""

Template = Annotated[str, Field(min_length=1), AfterValidator(_check_template)]
"""Text with `{column}` where a column's value goes; `{{` and `}}` are plain braces."""

ModelRef = Annotated[str, Field(min_length=1, max_length=500)]
"""A hub id (`owner/name`), or a folder: begins with `/`, `.`, `~/` or `$STILLHOUSE_HOME/`."""

PositiveUsd = Annotated[Decimal, Field(gt=0, le=10_000_000)]
UsdPrice = Annotated[Decimal, Field(ge=0, le=1_000_000)]


# ---- teacher ---------------------------------------------------------------------------------


class Sampling(Part):
    """How the teacher writes."""

    temperature: float = Field(default=0.0, ge=0, le=5)
    """0 takes the likeliest token each time."""

    top_p: float = Field(default=1.0, gt=0, le=1)
    """Share of the probability that is sampled from. Only with a temperature above 0."""

    max_new_tokens: int = Field(default=1024, ge=1, le=1_000_000)
    """Longest answer [tokens]. An answer cut off here is counted, and not trained on."""

    samples_per_prompt: int = Field(default=1, ge=1, le=1000)
    """Answers for each prompt. More than one needs a temperature above 0."""

    batch_size: int = Field(default=64, ge=1, le=100_000)
    """Prompts answered at the same time."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    """Same seed, same answers, on the same hardware."""

    @model_validator(mode="after")
    def _several_answers_must_differ(self) -> Self:
        if self.samples_per_prompt > 1 and self.temperature == 0:
            raise ValueError("samples_per_prompt above 1 needs a temperature above 0")
        return self


class NoTeacher(Part):
    """Nobody: the data's own completions are the labels."""

    kind: Literal["none"] = "none"


class ModelTeacher(Part):
    """Weights that we run ourselves."""

    kind: Literal["model"] = "model"

    model: ModelRef
    """Hub id or folder of a causal language model."""

    revision: str | None = None
    """Commit, tag or branch on the hub. Name a commit where the result should be repeatable."""

    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Number format it runs in."""

    sampling: Sampling = Sampling()

    trust_remote_code: bool = False
    """Run code that comes with the model. Also needs `--trust-remote-code` on the command line."""


class ApiTeacher(Part):
    """Any OpenAI-compatible endpoint. Called from this machine, never from a rented one."""

    kind: Literal["api"] = "api"

    base_url: str = Field(pattern=r"^https?://[^\s@]+$")
    """For example `https://api.openai.com/v1`. Without a user name or key in it."""

    model: str = Field(min_length=1, max_length=200)
    """The model's name, as that endpoint knows it."""

    api_key_env: str = Field(default="OPENAI_API_KEY", pattern=r"^[A-Z][A-Z0-9_]{0,99}$")
    """Environment variable that holds the key. The key itself never stands in a recipe."""

    usd_per_million_input_tokens: UsdPrice | None = None
    """Price [USD per million tokens]. Left out: looked up by model name; unknown is refused."""

    usd_per_million_output_tokens: UsdPrice | None = None
    """Price [USD per million tokens], of reasoning tokens too."""

    concurrency: int = Field(default=16, ge=1, le=1024)
    """Requests under way at the same time."""

    sampling: Sampling = Sampling()


class DatasetTeacher(Part):
    """Traces already written: the data's completions are a teacher's."""

    kind: Literal["dataset"] = "dataset"

    model: str = Field(min_length=1, max_length=200)
    """Who wrote them. For the record only; nothing is loaded."""


Teacher = Annotated[
    NoTeacher | ModelTeacher | ApiTeacher | DatasetTeacher, Field(discriminator="kind")
]


# ---- student ---------------------------------------------------------------------------------


class PretrainedStudent(Part):
    """A model that has learnt already and learns on."""

    kind: Literal["pretrained"] = "pretrained"

    model: ModelRef
    """Hub id or folder of a causal language model."""

    revision: str | None = None
    """Commit, tag or branch on the hub."""

    trust_remote_code: bool = False
    """Run code that comes with the model. Also needs `--trust-remote-code` on the command line."""


class NewStudent(Part):
    """A small Qwen3 model with random weights and one token a character."""

    kind: Literal["new"] = "new"

    characters: str = Field(min_length=1, max_length=500)
    """The vocabulary: each character once. End of text and padding are added."""

    layers: int = Field(ge=1, le=200)
    """Transformer blocks."""

    hidden_size: int = Field(ge=8, le=65536)
    """Width. A multiple of `heads`."""

    heads: int = Field(ge=1, le=512)
    """Attention heads."""

    intermediate_size: int = Field(ge=8, le=262_144)
    """Width of the feed-forward layers."""

    context_tokens: int = Field(default=128, ge=8, le=1_000_000)
    """Longest text [tokens]."""

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"hidden_size must be an even multiple of heads, is {self.hidden_size} "
                f"with {self.heads} heads"
            )
        if len(set(self.characters)) != len(self.characters):
            raise ValueError("characters must hold each character once")
        return self


Student = Annotated[PretrainedStudent | NewStudent, Field(discriminator="kind")]


# ---- method ----------------------------------------------------------------------------------


class FromText(Part):
    """The student learns the text that the teacher wrote (sequence-level distillation)."""

    kind: Literal["from_text"] = "from_text"


Method = FromText
"""Further kinds (`logits`, `on_policy`) join here."""


# ---- data ------------------------------------------------------------------------------------


class Source(Part):
    """Where rows come from, and how a row becomes text."""

    system: str | None = None
    """System message. Only for models whose chat template knows one."""

    prompt: Template
    """What is asked, for example `"{question}"`."""

    completion: Template | None = None
    """What is answered: labels or traces already written. Left out where a teacher writes it."""

    rows: int | None = Field(default=None, ge=1)
    """Take so many rows from the start; all where left out."""


class JsonlData(Source):
    """A file with one JSON object a line."""

    kind: Literal["jsonl"] = "jsonl"

    path: str = Field(min_length=1)
    """The file; relative to the recipe's folder."""


class ParquetData(Source):
    """A Parquet file."""

    kind: Literal["parquet"] = "parquet"

    path: str = Field(min_length=1)
    """The file; relative to the recipe's folder."""


class HubData(Source):
    """A dataset on the hub, at a revision that does not move."""

    kind: Literal["hub"] = "hub"

    dataset: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """`owner/name`."""

    revision: str = Field(min_length=1)
    """Commit or tag. Without one the same recipe would be another experiment tomorrow."""

    config: str | None = None
    """Name of the configuration, where the dataset has several."""

    split: str = "train"


class GeneratedData(Source):
    """Problems made on the spot. Columns: `question`, `working`, `answer`."""

    kind: Literal["generated"] = "generated"

    generator: Literal["additions"] = "additions"
    """`additions`: two numbers to add, with the working written out digit by digit."""

    digits: int = Field(default=3, ge=1, le=12)
    """Digits of each number."""

    part: Literal["train", "held_out"] = "train"
    """No problem is in both: a tenth of all are held out, by a hash of the problem."""

    rows: int = Field(ge=1, le=10_000_000)
    """How many."""

    seed: int = Field(default=0, ge=0, lt=2**31)


Data = Annotated[JsonlData | ParquetData | HubData | GeneratedData, Field(discriminator="kind")]


# ---- training --------------------------------------------------------------------------------


class Training(Part):
    """AdamW, cosine with warm-up, loss on completion tokens only."""

    epochs: float | None = Field(default=None, gt=0, le=10_000)
    """Passes over the data. Give this or `steps`."""

    steps: int | None = Field(default=None, ge=1, le=100_000_000)
    """Optimiser steps. Give this or `epochs`."""

    batch_size: int = Field(ge=1, le=1_000_000)
    """Samples a step, over all GPUs."""

    micro_batch_size: int | None = Field(default=None, ge=1)
    """Samples in one forward pass on one GPU; the rest is accumulated. Left out: `batch_size`."""

    max_tokens: int = Field(default=4096, ge=8, le=10_000_000)
    """Longest sample, prompt and completion together [tokens]."""

    too_long: Literal["error", "drop"] = "error"
    """What to do with a sample above `max_tokens` or the student's context."""

    learning_rate: float = Field(gt=0, le=10)
    """At the end of the warm-up."""

    final_learning_rate_share: float = Field(default=0.0, ge=0, le=1)
    """Where the cosine ends, as a share of `learning_rate`."""

    warmup_share: float = Field(default=0.03, ge=0, le=1)
    """Share of the steps with a rising learning rate."""

    weight_decay: float = Field(default=0.0, ge=0, le=10)
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's two decay rates, each at least 0 and below 1."""

    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""

    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Number format of the forward and backward pass. Weights and optimiser keep float32."""

    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: about a third more work, far less memory."""

    checkpoint_every_steps: int | None = Field(default=None, ge=1)
    """Left out: as often as the chance of an interruption asks for."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    """Order of the samples, and the weights of a new student."""

    threads: int | None = Field(default=None, ge=1, le=1024)
    """CPU threads. Left out: as PyTorch chooses."""

    @model_validator(mode="after")
    def _length_is_said_once(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps")
        return self

    @model_validator(mode="after")
    def _values_make_sense(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must each be at least 0 and below 1, are {self.betas}")
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of "
                f"micro_batch_size ({self.micro_batch_size})"
            )
        return self


# ---- evaluation ------------------------------------------------------------------------------


class ExactMatch(Part):
    """Share of answers that equal the reference, spaces at the ends aside."""

    kind: Literal["exact_match"] = "exact_match"

    task: Name
    """Names the score."""

    data: Data
    """`prompt` is asked; `completion` is the reference."""

    answer_pattern: Annotated[str, AfterValidator(_check_pattern)] | None = None
    """Regular expression with one group: the last match in what the student wrote is its answer."""

    max_new_tokens: int = Field(default=1024, ge=1, le=1_000_000)
    """Longest answer [tokens]. Too short shows as a lower score; cut answers are counted."""

    batch_size: int = Field(default=64, ge=1, le=100_000)
    """Problems answered at the same time."""

    @model_validator(mode="after")
    def _there_is_a_reference(self) -> Self:
        if self.data.completion is None:
            raise ValueError("data.completion is missing: it is the reference to compare with")
        return self


Task = ExactMatch
"""Further kinds of scorer join here."""


# ---- hardware and budget ---------------------------------------------------------------------


class Hardware(Part):
    """Wishes. Which machine it becomes is the launcher's to choose."""

    local: bool = False
    """Run on this machine."""

    usd_per_hour: UsdPrice | None = None
    """What an hour of this machine costs [USD/h]. Only with `local`, and needed there."""

    accelerators: str = Field(default="any", pattern=r"^(any|[A-Za-z0-9.-]+(:[1-9][0-9]{0,2})?)$")
    """GPUs of one node: `any`, or a name and a count such as `H100:8`."""

    nodes: int = Field(default=1, ge=1, le=1024)
    """Machines that work together."""

    spot: bool = True
    """Machines that may be taken away are allowed; they cost a third to a half."""

    @model_validator(mode="after")
    def _local_has_a_price(self) -> Self:
        if self.local and self.usd_per_hour is None:
            raise ValueError("usd_per_hour is missing: what an hour of this machine costs")
        if not self.local and self.usd_per_hour is not None:
            raise ValueError("usd_per_hour is for local: true; rented machines have offers")
        return self


class Budget(Part):
    """What may be spent. Never passed."""

    usd: PositiveUsd
    """Everything together: teacher, GPUs, evaluation, storage [USD]."""

    hours: Decimal | None = Field(default=None, gt=0, le=100_000)
    """From the launch to the end [h]. No limit where left out."""


# ---- the whole -------------------------------------------------------------------------------


class Recipe(Part):
    """A distillation, ready to be planned."""

    name: Name
    """Also the MLflow experiment."""

    description: str = ""
    """A sentence for people."""

    teacher: Teacher
    student: Student
    method: Method = FromText()
    data: Data
    training: Training
    evaluation: tuple[Task, ...] = ()
    """Tasks that the finished student is scored on."""

    hardware: Hardware = Hardware()
    budget: Budget

    @model_validator(mode="after")
    def _somebody_writes_the_completions(self) -> Self:
        writes = self.teacher.kind in ("model", "api")
        if not writes and self.data.completion is None:
            raise ValueError(
                f"data.completion is missing: with teacher.kind {self.teacher.kind} "
                "the text to learn comes from the data"
            )
        if writes and self.data.completion is not None:
            raise ValueError("data.completion must be left out: the teacher writes the completions")
        return self

    @model_validator(mode="after")
    def _task_names_differ(self) -> Self:
        names = [task.task for task in self.evaluation]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"evaluation names {', '.join(twice)} more than once")
        return self
