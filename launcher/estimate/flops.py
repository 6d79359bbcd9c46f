"""FLOPs of a token: trained on, read as a prompt, written.

A multiplication and the addition after it are two FLOPs. A parameter costs two of them forward and
four backward: two for the gradient of its input, two for its own (Kaplan et al. 2020, arXiv
2001.08361, section 2.1). Attention between tokens comes on top; a token sees half of its sample on
average, because it does not look ahead.

*Model* FLOPs are what the mathematics needs; MFU counts these. *Hardware* FLOPs add what is
computed a second time to save memory; the clock counts these.
"""

from dataclasses import dataclass
from typing import Literal

Method = Literal["full", "lora", "qlora"]

FLOAT32_SLOWDOWN = 16.0
"""Products in float32 beside bfloat16: 67 against 989 TFLOP/s on an H100, 19.5 against 312 on an
A100 (NVIDIA's datasheets)."""


@dataclass(frozen=True)
class TokenFlops:
    """FLOPs for one token [FLOP/token]."""

    model: float
    hardware: float
    """`model`, and what is computed twice."""


def training_flops(
    *,
    active_params: float,
    layers: int,
    attention_width: int,
    context_tokens: float,
    method: Method = "full",
    trainable_params: float = 0.0,
    recompute: bool = False,
    teacher_params: float = 0.0,
) -> TokenFlops:
    """FLOPs to train on one token, forward and backward.

    Full training takes 6 for each parameter. LoRA and QLoRA keep the base frozen, which needs no
    gradient of its own: 4, and 6 for each adapter parameter. Recomputing activations repeats the
    forward pass. All parameters count, the input embedding too, as papers do it.

    Args:
        active_params: parameters a token passes through, base and embedding [parameters].
        layers: transformer blocks.
        attention_width: heads times their width.
        context_tokens: length of a sample, over which attention looks [tokens].
        method: which parameters learn.
        trainable_params: parameters of adapters, with LoRA and QLoRA [parameters].
        recompute: activations are computed again in the backward pass (gradient checkpointing).
        teacher_params: active parameters of a frozen teacher that reads every token too, where
            its logits are learnt from [parameters].

    s1, a 32B model on samples of 4,700 tokens, with activation recomputation:

    >>> s1 = training_flops(active_params=32.76e9, layers=64, attention_width=5120,
    ...                     context_tokens=4700, recompute=True)
    >>> f"{s1.model:.3g} {s1.hardware:.3g}"
    '2.06e+11 2.74e+11'
    """
    attention = 2.0 * context_tokens * attention_width * layers
    forward = 2 * (active_params + trainable_params) + attention
    own_gradients = 2 * (active_params if method == "full" else trainable_params)
    model = 2 * forward + attention + own_gradients + 2 * teacher_params
    return TokenFlops(model, model + forward if recompute else model)


def prompt_flops(
    *, active_params: float, layers: int, attention_width: int, prompt_tokens: float
) -> float:
    """FLOPs to read one token of a prompt [FLOP/token].

    >>> prompt_flops(active_params=8e9, layers=32, attention_width=4096, prompt_tokens=512) / 1e9
    16.134217728
    """
    return 2 * active_params + 2 * prompt_tokens * attention_width * layers


def written_flops(
    *, active_params: float, layers: int, attention_width: int, tokens_before: float
) -> float:
    """FLOPs to write one token after `tokens_before` others [FLOP/token].

    >>> written_flops(active_params=8e9, layers=32, attention_width=4096, tokens_before=512) / 1e9
    16.268435456
    """
    return 2 * active_params + 4 * tokens_before * attention_width * layers
