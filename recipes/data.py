"""The data of a recipe: where rows come from, and how a row becomes text."""

from typing import Annotated, Literal

from pydantic import Field

from recipes.part import Part, Template, in_words


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

    expected_tokens: int | None = Field(default=None, ge=1, le=10_000_000)
    """Mean tokens of a row, prompt and completion together. Only plans use it, where the data
    cannot be read before paying: on the hub. Left out there, rented machines are refused."""


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
        pattern=r"^\w[\w.-]*/\w[\w.-]*$",  # and no ../.. which would be a folder
        examples=["nlile/hendrycks-MATH-benchmark"],
        json_schema_extra=in_words("an id of the form owner/name"),
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
