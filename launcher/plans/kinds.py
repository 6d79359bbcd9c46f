"""Kinds of machines, and whether the work of a run can be done on them. Pure."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from launcher.estimate.gpus import Gpu
from launcher.estimate.memory import generating_need, training_need
from launcher.estimate.work import Machine
from launcher.plans.work_of import Work
from recipes.recipe import Training

LOSS_PIECE_BYTES = 2**26
"""The worker takes the loss in pieces whose logits are so large in float32 [bytes]."""


@dataclass(frozen=True)
class Kind:
    """Machines on which the same run takes equally long, whatever they cost."""

    gpu: Gpu
    gpus_per_node: int
    nodes: int
    spot: bool

    @property
    def gpus(self) -> int:
        return self.gpus_per_node * self.nodes

    @property
    def machine(self) -> Machine:
        return Machine(self.gpu, self.gpus_per_node, self.nodes)

    def __str__(self) -> str:
        nodes = f" on {self.nodes} machines" if self.nodes > 1 else ""
        return f"{self.gpu.name}:{self.gpus_per_node}{nodes}"


def why_not(work: Work, kind: Kind) -> str | None:
    """Why the work cannot be done there; `None` where it can."""
    gpu, training = kind.gpu, work.recipe.training
    if gpu.name.startswith("MI"):
        return "the node's setup installs PyTorch for NVIDIA only"
    if not gpu.bf16 and training.dtype == "bfloat16":
        return f"{gpu.name} does not compute in bfloat16, which training.dtype asks for"
    need = training_need(
        work.student,
        longest_tokens=work.longest_tokens,
        samples_at_once=samples_at_once(work, kind.gpus),
        gpus=kind.gpus,
        recompute=training.gradient_checkpointing,
        loss_chunk_tokens=max(64, LOSS_PIECE_BYTES // (4 * work.student.vocab)),
        computes_in=training.dtype,
    )
    if need.short_by(gpu):
        return _too_small("training", need.total, gpu)
    return _cannot_write(work, gpu)


def _cannot_write(work: Work, gpu: Gpu) -> str | None:
    for answers in (*([work.generation] if work.generation else []), *work.exams):
        at_once = min(answers.at_once, answers.count)
        length = answers.prompt_tokens + answers.most_tokens
        need = generating_need(
            answers.model, tokens_at_once=at_once * length, computes_in=answers.computes_in
        )
        if need.short_by(gpu):
            doing = (
                f"{at_once} answers of {answers.most_tokens:,} tokens at once "
                f"({answers.field}.batch_size)"
            )
            return _too_small(doing, need.total, gpu)
    return None


def _too_small(doing: str, needed: float, gpu: Gpu) -> str:
    has = gpu.memory_bytes
    return (
        f"{doing} needs {needed / 1e9:,.0f} GB on each GPU, {(needed - has) / 1e9:,.1f} more than "
        f"the {has / 1e9:,.0f} of {gpu.name}"
    )


def samples_at_once(work: Work, gpus: int) -> int:
    """Samples in one forward pass of a GPU, as the worker shares a step out."""
    return Sharing.of(work.recipe.training, work.samples_a_step, gpus).at_once


class Sharing(NamedTuple):
    """How the worker shares a step out over GPUs."""

    at_once: int
    """Samples in one forward pass of a GPU."""
    rounds: int
    """Passes of a step."""
    slower: float
    """All wait for those that have more to do: so many times longer than shared evenly."""

    @classmethod
    def of(cls, training: Training, samples_a_step: int, gpus: int) -> "Sharing":
        """
        >>> Sharing.of(Training(steps=1, batch_size=6, learning_rate=1.0), 6, gpus=4)
        Sharing(at_once=2, rounds=1, slower=1.3333333333333333)
        """
        wanted = training.micro_batch_size or samples_a_step
        at_once = min(wanted, math.ceil(samples_a_step / gpus))
        rounds = math.ceil(math.ceil(samples_a_step / at_once) / gpus)
        return cls(at_once, rounds, rounds * gpus * at_once / samples_a_step)
