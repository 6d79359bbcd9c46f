"""A recipe: teacher, student, method, data, training, evaluation, hardware wishes, budget.

It says what, never where: where the work runs, and for how much, is decided by the launcher. Models
are immutable, a misspelt key is an error, validators check and never alter, and a field stands in
one place only: a command-line flag changes a field of the recipe.
"""

import re
import warnings
from collections.abc import Iterator
from decimal import Decimal
from string import Formatter
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

HOME_VARIABLE = "$STILLHOUSE_HOME"
"""The one variable a path in a recipe may begin with. The launcher replaces it."""


class Part(BaseModel):
    """A piece of a recipe: immutable, and a misspelt key is an error."""

    # No use_attribute_docstrings: reading them at import took longer than all the rest together.
    # recipes.schema reads them where they are shown.
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        defer_build=True,
        allow_inf_nan=False,
        validate_default=True,
        protected_namespaces=(),
    )


class BrokenRule(NamedTuple):
    """Fields of one part, or of parts below it, that do not go together."""

    fields: tuple[str, ...]
    """All that the rule looks at, as dotted paths; the first is where a person should look."""

    message: str
    """What would be right; follows the name of the first field."""


class RuledPart(Part):
    """A part whose fields depend on each other."""

    def broken_rules(self) -> Iterator[BrokenRule]:
        """Every rule that this part breaks."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _keeps_its_rules(self) -> Self:
        broken = tuple(self.broken_rules())
        if broken:
            message = "; ".join(f"{rule.fields[0]}: {rule.message}" for rule in broken)
            raise PydanticCustomError("rules", "{message}", {"message": message, "rules": broken})
        return self


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
                f"{{{name[:40]}}} is not a column: write {{name}}, and {{{{ or }}}} for a brace"
            )
        names[name] = None
    return tuple(names)


def _check_template(template: str) -> str:
    template_columns(template)
    return template


def _check_pattern(pattern: str) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # "possible nested set": ambiguous, so not accepted
            groups = re.compile(pattern).groups
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise ValueError(f"is not a regular expression: {str(error)[:100]}") from error
    if groups != 1:
        raise ValueError(f"must have exactly one group (...), has {groups}")
    return pattern


def _in_words(must_be: str) -> dict[str, JsonValue]:
    """What a pattern asks for, as people say it; editors show it too."""
    return {"patternErrorMessage": f"must be {must_be}"}


Name = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9-]{0,39}$",
        examples=["my-student"],
        json_schema_extra=_in_words("lower-case letters, digits and dashes, 40 at most"),
    ),
]
"""Also names clusters and experiments, hence the narrow alphabet."""

Template = Annotated[
    str,
    Field(min_length=1, max_length=100_000, examples=["{problem}"]),
    AfterValidator(_check_template),
]
"""Text with `{column}` where a column's value goes; `{{` and `}}` are plain braces."""

ModelRef = Annotated[
    str, Field(min_length=1, max_length=500, examples=["Qwen/Qwen2.5-0.5B-Instruct"])
]
"""A hub id (`owner/name`), or a folder: begins with `/`, `.`, `~/` or `$STILLHOUSE_HOME/`."""

PositiveUsd = Annotated[Decimal, Field(gt=0, le=10_000_000)]
UsdPrice = Annotated[Decimal, Field(ge=0, le=1_000_000)]


# ---- teacher ---------------------------------------------------------------------------------


class Sampling(RuledPart):
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

    def broken_rules(self) -> Iterator[BrokenRule]:
        if self.temperature == 0:
            wish = "needs a temperature above 0"
            if self.samples_per_prompt > 1:
                yield BrokenRule(("samples_per_prompt", "temperature"), f"above 1 {wish}")
            if self.top_p < 1:
                yield BrokenRule(("top_p", "temperature"), f"below 1 {wish}")


class NoTeacher(Part):
    """Nobody: the data's own completions are the labels."""

    kind: Literal["none"] = "none"


class ModelTeacher(Part):
    """Weights that we run ourselves."""

    kind: Literal["model"] = "model"

    model: ModelRef = Field(examples=["Qwen/Qwen2.5-7B-Instruct"])
    """Hub id or folder of a causal language model."""

    revision: str | None = None
    """Commit, tag or branch on the hub. Name a commit where the result should be repeatable."""

    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Number format it runs in."""

    sampling: Sampling = Sampling()
    """How it writes."""

    trust_remote_code: bool = False
    """Run code that comes with the model. Also needs `--trust-remote-code` on the command line."""


class ApiTeacher(Part):
    """Any OpenAI-compatible endpoint, called from this machine and never from a rented one.

    Not every provider's terms allow training on its answers: read them first.
    """

    kind: Literal["api"] = "api"

    base_url: str = Field(
        pattern=r"^https?://[^\s@]+$",
        examples=["https://api.openai.com/v1"],
        json_schema_extra=_in_words("a URL that begins with http:// or https://, no user in it"),
    )
    """For example `https://api.openai.com/v1`. Without a user name or key in it."""

    model: str = Field(min_length=1, max_length=200, examples=["gpt-4o-mini"])
    """The model's name, as that endpoint knows it."""

    api_key_env: str = Field(
        default="OPENAI_API_KEY",
        pattern=r"^[A-Z][A-Z0-9_]{0,99}$",
        json_schema_extra=_in_words(
            "the name of an environment variable, in capitals, and never the key itself"
        ),
    )
    """Environment variable that holds the key. The key itself never stands in a recipe."""

    usd_per_million_input_tokens: UsdPrice | None = None
    """Price [USD per million tokens]. Left out: looked up by model name; unknown is refused."""

    usd_per_million_output_tokens: UsdPrice | None = None
    """Price [USD per million tokens], of reasoning tokens too."""

    concurrency: int = Field(default=16, ge=1, le=1024)
    """Requests under way at the same time."""

    sampling: Sampling = Sampling()
    """How it writes."""


class DatasetTeacher(Part):
    """Traces already written: the data's completions are a teacher's."""

    kind: Literal["dataset"] = "dataset"

    model: str = Field(min_length=1, max_length=200, examples=["DeepSeek-R1"])
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


class NewStudent(RuledPart):
    """A small Qwen3 model with random weights and one token a character."""

    kind: Literal["new"] = "new"

    characters: str = Field(min_length=1, max_length=500, examples=["0123456789+="])
    """The vocabulary: each character once. End of text and padding are added."""

    layers: int = Field(ge=1, le=200, examples=[2])
    """Transformer blocks."""

    hidden_size: int = Field(ge=8, le=65536, examples=[64])
    """Width. An even multiple of `heads`."""

    heads: int = Field(ge=1, le=512, examples=[2])
    """Attention heads."""

    intermediate_size: int = Field(ge=8, le=262_144, examples=[256])
    """Width of the feed-forward layers."""

    context_tokens: int = Field(default=128, ge=8, le=1_000_000)
    """Longest text [tokens]."""

    def broken_rules(self) -> Iterator[BrokenRule]:
        if self.hidden_size % (2 * self.heads):
            yield BrokenRule(
                ("hidden_size", "heads"),
                f"must be an even multiple of heads, is {self.hidden_size} with {self.heads} heads",
            )
        twice = sorted({c for c in self.characters if self.characters.count(c) > 1})
        if twice:
            yield BrokenRule(
                ("characters",), f"must hold each character once, holds {twice[0]!r} more often"
            )


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

    completion: Template | None = Field(default=None, examples=["{solution}"])
    """What is answered: labels or traces already written. Left out where a teacher writes it."""

    rows: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """Take so many rows from the start; all where left out."""


class JsonlData(Source):
    """A file with one JSON object a line."""

    kind: Literal["jsonl"] = "jsonl"

    path: str = Field(min_length=1, examples=["prompts.jsonl"])
    """The file; relative to the recipe's folder."""


class ParquetData(Source):
    """A Parquet file."""

    kind: Literal["parquet"] = "parquet"

    path: str = Field(min_length=1, examples=["prompts.parquet"])
    """The file; relative to the recipe's folder."""


class HubData(Source):
    """A dataset on the hub, at a revision that does not move."""

    kind: Literal["hub"] = "hub"

    dataset: str = Field(
        pattern=r"^[\w.-]+/[\w.-]+$",
        examples=["nlile/hendrycks-MATH-benchmark"],
        json_schema_extra=_in_words("an id of the form owner/name"),
    )
    """What the hub calls it."""

    revision: str = Field(min_length=1, examples=["b2d17b56c4299a255acb1d4bc14ce920eb15f4fc"])
    """Commit or tag. Without one the same recipe would be another experiment tomorrow."""

    config: str | None = None
    """Name of the configuration, where the dataset has several."""

    split: str = "train"
    """Name of the split."""


class GeneratedData(Source):
    """Problems made on the spot. Columns: `question`, `working`, `answer`."""

    kind: Literal["generated"] = "generated"

    generator: Literal["additions"] = "additions"
    """`additions`: two numbers to add, with the working written out digit by digit."""

    digits: int = Field(default=3, ge=1, le=12)
    """Digits of each number."""

    part: Literal["train", "held_out"] = "train"
    """No problem is in both: a tenth of all are held out, by a hash of the problem."""

    rows: int = Field(ge=1, le=10_000_000, examples=[2000])
    """How many."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    """Which problems, and their order."""


Data = Annotated[JsonlData | ParquetData | HubData | GeneratedData, Field(discriminator="kind")]


# ---- training --------------------------------------------------------------------------------


Beta = Annotated[float, Field(ge=0, lt=1)]


class Training(RuledPart):
    """AdamW, cosine with warm-up, loss on completion tokens only."""

    epochs: float | None = Field(default=None, gt=0, le=10_000, examples=[3])
    """Passes over the data. Give this or `steps`."""

    steps: int | None = Field(default=None, ge=1, le=100_000_000)
    """Optimiser steps. Give this or `epochs`."""

    batch_size: int = Field(ge=1, le=1_000_000, examples=[16])
    """Samples a step, over all GPUs."""

    micro_batch_size: int | None = Field(default=None, ge=1, le=1_000_000)
    """Samples in one forward pass on one GPU; the rest is accumulated. Left out: `batch_size`."""

    max_tokens: int = Field(default=4096, ge=8, le=10_000_000)
    """Longest sample, prompt and completion together [tokens]."""

    too_long: Literal["error", "drop"] = "error"
    """What to do with a sample above `max_tokens` or the student's context."""

    learning_rate: float = Field(gt=0, le=10, examples=[1e-5])
    """At the end of the warm-up."""

    final_learning_rate_share: float = Field(default=0.0, ge=0, le=1)
    """Where the cosine ends, as a share of `learning_rate`."""

    warmup_share: float = Field(default=0.03, ge=0, le=1)
    """Share of the steps with a rising learning rate."""

    weight_decay: float = Field(default=0.0, ge=0, le=10)
    """AdamW's pull towards 0, on matrices only."""

    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """AdamW's two decay rates."""

    max_grad_norm: float = Field(default=1.0, gt=0, le=1_000_000)
    """Gradients are scaled down to this norm."""

    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Number format of the forward and backward pass. Weights and optimiser keep float32."""

    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: about a third more work, far less memory."""

    checkpoint_every_steps: int | None = Field(default=None, ge=1, le=100_000_000)
    """Left out: as often as the chance of an interruption asks for."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    """Order of the samples, and the weights of a new student."""

    threads: int | None = Field(default=None, ge=1, le=1024)
    """CPU threads. Left out: as PyTorch chooses."""

    def broken_rules(self) -> Iterator[BrokenRule]:
        if self.epochs is None and self.steps is None:
            yield BrokenRule(("epochs", "steps"), "is missing: give either epochs or steps")
        if self.epochs is not None and self.steps is not None:
            yield BrokenRule(("steps", "epochs"), "give either epochs or steps, not both")
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            yield BrokenRule(
                ("micro_batch_size", "batch_size"),
                f"must divide batch_size ({self.batch_size}), is {self.micro_batch_size}",
            )


# ---- evaluation ------------------------------------------------------------------------------


class ExactMatch(RuledPart):
    """Share of answers that equal the reference, spaces at the ends aside."""

    kind: Literal["exact_match"] = "exact_match"

    task: Name = Field(examples=["math"])
    """Names the score."""

    data: Data
    """`prompt` is asked; `completion` is the reference."""

    answer_pattern: (
        Annotated[str, Field(max_length=1000), AfterValidator(_check_pattern)] | None
    ) = None
    """Regular expression with one group: the last match in what the student wrote is its answer."""

    max_new_tokens: int = Field(default=1024, ge=1, le=1_000_000)
    """Longest answer [tokens]. Too short shows as a lower score; cut answers are counted."""

    batch_size: int = Field(default=64, ge=1, le=100_000)
    """Problems answered at the same time."""

    def broken_rules(self) -> Iterator[BrokenRule]:
        if self.data.completion is None:
            yield BrokenRule(
                ("data.completion",), "is missing: it is the reference to compare with"
            )


Task = ExactMatch
"""Further kinds of scorer join here."""


# ---- hardware and budget ---------------------------------------------------------------------


class Hardware(RuledPart):
    """Wishes. Which machine it becomes is the launcher's to choose."""

    local: bool = False
    """Run on this machine."""

    usd_per_hour: UsdPrice | None = None
    """What an hour of this machine costs [USD/h]. Only with `local`, and needed there."""

    accelerators: str = Field(
        default="any",
        pattern=r"^(any|[A-Za-z0-9.-]+(:[1-9][0-9]{0,2})?)$",
        json_schema_extra=_in_words("`any`, or a name and a count such as `H100:8`"),
    )
    """GPUs of one machine."""

    nodes: int = Field(default=1, ge=1, le=1024)
    """Machines that work together."""

    spot: bool = True
    """Machines that may be taken away are allowed; they cost a third to a half."""

    def broken_rules(self) -> Iterator[BrokenRule]:
        price = ("usd_per_hour", "local")
        if self.local and self.usd_per_hour is None:
            yield BrokenRule(price, "is missing: what an hour of this machine costs")
        if not self.local and self.usd_per_hour is not None:
            yield BrokenRule(price, "is only for local: true; rented machines have offers")
        if self.local and self.nodes > 1:
            yield BrokenRule(("nodes", "local"), f"must be 1 with local: true, is {self.nodes}")


class Budget(Part):
    """What may be spent. Never passed."""

    usd: PositiveUsd = Field(examples=[5])
    """Everything together: teacher, GPUs, evaluation, storage [USD]."""

    hours: Decimal | None = Field(default=None, gt=0, le=100_000)
    """From the launch to the end [h]. No limit where left out."""


# ---- the whole -------------------------------------------------------------------------------


class Recipe(RuledPart):
    """A distillation, ready to be planned."""

    name: Name
    """What its runs are called; also the MLflow experiment."""

    description: str = ""
    """A sentence for people."""

    teacher: Teacher
    """Who writes what the student learns."""

    student: Student
    """Who learns."""

    method: Method = FromText()
    """How the student learns from the teacher."""

    data: Data
    """What is asked, and what is learnt where no teacher writes."""

    training: Training
    """How the student is trained."""

    evaluation: tuple[Task, ...] = Field(default=(), max_length=100)
    """Tasks that the finished student is scored on."""

    hardware: Hardware = Hardware()
    """What it may run on."""

    budget: Budget
    """What it may cost."""

    def broken_rules(self) -> Iterator[BrokenRule]:
        completion = ("data.completion", "teacher.kind")
        writes = self.teacher.kind in ("model", "api")
        if not writes and self.data.completion is None:
            yield BrokenRule(
                completion,
                f"is missing: with teacher.kind {self.teacher.kind} the text to learn comes from "
                "the data",
            )
        if writes and self.data.completion is not None:
            yield BrokenRule(completion, "must be left out: the teacher writes the completions")
        names = [task.task for task in self.evaluation]
        for number, name in enumerate(names):
            if name in names[:number]:
                field = f"evaluation.{number}.task"
                yield BrokenRule((field, "evaluation"), f"must differ from the others, is {name}")
