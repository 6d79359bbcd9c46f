"""A student that learns: one optimiser step at a time, and its state as something one can save."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from distill.batching import share
from distill.context import WorkerError
from distill.loss import CompletionLoss, collate, head_is_plain, tokens_with_loss
from distill.text import Sample
from recipes.recipe import Training

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class StepResult:
    loss: float
    """Mean over the step's completion tokens [nats]."""
    grad_norm: float
    """Of all gradients together, before clipping."""


class Learner:
    """Model and optimiser. Weights and optimiser are float32; passes run in the recipe's format."""

    def __init__(self, model: "PreTrainedModel", training: Training, device: str) -> None:
        if training.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model = model
        self.steps = 0
        """Steps done."""
        self.tokens = 0
        """Tokens that went through, padding aside."""
        self.completion_tokens = 0
        """Of these, tokens with a loss."""
        self._training = training
        self._device = device
        self._loss = CompletionLoss(model, head_is_plain(model)).train()
        self._optimizer = _adamw(model, training)

    def step(self, batch: Sequence[Sample], rate: float) -> StepResult:
        """Learn from a batch. Each token with a loss weighs the same, however the batch is cut.

        Raises:
            WorkerError: loss or gradient is no number; the weights are as before.
        """
        # A step's random numbers (dropout) follow from its number, so none have to be saved.
        torch.manual_seed((self._training.seed << 32) + self.steps)
        completion_tokens = sum(map(tokens_with_loss, batch))
        loss = torch.zeros((), device=self._device)
        for samples in share(batch, self._training.micro_batch_size):
            ids, labels = collate(samples, self._device)
            with self._autocast():
                part = self._loss(ids, labels) / completion_tokens
            part.backward()
            loss += part.detach()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._training.max_grad_norm)
        result = StepResult(loss.item(), norm.item())
        self._check(result)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.steps += 1
        self.tokens += sum(len(sample.input_ids) for sample in batch)
        self.completion_tokens += completion_tokens
        return result

    def weights(self) -> dict[str, Tensor]:
        """The model's weights by name, each once (a tied head goes by its embedding's name)."""
        kept = self.model.state_dict().keys()
        buffers = {name: value for name, value in self.model.named_buffers() if name in kept}
        return {name: value.detach() for name, value in self.model.named_parameters()} | buffers

    def state(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        moments = {
            name: dict(self._optimizer.state[parameter])
            for name, parameter in self.model.named_parameters()
        }
        return {
            "steps": self.steps,
            "tokens": self.tokens,
            "completion_tokens": self.completion_tokens,
            "weights": self.weights(),
            "optimizer": moments,
        }

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        for name, value in self.weights().items():
            value.copy_(state["weights"][name])
        for name, parameter in self.model.named_parameters():
            moments = state["optimizer"][name]
            self._optimizer.state[parameter] = {
                key: value.to(parameter.device) for key, value in moments.items()
            }
        self.steps = state["steps"]
        self.tokens = state["tokens"]
        self.completion_tokens = state["completion_tokens"]

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = DTYPES[self._training.dtype]
        kind = torch.device(self._device).type
        return torch.autocast(kind, dtype=dtype, enabled=dtype != torch.float32)

    def _check(self, result: StepResult) -> None:
        if math.isfinite(result.loss) and math.isfinite(result.grad_norm):
            return
        raise WorkerError(
            "not_finite",
            f"step {self.steps + 1} has a loss of {result.loss} and a gradient of norm "
            f"{result.grad_norm}, so the training has come apart",
            f"Lower training.learning_rate (is {self._training.learning_rate:g}) or raise "
            f"training.warmup_share (is {self._training.warmup_share:g}).",
        )


def _adamw(model: "PreTrainedModel", training: Training) -> torch.optim.AdamW:
    """Weight decay on matrices only: norms and biases have no business being near zero."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    vectors = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": training.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=training.learning_rate,
        betas=training.betas,
        fused=True,
    )
