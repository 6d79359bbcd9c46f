"""GPU-hours to write text: a teacher's answers, or a student's in an evaluation.

Reading prompts is bound by computing. Writing is bound by memory: for every step all weights and
the whole KV cache pass through the chip once, and each sample under way gains one token. What is
reached of both peaks, and the fixed cost of a step, are assumptions by engine and not a fit: the
spread is wide, and the first minutes of a run replace it.
"""

from dataclasses import dataclass
from typing import Literal

from launcher.estimate.flops import FLOAT32_SLOWDOWN, prompt_flops, written_flops
from launcher.estimate.gpus import Gpu
from launcher.estimate.memory import VALUE_BYTES, NumberFormat, generating_need
from launcher.estimate.models import ModelFacts
from launcher.estimate.quantiles import Quantiles

Engine = Literal["transformers", "vllm"]

COMPUTE_SHARE = 0.5
"""Of the peak, while prompts are read."""

BANDWIDTH_SHARE = 0.7
"""Of the memory's peak, while text is written."""

SECONDS_PER_LAYER: dict[Engine, float] = {"transformers": 8e-4, "vllm": 2e-5}
"""Fixed cost of one step in one layer [s]: launching kernels one by one, or replaying a graph."""

LOG_SD: dict[Engine, float] = {"transformers": 0.5, "vllm": 0.4}
"""Spread of the natural logarithm: an assumption, about a factor of two to both sides."""


@dataclass(frozen=True)
class Writing:
    """What has to be written."""

    answers: int
    prompt_tokens: float
    """Mean [tokens]."""
    answer_tokens: float
    """Mean [tokens]."""
    longest_answer_tokens: float
    """The longest of a batch [tokens]. An engine without continuous batching waits for it."""
    samples_at_once: int
    """Wanted for each copy of the model; fewer where memory ends."""
    engine: Engine = "transformers"
    computes_in: NumberFormat = "bfloat16"


@dataclass(frozen=True)
class WritingEstimate:
    gpu_hours: Quantiles
    """[GPU-hours]"""
    samples_at_once: int
    """For each copy of the model, as memory allows."""
    written_tokens_per_s: float
    """By one copy of the model, at P50 and while it writes [tokens/s]."""


def estimate_writing(
    model: ModelFacts, writing: Writing, gpu: Gpu, gpus_per_copy: int = 1
) -> WritingEstimate | None:
    """GPU-hours for all answers, or `None` where not even one sample fits in memory.

    Copies of the model work side by side on further GPUs: wall-clock hours are GPU-hours by the
    number of GPUs, as long as there are answers for all of them.

    A 7B model writes 1,000 answers of 500 tokens on one H100:

    >>> from launcher.estimate.gpus import find_gpu
    >>> from launcher.estimate.models import find_model
    >>> writing = Writing(answers=1000, prompt_tokens=200, answer_tokens=500,
    ...                   longest_answer_tokens=1000, samples_at_once=64)
    >>> estimate = estimate_writing(find_model("Qwen/Qwen2.5-7B"), writing, find_gpu("H100"))
    >>> round(estimate.gpu_hours.p50, 3), round(estimate.written_tokens_per_s)
    (0.132, 1067)
    """
    length = writing.prompt_tokens + writing.longest_answer_tokens
    at_once = _samples_that_fit(model, length, gpu, gpus_per_copy, writing.computes_in)
    at_once = min(at_once, writing.samples_at_once, writing.answers)
    if at_once < 1:
        return None
    reading_s = _reading_seconds(model, writing, gpu) / gpus_per_copy
    step_s = _step_seconds(model, writing, gpu, gpus_per_copy, at_once)
    steps_for_one = (
        writing.answer_tokens if writing.engine == "vllm" else writing.longest_answer_tokens
    )
    writing_s = step_s * steps_for_one * writing.answers / at_once
    hours = (reading_s + writing_s) * gpus_per_copy / 3600
    return WritingEstimate(
        gpu_hours=Quantiles.around(hours, LOG_SD[writing.engine]),
        samples_at_once=at_once,
        written_tokens_per_s=writing.answers * writing.answer_tokens / writing_s,
    )


def _samples_that_fit(
    model: ModelFacts, length: float, gpu: Gpu, gpus_per_copy: int, computes_in: NumberFormat
) -> int:
    empty, one = (
        generating_need(model, tokens_at_once=tokens, gpus=gpus_per_copy, computes_in=computes_in)
        for tokens in (0.0, length)
    )
    return int((gpu.memory_bytes - empty.total) // (one.total - empty.total))


def _reading_seconds(model: ModelFacts, writing: Writing, gpu: Gpu) -> float:
    each = prompt_flops(
        active_params=model.active_params,
        layers=model.layers,
        attention_width=model.attention_width,
        prompt_tokens=writing.prompt_tokens,
    )
    tokens = writing.answers * writing.prompt_tokens
    return each * tokens / _flops_per_s(writing, gpu)


def _flops_per_s(writing: Writing, gpu: Gpu) -> float:
    """What products reach while text is read or written."""
    slower = FLOAT32_SLOWDOWN if writing.computes_in == "float32" else 1.0
    return gpu.half_flops * COMPUTE_SHARE / slower


def _step_seconds(
    model: ModelFacts, writing: Writing, gpu: Gpu, gpus_per_copy: int, at_once: int
) -> float:
    """Seconds for one token of each sample under way: memory or computing, whichever is slower."""
    tokens_before = writing.prompt_tokens + writing.longest_answer_tokens / 2
    cached = at_once * tokens_before * model.kv_values_per_token
    moved = (_params_visited(model, at_once) + cached) * VALUE_BYTES[writing.computes_in]
    flops = at_once * written_flops(
        active_params=model.active_params,
        layers=model.layers,
        attention_width=model.attention_width,
        tokens_before=tokens_before,
    )
    moving_s = moved / (gpu.memory_bytes_per_s * BANDWIDTH_SHARE)
    computing_s = flops / _flops_per_s(writing, gpu)
    fixed_s = model.layers * SECONDS_PER_LAYER[writing.engine]
    return max(moving_s, computing_s) / gpus_per_copy + fixed_s


def _params_visited(model: ModelFacts, at_once: int) -> float:
    """Parameters that a step reads: of a mixture, the experts that any of its tokens chose."""
    if model.experts == 1:
        return float(model.params)
    each = (model.params - model.active_params) / (model.experts - model.experts_per_token)
    missed = (1 - model.experts_per_token / model.experts) ** at_once
    dense = model.params - each * model.experts
    return dense + each * model.experts * (1 - missed)
