"""A student that learns: one optimiser step at a time, and its state as something one can save."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from distill.batching import share
from distill.context import WorkerError
from distill.loss import CompletionLoss, collate, head_is_plain, tokens_with_loss
from distill.team import Team
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
    """Model and optimiser. Weights and optimiser are float32; passes run in the recipe's format.

    Of several processes each holds a part of the weights, and calls everything here at the same
    time as the others.
    """

    def __init__(
        self, model: "PreTrainedModel", training: Training, device: str, team: Team
    ) -> None:
        if training.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model = model
        self.parameters: int = sum(parameter.numel() for parameter in model.parameters())
        """How many numbers there are to learn."""
        self.steps = 0
        """Steps done."""
        self.tokens = 0
        """Tokens that went through, padding aside."""
        self.completion_tokens = 0
        """Of these, tokens with a loss."""
        self._training = training
        self._device = device
        self._team = team
        self._loss = CompletionLoss(model, team.share(lambda: head_is_plain(model))).train()
        if team.world > 1:
            self._split()
        self._optimizer = _adamw(model, training)

    def step(self, batch: Sequence[Sample], rate: float) -> StepResult:
        """Learn from a batch. Each token with a loss weighs the same, however the batch is cut.

        Raises:
            WorkerError: loss or gradient is no number; the weights are as before.
        """
        team, training = self._team, self._training
        # A step's random numbers (dropout) follow from its number, so none have to be saved.
        torch.manual_seed(((training.seed << 32) + self.steps) ^ (team.rank << 40))
        completion_tokens = sum(map(tokens_with_loss, batch))
        loss = torch.zeros((), device=self._device)
        for samples in share(batch, training.micro_batch_size, team.rank, team.world):
            # One with nothing left goes along all the same: the others wait for it in every layer.
            ids, labels = collate(samples or batch[:1], self._device)
            with self._autocast():
                part = self._loss(ids, labels) / completion_tokens * bool(samples)
            part.backward()
            loss += part.detach()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), training.max_grad_norm)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        result = StepResult(team.add(loss).item(), norm.item())
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
        """The model's weights by name, each once (a tied head goes by its embedding's name).

        Whole in the first process, and empty in the others.
        """
        return {name: self._team.whole(value) for name, value in self._kept().items()}

    def state(self) -> dict[str, Any]:
        """Everything that later steps depend on; its tensors as with `weights`."""
        moments = {
            name: {
                key: self._team.whole(value)
                for key, value in self._optimizer.state[parameter].items()
            }
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
    def load(self, state: dict[str, Any] | None) -> None:
        """Go on from what `state` returned, here or in another number of processes.

        Args:
            state: `None` in all processes but the first.
        """
        counters = ("steps", "tokens", "completion_tokens")
        counts = self._team.share(lambda: [state[name] for name in counters] if state else [])
        self.steps, self.tokens, self.completion_tokens = counts
        weights, optimizer = (state["weights"], state["optimizer"]) if state else ({}, {})
        for name, value in self._kept().items():
            value.copy_(self._team.part(weights.get(name), value))
        # A parameter that no gradient has reached yet has none, as in a run that never stopped.
        moved = self._team.share(lambda: {name for name, moments in optimizer.items() if moments})
        for name, parameter in self.model.named_parameters():
            if name not in moved:
                continue
            moments = optimizer.get(name, {})
            count = torch.zeros((), device=parameter.device)
            likes = {"step": count, "exp_avg": parameter, "exp_avg_sq": parameter}
            self._optimizer.state[parameter] = {
                key: self._team.part(moments.get(key), like) for key, like in likes.items()
            }

    def _kept(self) -> dict[str, Tensor]:
        """Parameters and lasting buffers, each once; this process's part of them."""
        lasting = self.model.state_dict().keys()
        return {name: value for name, value in self._everything().items() if name in lasting}

    def _everything(self) -> dict[str, Tensor]:
        named = [*self.model.named_parameters(), *self.model.named_buffers()]
        return {name: value.detach() for name, value in named}

    @torch.no_grad()
    def _split(self) -> None:
        """Give each process its part of the weights that the first one holds."""
        source = self._everything() if self._team.rank == 0 else {}
        kinds = self.model._no_split_modules or ()
        layers = [module for module in self.model.modules() if type(module).__name__ in kinds]
        self._team.split(self._loss, layers, DTYPES[self._training.dtype])
        for name, value in self._everything().items():
            value.copy_(self._team.part(source.get(name), value))

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
