"""Two homes and one run: what the store's books say holds, whoever writes them."""

import shutil

import pytest

from launcher.runs.mirror import StoreMirror
from simulated.homes import TwoHomes
from simulated.invariants import BrokenInvariantError
from simulated.worlds import folder_in_memory

WORLDS = 100


def adoptions(seeds: range, kind: type[TwoHomes] = TwoHomes) -> int:
    """Live such worlds through; how often a run was taken over in them."""
    count = 0
    with folder_in_memory() as folder:
        for seed in seeds:
            own = folder / f"world-{seed}"
            own.mkdir()
            life = kind(seed, own)
            life.live()
            count += life.adoptions
            shutil.rmtree(own)
    return count


@pytest.mark.slow
def test_nothing_is_rented_or_settled_twice_by_two_homes() -> None:
    assert adoptions(range(WORLDS)) > WORLDS / 10


class NeverLooks(StoreMirror):
    """Keeps the books, and takes whatever stands there for its own."""

    def _give_way(self, *_: object) -> None:
        return None


class Deaf(TwoHomes):
    """Homes of which none stands down."""

    mirror = NeverLooks


@pytest.mark.slow
def test_homes_that_never_stand_down_are_found() -> None:
    with pytest.raises(BrokenInvariantError):
        adoptions(range(WORLDS), Deaf)
