"""A keeper of a training whose weights are nowhere: what it sets aside depends on their number."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from distill.context import Context, Stop
from distill.keeper import Keeper
from distill.learner import Learner
from distill.pulse import Mute
from distill.team import ALONE
from recipes.recipe import Recipe
from recipes.rundir import Limits


@dataclass
class StandIn:
    """What a keeper asks of a learner before it writes anything."""

    parameters: int
    steps: int = 0


def keeper_of(
    recipe: Recipe,
    limits: Limits,
    clock: Callable[[], float],
    *,
    parameters: int,
    steps: int,
) -> Keeper:
    """The keeper of a training of so many steps that begins now.

    Args:
        clock: seconds, for the limits and for the time between checkpoints.
    """
    no_folder = no_tokenizer = cast(Any, None)
    context = Context(no_folder, recipe, limits, Mute(1), Stop(limits, clock), "cpu")
    learner = cast(Learner, StandIn(parameters))
    return Keeper(context, ALONE, learner, no_tokenizer, steps, 0, clock)
