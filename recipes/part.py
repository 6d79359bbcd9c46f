"""What the parts of a recipe are made of: the base of every part, and types that several share."""

import re
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from decimal import Decimal
from string import Formatter
from typing import Annotated, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from recipes.money import MOST_USD

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

    @abstractmethod
    def broken_rules(self) -> Iterator[BrokenRule]:
        """Every rule that this part breaks."""

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


def in_words(must_be: str) -> dict[str, JsonValue]:
    """What a pattern asks for, as people say it; editors show it too."""
    return {"patternErrorMessage": f"must be {must_be}"}


Name = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9-]{0,39}$",
        examples=["my-student"],
        json_schema_extra=in_words("lower-case letters, digits and dashes, 40 at most"),
    ),
]
"""Also names clusters and experiments, hence the narrow alphabet."""

Template = Annotated[
    str,
    Field(min_length=1, max_length=100_000, examples=["{problem}"]),
    AfterValidator(_check_template),
]
"""Text with `{column}` where a column's value goes; `{{` and `}}` are plain braces."""

AnswerPattern = Annotated[str, Field(max_length=1000), AfterValidator(_check_pattern)]
"""A regular expression with one group: what it holds is the answer."""

ModelRef = Annotated[
    str, Field(min_length=1, max_length=500, examples=["Qwen/Qwen2.5-0.5B-Instruct"])
]
"""A hub id (`owner/name`), or a folder: begins with `/`, `.`, `~/` or `$STILLHOUSE_HOME/`."""

PositiveUsd = Annotated[Decimal, Field(gt=0, le=MOST_USD)]
UsdPrice = Annotated[Decimal, Field(ge=0, le=1_000_000)]
