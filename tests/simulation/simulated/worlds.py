"""Many worlds, one after the other, and what came of them."""

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Self

from simulated.economy import economy
from simulated.invariants import BrokenInvariantError
from simulated.life import REAL, Life, Parts, live

MEMORY = Path("/dev/shm")
"""Where files take no disk; elsewhere worlds are slower, and otherwise the same."""


@dataclass
class Result:
    """What came of some worlds."""

    worlds: int = 0
    broken: dict[int, str] = field(default_factory=dict)
    """What did not hold, by seed."""
    overshoot: Decimal = Decimal(0)
    """The highest, as a share of the budget."""

    def __iadd__(self, other: Self) -> Self:
        self.worlds += other.worlds
        self.broken |= other.broken
        self.overshoot = max(self.overshoot, other.overshoot)
        return self


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """A folder for worlds, which is removed."""
    folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    try:
        with economy():
            yield folder
    finally:
        shutil.rmtree(folder)


def live_many(seeds: Iterable[int], parts: Parts = REAL) -> Result:
    """Live worlds through, one after the other."""
    result = Result()
    with folder_in_memory() as folder:
        for seed in seeds:
            result.worlds += 1
            try:
                life = live(seed, folder, parts)
            except BrokenInvariantError as error:
                result.broken[seed] = str(error)
            else:
                result.overshoot = max(result.overshoot, life.invariants.overshoot)
    return result


def tell(seed: int, parts: Parts = REAL) -> tuple[list[str], str | None]:
    """The story of one world, and what did not hold in it."""
    with folder_in_memory() as folder:
        life = Life(seed, folder, parts, tell_story=True)
        try:
            life.live()
        except BrokenInvariantError as error:
            return life.world.story, str(error)
    return life.world.story, None
