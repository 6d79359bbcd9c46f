"""Which samples make up which step: a pure function of lengths, batch size, seed and step.

Every sample comes once an epoch. Samples of like length share a batch, so that little is spent on
padding; the sorting stays inside windows of a few batches, and the batches of an epoch are
shuffled, so that the order shows no trend. A resumed run asks for step k and needs no replay.
"""

import random
from collections.abc import Sequence
from math import ceil
from typing import TypeVar

from recipes.recipe import ApiTeacher, ModelTeacher, Recipe

Item = TypeVar("Item")

WINDOW_BATCHES = 16
"""Batches among which samples are sorted by length."""

WORTH_SORTING = 1.1
"""Samples are sorted where padding all to the longest would make so many times the tokens.

Below that there is nothing to gain, and something to lose: a token more or less may be what tells
two kinds of samples apart, and a batch of one kind only is a worse lesson (see docs/log.md).
"""


class Batches:
    """The steps of a training over samples of these lengths [tokens]."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        if not lengths:
            raise ValueError("there are no samples to make batches of")
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._shown: tuple[int, list[list[int]]] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every sample comes once; the odd ones make a smaller batch."""
        return ceil(len(self._lengths) / self._batch_size)

    def steps(self, epochs: float) -> int:
        """Steps in so many passes over the samples, at least one."""
        return max(1, round(epochs * self.steps_per_epoch))

    def at(self, step: int) -> list[int]:
        """Numbers of the samples of a step (from 0)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._shown is None or self._shown[0] != epoch:
            self._shown = epoch, self._epoch(epoch)
        return self._shown[1][position]

    def _epoch(self, epoch: int) -> list[list[int]]:
        # Seeded by text, which Random hashes: neighbouring epochs have nothing in common.
        chance = random.Random(f"{self._seed} {epoch}")  # noqa: S311 - an order, not a secret
        order = list(range(len(self._lengths)))
        chance.shuffle(order)
        whole = len(order) - len(order) % self._batch_size
        window = WINDOW_BATCHES * self._batch_size
        batches: list[list[int]] = []
        for start in range(0, whole, window):
            batches += self._cut(order[start : min(start + window, whole)])
        # The odd ones are a fair sample, and not the longest of the last window.
        batches += self._cut(order[whole:])
        chance.shuffle(batches)
        return batches

    def _cut(self, samples: list[int]) -> list[list[int]]:
        lengths = [self._lengths[sample] for sample in samples]
        if lengths and max(lengths) * len(lengths) > WORTH_SORTING * sum(lengths):
            samples = sorted(samples, key=lambda sample: (self._lengths[sample], sample))
        return [
            samples[at : at + self._batch_size] for at in range(0, len(samples), self._batch_size)
        ]


def planned_samples(recipe: Recipe, rows: int) -> int:
    """Samples that so many rows of data come to, with every answer counted as usable."""
    if isinstance(recipe.teacher, ModelTeacher | ApiTeacher):
        return rows * recipe.teacher.sampling.samples_per_prompt
    return rows


def planned_steps(recipe: Recipe, rows: int) -> int:
    """Steps of the whole training over so many rows of data."""
    training = recipe.training
    if training.steps is not None:
        return training.steps
    lengths = [0] * planned_samples(recipe, rows)
    return Batches(lengths, training.batch_size, training.seed).steps(training.epochs or 1)


def share(
    batch: Sequence[Item], micro_batch_size: int | None, rank: int = 0, world: int = 1
) -> list[Sequence[Item]]:
    """One process's micro-batches of a step.

    All processes get equally many, since they meet in each; one with nothing left gets an empty
    one. Neighbours in length are worked on at the same time.

    >>> share([3, 1, 4, 2, 0], micro_batch_size=2, rank=1, world=2)
    [[4, 2], []]
    """
    size = min(micro_batch_size or len(batch), ceil(len(batch) / world))
    pieces = [batch[start : start + size] for start in range(0, len(batch), size)]
    rounds = ceil(len(pieces) / world)
    pieces += [batch[:0]] * (rounds * world - len(pieces))
    return pieces[rank::world]
