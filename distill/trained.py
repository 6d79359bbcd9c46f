"""How far a saved student came: `stillhouse.json`, a note beside its weights.

It tells a finished student from one that was saved because time or money ran out.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from recipes.errors import InvalidInputError
from recipes.recipe import Part
from recipes.rundir import read_model

NOTE = "stillhouse.json"


class Trained(Part):
    """What is behind a saved student."""

    version: Literal[1] = 1
    steps: int = Field(ge=0)
    of_steps: int = Field(ge=0)

    @property
    def is_whole(self) -> bool:
        return self.steps >= self.of_steps


def read_trained(folder: Path) -> Trained | None:
    """What is behind the student in `folder`; `None` where there is no whole one."""
    try:
        return read_model(folder / NOTE, Trained)
    except InvalidInputError:
        return None
