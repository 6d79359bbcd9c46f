"""A rehearsal: the first steps of a recipe as a run of their own, and what they measured. Pure.

The worker, the machine and the data are those of the recipe; only the end comes sooner. Nothing is
evaluated, and a teacher writes no more than these steps learn from.
"""

import math
import statistics
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any, NamedTuple

from launcher.market.offers import LOCAL
from launcher.plans.plan import Plan
from recipes.calibration import Calibration, StageSpeed
from recipes.money import SECONDS_PER_HOUR
from recipes.recipe import ApiTeacher, ModelTeacher, Recipe
from recipes.rundir import AnyEvent, CheckpointSaved, TrainStep

REHEARSAL_OF = "rehearsal_of"
"""The note in the ledger that names the work a run rehearsed."""

STEPS = 20
"""So many steps at least, and as many as take ..."""

SECONDS = 30.0
"""... so long at the planned speed [s], but no more than a quarter of them all."""

LEAST_STEPS = 8
"""Where the money is short: fewer would be mostly the first one, which is slow."""

_SUFFIX = "-rehearsal"


def rehearsal_of(recipe: Recipe, plan: Plan, usd: Decimal, steps: int, nodes: int) -> Recipe:
    """The recipe of a rehearsal. The hours of the whole run are no limit of it.

    Args:
        plan: of the recipe; the rehearsal asks for its kind of machine.
        usd: its budget.
        steps: of training.
        nodes: machines.
    """
    offer = plan.offer
    hardware: dict[str, Any] = {"nodes": nodes}
    if offer.cloud != LOCAL:
        hardware["accelerators"] = f"{offer.gpu}:{offer.accelerators}"
    parts = {
        "name": recipe.name[: 40 - len(_SUFFIX)] + _SUFFIX,
        "description": f"The first {steps} steps of {recipe.name}, to measure them.",
        "data": {"rows": _rows(recipe, steps)},
        "training": {
            "epochs": None,
            "steps": steps,
            "checkpoint_every_steps": math.ceil(steps / 2),
        },
        "hardware": hardware,
        "budget": {"usd": usd, "hours": None},
    }
    whole = recipe.model_dump()
    for name, part in parts.items():
        whole[name] = {**whole[name], **part} if isinstance(part, dict) else part
    return Recipe.model_validate({**whole, "evaluation": ()})


def step_counts(plan: Plan) -> tuple[int, ...]:
    """How many steps to rehearse, the better choice first."""
    steps = plan.units["train"]
    hours = sum(line.quantity.p50 for line in plan.lines if line.name == "train")
    planned_s = float(hours) * SECONDS_PER_HOUR / steps
    long_enough = math.ceil(SECONDS / planned_s) if planned_s else STEPS
    wanted = max(STEPS, min(long_enough, steps // 4))
    return tuple(dict.fromkeys(min(steps, each) for each in (wanted, LEAST_STEPS)))


def _rows(recipe: Recipe, steps: int) -> int | None:
    """No more prompts than the steps learn from, where a teacher has to answer them."""
    rows = recipe.data.rows
    if not isinstance(recipe.teacher, ModelTeacher | ApiTeacher):
        return rows
    samples = steps * recipe.training.batch_size
    needed = math.ceil(samples / recipe.teacher.sampling.samples_per_prompt)
    return needed if rows is None else min(rows, needed)


# ---- what it measured ------------------------------------------------------------------------


class Measured(NamedTuple):
    """What the steps of a run showed."""

    steps: int
    """Between the first and the last that were timed."""
    step_s: tuple[float, ...]
    """Seconds of a step, each time that was told; without checkpoints."""
    tokens_per_s: float
    memory_bytes: int | None
    """The most that was held by one GPU, or by the process on a CPU; `None` is unknown."""
    checkpoint_s: float | None
    """To write one; `None` where none was written."""

    def __str__(self) -> str:
        memory = self.memory_bytes
        parts = [
            f"{self.steps} steps of {statistics.median(self.step_s):.3g} s",
            f"{self.tokens_per_s:,.0f} tokens/s",
            "memory unknown" if memory is None else f"{memory / 1e9:,.2f} GB of memory",
            "no checkpoint"
            if self.checkpoint_s is None
            else f"a checkpoint in {self.checkpoint_s:.3g} s",
        ]
        return ", ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """For programs; `step_s` is the median."""
        return {**self._asdict(), "step_s": statistics.median(self.step_s)}


def measure(events: Sequence[AnyEvent]) -> Measured | None:
    """What an attempt measured; `None` where it did not come to a second step."""
    steps = [event for event in events if isinstance(event, TrainStep)]
    saves = [event for event in events if isinstance(event, CheckpointSaved)]
    if len(steps) < 2:
        return None
    times = []
    for before, after in pairwise(steps):
        saving = sum(save.seconds for save in saves if before.t < save.t <= after.t)
        times.append((after.t - before.t - saving) / (after.step - before.step))
    seconds = sum(saved.seconds for saved in saves if steps[0].t < saved.t <= steps[-1].t)
    seconds = steps[-1].t - steps[0].t - seconds
    if seconds <= 0 or min(times) <= 0:
        return None
    held = [event.memory_bytes for event in steps if event.memory_bytes is not None]
    return Measured(
        steps=steps[-1].step - steps[0].step,
        step_s=tuple(times),
        tokens_per_s=(steps[-1].tokens - steps[0].tokens) / seconds,
        memory_bytes=max(held, default=None),
        checkpoint_s=max((save.seconds for save in saves), default=None),
    )


def with_measured(trial: Calibration, measured: Measured) -> Calibration:
    """A trial of this machine, corrected by the steps of a rehearsal here."""
    train = trial.stages.get("train")
    if train is None:
        return trial
    speed = StageSpeed.model_validate({**train.model_dump(), "seconds_per_unit": measured.step_s})
    saving = trial.checkpoint_s if measured.checkpoint_s is None else measured.checkpoint_s
    return trial.model_copy(
        update={"stages": {**trial.stages, "train": speed}, "checkpoint_s": saving}
    )
