"""A recipe: teacher, student, method, data, training, evaluation, hardware wishes, budget.

It says what, never where: where the work runs, and for how much, is decided by the launcher. Models
are immutable, a misspelt key is an error, validators check and never alter, and a field stands in
one place only: a command-line flag changes a field of the recipe.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from recipes.data import Data, GeneratedData, HubData, JsonlData, ParquetData, Source
from recipes.part import (
    HOME_VARIABLE,
    AnswerPattern,
    BrokenRule,
    ModelRef,
    Name,
    Part,
    PositiveUsd,
    RuledPart,
    UsdPrice,
    in_words,
    template_columns,
)

# Whoever works with recipes imports from here, wherever a part is written down.
__all__ = [
    "Recipe",
    "Teacher", "NoTeacher", "ModelTeacher", "ApiTeacher", "DatasetTeacher", "Sampling",
    "Student", "PretrainedStudent", "NewStudent",
    "Method", "FromText",
    "Data", "Source", "JsonlData", "ParquetData", "HubData", "GeneratedData",
    "Training",
    "Task", "ExactMatch",
    "Hardware", "Budget",
    "Part", "RuledPart", "BrokenRule", "HOME_VARIABLE", "template_columns",
]  # fmt: skip

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
        pattern=r"^https?://[^\s@?#]+$",
        examples=["https://api.openai.com/v1"],
        json_schema_extra=in_words(
            "a URL that begins with http:// or https://, with no user and no key in it"
        ),
        repr=False,  # who writes a key into it should not read it in an error
    )
    """For example `https://api.openai.com/v1`. Without a user name or key in it."""

    model: str = Field(min_length=1, max_length=200, examples=["gpt-4o-mini"])
    """The model's name, as that endpoint knows it."""

    api_key_env: str = Field(
        default="OPENAI_API_KEY",
        # No other: whoever writes a recipe also says where the key is sent.
        pattern=r"^([A-Z][A-Z0-9_]{0,99}_)?API_KEY$",
        json_schema_extra=in_words(
            "the name of an environment variable that ends in API_KEY, and never the key itself"
        ),
        repr=False,
    )
    """Environment variable that holds the key; its name ends in `API_KEY`. The key itself never
    stands in a recipe."""

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
    """What to do with a sample above `max_tokens` or the student's context. `error` also refuses a
    teacher whose answers may come to that, before they are paid; one that is paid is dropped."""

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

    answer_pattern: AnswerPattern | None = None
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
        json_schema_extra=in_words("`any`, or a name and a count such as `H100:8`"),
    )
    """GPUs of one machine."""

    nodes: int = Field(default=1, ge=1, le=1024)
    """Machines that work together."""

    spot: bool = True
    """Machines that may be taken away are allowed; they cost a third to a half."""

    patience_minutes: int = Field(default=15, ge=1, le=1440)
    """Rented machines are given back when nothing of the run has moved for so long [min]."""

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
