"""What a short trial of a recipe on one machine measured (`python -m distill calibrate`)."""

from typing import Literal

from pydantic import Field

from recipes.recipe import Part
from recipes.rundir import Stage


class StageSpeed(Part):
    """How long one stage takes here: `fixed_s` and then `units` times a second-per-unit."""

    units: int = Field(ge=0)
    """How many units of work the whole stage has."""

    unit: str
    """What is counted: `answers`, `steps`."""

    fixed_s: float = Field(ge=0)
    """Seconds that do not grow with the units: loading, saving [s]."""

    seconds_per_unit: tuple[float, ...]
    """Each measurement of one unit [s]; several, so that their spread is known."""


class Calibration(Part):
    version: Literal[1] = 1

    device: str
    """`cpu`, or the name of the GPU."""

    boot_s: float = Field(ge=0)
    """From the start of the process to the first stage [s]."""

    checkpoint_s: float = Field(ge=0)
    """To write one checkpoint [s]."""

    prompt_bytes: int | None = None
    """UTF-8 bytes of all rendered prompts together, each once; `None` where no teacher is asked."""

    longest_prompt_bytes: int | None = None
    """The same of the longest one."""

    stages: dict[Stage, StageSpeed]
    """Only stages that this recipe has."""
