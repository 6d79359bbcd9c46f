"""Bytes that a run needs on one GPU, line by line, and whether they fit.

Training is counted as our worker does it: learnt weights, gradients and AdamW's two moments in
float32, forward and backward in bfloat16 unless float32 is asked for. Over several GPUs everything
is sharded (FSDP, ZeRO-3) and whole only for the layers at work. Activations are counted from the
shape of a layer with fused attention: what autograd keeps for the backward pass. It is an estimate;
the margin is a line too.
"""

from dataclasses import dataclass, fields
from typing import Literal

from launcher.estimate.flops import Method
from launcher.estimate.gpus import Gpu
from launcher.estimate.models import ModelFacts

GB = 1e9

FLOAT32 = 4.0
HALF = 2.0

NumberFormat = Literal["float32", "bfloat16"]
"""What a model computes in."""

VALUE_BYTES: dict[NumberFormat, float] = {"float32": FLOAT32, "bfloat16": HALF}

NF4 = 0.516
"""Bytes of a weight in 4-bit NormalFloat with double quantisation: 4.127 bits (Dettmers et al.
2023, arXiv 2305.14314, section 3)."""

LOGIT_COPIES = 2 * FLOAT32
"""Bytes for each logit at the loss beside the logit itself: a float32 copy, and its log-softmax or
gradient."""

CONTEXT_BYTES = 1.5 * GB
"""The GPU's context, and what libraries for matrices and communication keep for themselves."""

MARGIN = 0.05
"""Share of everything else that the allocator loses between blocks."""


@dataclass(frozen=True)
class Need:
    """What one GPU has to hold [bytes]."""

    weights: float
    gradients: float = 0.0
    optimizer: float = 0.0
    layers_at_work: float = 0.0
    """Layers gathered from all GPUs, or cast to bfloat16, while they compute."""
    activations: float = 0.0
    loss_or_layer: float = 0.0
    """Logits at the loss. With recomputation the larger of these and one layer computed again,
    since the two are never there together."""
    kv_cache: float = 0.0
    context: float = CONTEXT_BYTES

    @property
    def total(self) -> float:
        """All lines and the margin [bytes]."""
        lines = sum(float(getattr(self, line.name)) for line in fields(self))
        return lines + MARGIN * (lines - self.context)

    def short_by(self, gpu: Gpu) -> float:
        """Bytes that are missing on `gpu`; 0 where it fits."""
        return max(0.0, self.total - gpu.memory_bytes)


def training_need(
    model: ModelFacts,
    *,
    longest_tokens: int,
    samples_at_once: int = 1,
    gpus: int = 1,
    method: Method = "full",
    trainable_params: float = 0.0,
    recompute: bool = False,
    loss_chunk_tokens: int | None = None,
    optimizer_bytes: float = 8.0,
    teacher: ModelFacts | None = None,
    computes_in: NumberFormat = "bfloat16",
) -> Need:
    """Memory of one GPU that trains.

    Args:
        model: what is trained, or what adapters are put on.
        longest_tokens: the longest sample [tokens]; a batch is padded to it.
        samples_at_once: samples in one forward pass on one GPU.
        gpus: how many share the weights.
        method: full; LoRA over bfloat16 weights; QLoRA over 4-bit weights.
        trainable_params: parameters of adapters, with LoRA and QLoRA.
        recompute: keep only what enters each layer (gradient checkpointing).
        loss_chunk_tokens: logits at the same time, where the loss works in chunks.
        optimizer_bytes: for each learnt parameter; AdamW 8, in 8 bits 2.
        teacher: a frozen model that reads the same tokens.
        computes_in: of both passes; what is learnt is float32 either way.

    The published boundary of s1.1 (32B, 16 H100, gradient checkpointing): samples of 32,768 tokens
    ran out of memory and 20,000 did not.

    >>> from launcher.estimate.gpus import find_gpu
    >>> from launcher.estimate.models import find_model
    >>> def short_gb(tokens):
    ...     need = training_need(find_model("Qwen/Qwen2.5-32B"), longest_tokens=tokens, gpus=16,
    ...                          recompute=True)
    ...     return round(need.short_by(find_gpu("H100")) / 1e9)
    >>> short_gb(32_768), short_gb(20_000)
    (29, 0)
    """
    tokens, value_bytes = longest_tokens * samples_at_once, VALUE_BYTES[computes_in]
    learnt = float(model.params) if method == "full" else trainable_params
    base = 0.0 if method == "full" else _frozen_bytes(model, method)
    teacher_bytes = teacher.params * HALF if teacher else 0.0
    logit_tokens = min(tokens, loss_chunk_tokens) if loss_chunk_tokens else tokens
    logits = logit_tokens * model.vocab * (value_bytes + LOGIT_COPIES)
    layer = tokens * layer_bytes(model, computes_in)
    return Need(
        weights=(learnt * FLOAT32 + base + teacher_bytes) / gpus,
        gradients=learnt * FLOAT32 / gpus,
        optimizer=learnt * optimizer_bytes / gpus,
        layers_at_work=_layers_at_work(model, method, gpus, computes_in),
        activations=tokens * model.layers * model.hidden * value_bytes
        if recompute
        else model.layers * layer,
        loss_or_layer=max(logits, layer) if recompute else logits,
    )


def generating_need(
    model: ModelFacts,
    *,
    tokens_at_once: float,
    gpus: int = 1,
    computes_in: NumberFormat = "bfloat16",
) -> Need:
    """Memory of one GPU that writes text, with the weights split over `gpus`.

    Args:
        model: what writes.
        tokens_at_once: prompt and answer of all samples that are under way [tokens].
        gpus: how many hold one copy of the model together.
        computes_in: its weights and its cache are in the same format.

    Qwen2.5-7B, 64 samples of 2,000 tokens at once:

    >>> from launcher.estimate.models import find_model
    >>> need = generating_need(find_model("Qwen/Qwen2.5-7B"), tokens_at_once=64 * 2000)
    >>> round(need.kv_cache / 1e9, 1), round(need.total / 1e9, 1)
    (7.3, 25.2)
    """
    value_bytes = VALUE_BYTES[computes_in]
    return Need(
        weights=model.params * value_bytes / gpus,
        kv_cache=tokens_at_once * model.kv_values_per_token * value_bytes / gpus,
    )


def layer_bytes(model: ModelFacts, computes_in: NumberFormat = "bfloat16") -> float:
    """What autograd keeps of one token in one layer [bytes/token].

    The layer's input and what both norms make of it, queries, keys, values, the attention's
    result, and of the feed-forward layer gate, up, the activated gate and their product, for each
    expert that a token visits.

    Qwen2.5-7B, a sample of 4,096 tokens, all 28 layers:

    >>> from launcher.estimate.models import find_model
    >>> round(layer_bytes(find_model("Qwen/Qwen2.5-7B")) * 28 * 4096 / 1e9, 1)
    23.4
    """
    return VALUE_BYTES[computes_in] * (
        5 * model.hidden
        + 2 * model.attention_width
        + 2 * model.kv_heads * model.head_dim
        + 4 * model.intermediate * model.experts_per_token
    )


def _frozen_bytes(model: ModelFacts, method: Method) -> float:
    """The base under adapters. Four bits are for the layers; the embeddings stay in bfloat16."""
    embeddings = min(model.params, 2 * model.vocab * model.hidden)
    if method == "qlora":
        return (model.params - embeddings) * NF4 + embeddings * HALF
    return model.params * HALF


def _layers_at_work(
    model: ModelFacts, method: Method, gpus: int, computes_in: NumberFormat
) -> float:
    """One GPU: autocast keeps a bfloat16 copy of what learns. Several: the layer that computes and
    the next one, gathered, and the output embedding."""
    embedding = float(model.vocab * model.hidden)
    layer = (model.params - embedding) / model.layers
    if gpus > 1:
        return VALUE_BYTES[computes_in] * (2 * layer + embedding)
    if method == "full":
        return HALF * model.params if computes_in == "bfloat16" else 0.0
    return HALF * layer if method == "qlora" else 0.0
