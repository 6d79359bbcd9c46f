"""How fast a training goes, and its loss: measured at each step, said about twice a second."""

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from distill.context import Context
from distill.flops import peak_flops_per_s, shape_of
from distill.learner import Learner, StepResult
from distill.loss import tokens_with_loss
from distill.models import device_name
from distill.text import Sample
from recipes.rundir import Progress, TrainStep

SAY_EVERY_S = 0.5


@dataclass
class _Since:
    """What was done since the last word."""

    began: float
    steps: int = 0
    tokens: int = 0
    flops: float = 0.0


class Meter:
    """Watches a learner; the clock runs from the making of the meter."""

    def __init__(self, context: Context, learner: Learner, steps: int) -> None:
        training = context.recipe.training
        self.step_s = 0.0
        """Seconds to allow for one more step: the longest of late."""
        self._context = context
        self._learner = learner
        self._steps = steps
        self._shape = shape_of(learner.model)
        self._peak = peak_flops_per_s(device_name(context.device), training.dtype)
        self._last = time.perf_counter()
        self._since = _Since(self._last)
        self._has_said = False

    def count(self, batch: Sequence[Sample], result: StepResult, rate: float) -> None:
        """A step is done: of these samples, with this result, at this learning rate."""
        now = time.perf_counter()
        # The first steps are slow (kernels are chosen, memory is taken) and soon forgotten.
        self.step_s = max(now - self._last, 0.9 * self.step_s)
        self._last = now
        lengths = [len(sample.input_ids) for sample in batch]
        completion_tokens = sum(map(tokens_with_loss, batch))
        self._since.steps += 1
        self._since.tokens += sum(lengths)
        self._since.flops += self._shape.training_flops(lengths, completion_tokens)
        is_last = self._learner.steps == self._steps
        if is_last or not self._has_said or now - self._since.began >= SAY_EVERY_S:
            self._say(result, rate, max(now - self._since.began, 1e-9))
            self._since, self._has_said = _Since(now), True

    def _say(self, result: StepResult, rate: float, seconds: float) -> None:
        since, steps = self._since, self._learner.steps
        tokens_per_s = since.tokens / seconds
        peak = None if self._peak is None else self._peak * self._context.world
        self._context.say(
            TrainStep,
            step=steps,
            steps=self._steps,
            loss=result.loss,
            learning_rate=rate,
            grad_norm=result.grad_norm,
            tokens=self._learner.tokens,
            completion_tokens=self._learner.completion_tokens,
            tokens_per_s=tokens_per_s,
            mfu=None if peak is None else since.flops / seconds / peak,
            memory_bytes=_memory_bytes(self._context.device),
        )
        self._context.say(
            Progress,
            stage="train",
            done=steps,
            total=self._steps,
            unit="steps",
            tokens_per_s=tokens_per_s,
            left_s=(self._steps - steps) * seconds / since.steps,
        )


def _memory_bytes(device: str) -> int:
    """The most that was held so far, by tensors on the GPU or by the whole process [bytes]."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
