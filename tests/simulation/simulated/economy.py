"""What is the same again and again is done once, so that there can be many worlds.

Nothing here is seen by a world: the same bytes make the same frozen model, when memory is tidied up
is of no account to it, and neither is the environment, which each error is searched for.
"""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from unittest.mock import patch

from pydantic import BaseModel

from recipes import rundir
from recipes.recipe import Part

REMEMBERED = 2048
"""So many texts are remembered with what they say; a world has some hundred."""

GARBAGE = 20_000
"""So many new objects are waited for before unused ones are looked for."""


@contextmanager
def economy() -> Iterator[None]:
    """Read no text twice, and look for garbage seldom and only among what is new."""

    @lru_cache(REMEMBERED)
    def read(model: type[BaseModel], text: str | bytes) -> BaseModel:
        return BaseModel.model_validate_json.__func__(model, text)  # type: ignore[attr-defined]

    events: Any = rundir._EVENT
    read_event = lru_cache(REMEMBERED)(events.validate_json)
    before = gc.get_threshold()
    gc.collect()  # or the last worlds' garbage would be frozen too, and never be found again
    gc.freeze()
    gc.set_threshold(GARBAGE, *before[1:])
    try:
        with (
            patch.object(Part, "model_validate_json", classmethod(read)),
            patch.object(events, "validate_json", read_event),
            patch.dict(os.environ, clear=True),
        ):
            yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
