"""Arithmetic of training: how much a step needs, and how much a GPU could do.

Model FLOPs are what the mathematics asks for, whatever the program really does: activations that
are computed again do not count (Chowdhery et al. 2022, "PaLM", appendix B). A multiply-add is 2.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Dense bf16 peak [FLOP/s], from NVIDIA's and AMD's datasheets as collected in
# stas00/ml-engineering (compute/accelerator) and karpathy/nanochat (common.py). All words must be
# in the GPU's name; the first line that fits counts. Left out: GPUs without bf16 (T4, V100), and
# those whose sources contradict each other (A10G).
PEAK_BF16: tuple[tuple[tuple[str, ...], float], ...] = (
    (("GB200",), 2500e12),
    (("B200",), 2250e12),
    (("B300",), 2250e12),
    (("H200",), 989e12),
    (("H100", "NVL"), 835e12),
    (("H100", "PCIe"), 756e12),
    (("H100",), 989e12),
    (("A100",), 312e12),
    (("L40S",), 362e12),
    (("L4",), 121e12),
    (("A40",), 149.7e12),
    (("RTX 5090",), 209.5e12),
    (("RTX 4090",), 165.2e12),
    (("RTX 3090",), 71e12),
    (("MI300X",), 1307e12),
)


def peak_flops_per_s(gpu: str, dtype: str) -> float | None:
    """Dense peak of one GPU by its name [FLOP/s]; `None` where it is not known, as for CPUs.

    >>> peak_flops_per_s("NVIDIA H100 80GB HBM3", "bfloat16")
    989000000000000.0
    """
    if dtype != "bfloat16":
        return None
    known = (peak for words, peak in PEAK_BF16 if _is_named(gpu, words))
    return next(known, None)


def _is_named(gpu: str, words: tuple[str, ...]) -> bool:
    # Whole words, so that an L40 is no L4 and an A4000 no A40.
    spaced = f" {gpu.replace('-', ' ')} "
    return all(f" {word} " in spaced for word in words)


@dataclass(frozen=True)
class Shape:
    """What of a model the arithmetic depends on."""

    body_parameters: int
    """That every token is multiplied with; of experts, only those it is sent to."""

    head_parameters: int
    """Hidden size times vocabulary: for tokens with a loss only."""

    layers: int
    attention_width: int
    """Heads times head size."""

    def training_flops(self, lengths: Iterable[int], completion_tokens: int) -> float:
        """Forward and backward over samples of these lengths [tokens], in FLOPs.

        6 for each parameter and token, and 6 x layers x width x length squared for causal attention
        (two products of T x T / 2 x width, forward once and backward twice). Norms, rotations and
        the optimiser are left out, below 1 % from hidden sizes of a few hundred up.

        >>> Shape(1_000_000, 50_000, 2, 64).training_flops([100], completion_tokens=40)
        619680000.0
        """
        tokens = squares = 0
        for length in lengths:
            tokens += length
            squares += length * length
        dense = 6 * (self.body_parameters * tokens + self.head_parameters * completion_tokens)
        return float(dense + 6 * self.layers * self.attention_width * squares)


def shape_of(model: "PreTrainedModel") -> Shape:
    """The shape of a causal language model, from its weights and its config."""
    config = model.config.get_text_config()
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    body = sum(
        parameter.numel() * _active_share(name, config)
        for name, parameter in model.named_parameters()
        if parameter is not embedding and parameter is not head
    )
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Shape(round(body), head.numel(), config.num_hidden_layers, heads * head_size)


def _active_share(name: str, config: object) -> float:
    experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
    chosen = getattr(config, "num_experts_per_tok", None)
    return chosen / experts if experts and chosen and ".experts." in name else 1.0
