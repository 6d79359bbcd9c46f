"""GPU-hours to write text."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.estimate.generation import Writing, estimate_writing
from launcher.estimate.gpus import find_gpu
from launcher.estimate.models import ModelFacts, find_model

H100, L4 = find_gpu("H100"), find_gpu("L4")
assert H100 is not None
assert L4 is not None

WRITING = Writing(
    answers=1000,
    prompt_tokens=200,
    answer_tokens=500,
    longest_answer_tokens=1000,
    samples_at_once=64,
)


def model(name: str) -> ModelFacts:
    facts = find_model(name)
    assert facts is not None
    return facts


def p50(writing: Writing, name: str = "Qwen/Qwen2.5-7B", gpu=H100, gpus: int = 1) -> float:
    estimate = estimate_writing(model(name), writing, gpu, gpus)
    assert estimate is not None
    return estimate.gpu_hours.p50


def test_a_model_that_does_not_fit_is_none_and_fits_when_split() -> None:
    large = model("Qwen/Qwen2.5-72B")

    assert estimate_writing(large, WRITING, H100) is None
    assert estimate_writing(large, WRITING, H100, gpus_per_copy=4) is not None


def test_memory_and_not_the_wish_decides_how_many_are_written_at_once() -> None:
    wish = replace(WRITING, samples_at_once=100_000, answers=100_000)
    estimate = estimate_writing(model("Qwen/Qwen2.5-7B"), wish, L4)

    assert estimate is not None
    assert estimate.samples_at_once == pytest.approx(93, abs=15)  # 24 GB less weights, 69 MB each


def test_one_sample_alone_waits_for_the_weights_to_pass_through_memory() -> None:
    alone = replace(WRITING, answers=1, samples_at_once=1, prompt_tokens=1, engine="vllm")
    estimate = estimate_writing(model("Qwen/Qwen2.5-7B"), alone, H100)

    assert estimate is not None
    bound = 3.35e12 / (2 * 7.616e9)  # bandwidth over bytes of weights: nothing can be faster
    assert 0.5 * bound < estimate.written_tokens_per_s < bound


def test_an_engine_that_batches_continuously_does_not_wait_for_the_longest() -> None:
    assert p50(replace(WRITING, engine="vllm")) < 0.5 * p50(WRITING)


def test_of_a_mixture_only_the_chosen_experts_are_read_by_a_single_sample() -> None:
    alone = replace(WRITING, answers=1, samples_at_once=1, engine="vllm")
    many = replace(WRITING, engine="vllm")

    mixture, dense = "Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-32B"
    assert p50(alone, mixture, gpus=2) < 0.3 * p50(alone, dense, gpus=2)
    # With many samples nearly every expert is chosen by one of them.
    assert p50(many, mixture, gpus=2) > 0.4 * p50(many, dense, gpus=2)


@given(
    answers=st.integers(1, 5000),
    more=st.integers(0, 5000),
    longer=st.floats(1, 4),
)
def test_hours_never_fall_with_more_answers_or_longer_ones(
    answers: int, more: int, longer: float
) -> None:
    few = replace(WRITING, answers=answers)
    many = replace(WRITING, answers=answers + more)
    long = replace(few, answer_tokens=500 * longer, longest_answer_tokens=1000 * longer)

    assert p50(few) <= p50(many) * (1 + 1e-9)
    assert p50(few) <= p50(long) * (1 + 1e-9)
