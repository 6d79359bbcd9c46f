"""What is trained, and on what: the two things that an estimate of training is made from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from launcher.estimate.flops import Method, TokenFlops, training_flops
from launcher.estimate.gpus import Gpu
from launcher.estimate.models import ModelFacts

Precision = Literal["half", "fp8"]
"""Of the matrix products: bfloat16 or float16, or 8-bit floating point."""

Kernels = Literal["native", "compiled", "eager"]
"""native: written or tuned for the chip (Transformer Engine, NeMo, llm.c, MLPerf entries).
compiled: torch.compile, or a trainer made for large scale (torchtune, llm-foundry, Megatron-LM).
eager: plain modules, one kernel after the other (transformers, TRL, DeepSpeed, FSDP)."""

Fusion = Literal["nothing", "attention", "attention_and_loss"]
"""What an eager stack fuses. Attention is fused by default in transformers since December 2023."""


@dataclass(frozen=True)
class TrainingWork:
    """The work of a training run, whatever it runs on.

    Raises:
        ValueError: tokens, parameters or layers that are not above 0; more active parameters than
            there are.
    """

    train_tokens: float
    """Tokens that pass through the student over all epochs, padding aside [tokens]."""
    params: float
    """All of its parameters [parameters]."""
    active_params: float
    """Those that a token passes through; fewer in a mixture of experts [parameters]."""
    layers: int
    attention_width: int
    """Heads times their width."""
    sample_tokens: float
    """Mean length of a sample; of a pack, where samples are packed [tokens]."""
    packed: bool
    """Samples are joined to packs of one length, so that nothing is padded."""
    step_tokens: float
    """Tokens between two steps of the optimiser, over all GPUs [tokens]."""
    method: Method = "full"
    trainable_params: float = 0.0
    """Of adapters, with LoRA and QLoRA [parameters]."""
    recompute: bool = False
    """Activations are computed again in the backward pass (gradient checkpointing)."""
    precision: Precision = "half"
    kernels: Kernels = "eager"
    fusion: Fusion = "attention"
    offloaded: bool = False
    """Weights or optimiser live in the memory of the host."""
    learns_logits: bool = False
    """The loss compares with a teacher's distribution and not with text alone."""
    teacher_params: float = 0.0
    """Active parameters of a teacher that reads along while the student learns [parameters]."""
    steady_state: bool = False
    """Only the rate is asked for: no start, no evaluation, no saving in between."""
    framework: str = "stillhouse"
    """Runs of the same framework tend to be off in the same direction."""
    setup: str = ""
    """Names work that was measured already; the same name and machine take that measurement."""

    def __post_init__(self) -> None:
        for name in ("train_tokens", "active_params", "layers", "sample_tokens", "step_tokens"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, is {getattr(self, name)}")
        if self.active_params > self.params:
            raise ValueError(f"active_params {self.active_params} are more than {self.params}")

    @classmethod
    def of_model(
        cls,
        model: ModelFacts,
        *,
        train_tokens: float,
        sample_tokens: float,
        samples_per_step: float,
        packed: bool = False,
        **rest: Any,
    ) -> Self:
        """The work of training `model`; `rest` are further fields."""
        return cls(
            train_tokens=train_tokens,
            params=model.params,
            active_params=model.active_params,
            layers=model.layers,
            attention_width=model.attention_width,
            sample_tokens=sample_tokens,
            packed=packed,
            step_tokens=samples_per_step * sample_tokens,
            **rest,
        )

    @cached_property
    def flops(self) -> TokenFlops:
        """FLOPs for one token [FLOP/token]."""
        return training_flops(
            active_params=self.active_params,
            layers=self.layers,
            attention_width=self.attention_width,
            context_tokens=self.sample_tokens,
            method=self.method,
            trainable_params=self.trainable_params,
            recompute=self.recompute,
            teacher_params=self.teacher_params,
        )


@dataclass(frozen=True)
class Machine:
    """GPUs of one kind in equal nodes."""

    gpu: Gpu
    gpus_per_node: int
    nodes: int = 1

    @property
    def gpus(self) -> int:
        return self.gpus_per_node * self.nodes


@dataclass(frozen=True)
class Fleet:
    """Many machines at once, as columns: row i is one machine."""

    kinds: tuple[Gpu, ...]
    """The GPUs that occur."""
    kind: NDArray[np.int64]
    """Which of `kinds`."""
    gpus_per_node: NDArray[np.int64]
    nodes: NDArray[np.int64]

    @classmethod
    def of(cls, machines: Sequence[Machine]) -> Self:
        kinds = tuple(dict.fromkeys(machine.gpu for machine in machines))
        number = {gpu: index for index, gpu in enumerate(kinds)}
        return cls(
            kinds,
            np.array([number[machine.gpu] for machine in machines], dtype=np.int64),
            np.array([machine.gpus_per_node for machine in machines], dtype=np.int64),
            np.array([machine.nodes for machine in machines], dtype=np.int64),
        )

    @property
    def gpus(self) -> NDArray[np.int64]:
        return self.gpus_per_node * self.nodes

    def __len__(self) -> int:
        return len(self.kind)

    def distinct(self) -> tuple["Fleet", NDArray[np.int64]]:
        """Each machine once, and for every row which of these it is."""
        sizes = int(self.gpus_per_node.max(initial=0)) + 1, int(self.nodes.max(initial=0)) + 1
        keys = (self.kind * sizes[0] + self.gpus_per_node) * sizes[1] + self.nodes
        _, first, which = np.unique(keys, return_index=True, return_inverse=True)
        fleet = Fleet(self.kinds, self.kind[first], self.gpus_per_node[first], self.nodes[first])
        return fleet, which.astype(np.int64)
