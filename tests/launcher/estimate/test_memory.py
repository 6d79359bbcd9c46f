"""What fits on a GPU."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.estimate.gpus import Gpu, find_gpu
from launcher.estimate.memory import generating_need, training_need
from launcher.estimate.models import ModelFacts, find_model

GB = 1e9


def model(name: str) -> ModelFacts:
    facts = find_model(name)
    assert facts is not None
    return facts


def gpu(name: str) -> Gpu:
    found = find_gpu(name)
    assert found is not None
    return found


SEVEN = model("Qwen/Qwen2.5-7B")


def test_full_training_of_7b_needs_sixteen_bytes_a_parameter_and_no_single_gpu_has_them() -> None:
    need = training_need(SEVEN, longest_tokens=2048, recompute=True)

    state = need.weights + need.gradients + need.optimizer
    assert state == 16 * SEVEN.params
    assert need.short_by(gpu("H100")) > 40 * GB


def test_sharded_over_eight_gpus_it_fits() -> None:
    need = training_need(SEVEN, longest_tokens=2048, recompute=True, gpus=8)

    assert need.short_by(gpu("H100")) == 0


# Stated by Lit-GPT for Llama-2-7B on Alpaca, micro-batches of one: 21.33 and 14.18 GB.
@pytest.mark.parametrize(("method", "stated_gb"), [("lora", 21.33), ("qlora", 14.18)])
def test_adapters_on_7b_take_about_what_was_published(method, stated_gb: float) -> None:
    need = training_need(
        model("meta-llama/Llama-2-7b-hf"),
        longest_tokens=1300,
        method=method,
        trainable_params=4.2e6,
    )

    assert need.total / GB == pytest.approx(stated_gb, rel=0.15)


def test_qlora_of_65b_fits_on_48_gb_as_it_was_published() -> None:
    need = training_need(
        model("meta-llama/Llama-2-70b-hf"),
        longest_tokens=528,
        method="qlora",
        trainable_params=8e8,
        recompute=True,
        optimizer_bytes=0.0,  # paged: it lives with the host
    )

    assert need.short_by(gpu("A6000")) == 0


def test_a_loss_in_chunks_saves_the_logits_of_a_long_sample() -> None:
    whole = training_need(SEVEN, longest_tokens=16_384, gpus=8)
    chunked = training_need(SEVEN, longest_tokens=16_384, gpus=8, loss_chunk_tokens=1024)

    assert whole.loss_or_layer == 16 * chunked.loss_or_layer


def test_a_teacher_that_reads_along_takes_its_weights() -> None:
    alone = training_need(SEVEN, longest_tokens=1024, gpus=8)
    taught = training_need(SEVEN, longest_tokens=1024, gpus=8, teacher=model("Qwen/Qwen2.5-32B"))

    assert taught.weights - alone.weights == 2 * model("Qwen/Qwen2.5-32B").params / 8


def test_float32_doubles_what_passes_through_and_leaves_what_is_learnt() -> None:
    half, whole = (
        training_need(SEVEN, longest_tokens=4096, gpus=8, computes_in=each)
        for each in ("bfloat16", "float32")
    )

    assert whole.activations == 2 * half.activations
    assert whole.layers_at_work == 2 * half.layers_at_work
    assert whole.loss_or_layer == 1.2 * half.loss_or_layer
    assert (whole.weights, whole.gradients, whole.optimizer) == (
        half.weights,
        half.gradients,
        half.optimizer,
    )


def test_on_one_gpu_float32_needs_no_copy_of_what_learns() -> None:
    alone = training_need(SEVEN, longest_tokens=4096, computes_in="float32")

    assert alone.layers_at_work == 0


def test_a_writer_in_float32_holds_twice_as_much() -> None:
    half, whole = (
        generating_need(SEVEN, tokens_at_once=1000, computes_in=each)
        for each in ("bfloat16", "float32")
    )

    assert (whole.weights, whole.kv_cache) == (2 * half.weights, 2 * half.kv_cache)


def test_the_kv_cache_counts_every_token_under_way() -> None:
    few = generating_need(SEVEN, tokens_at_once=1000)
    many = generating_need(SEVEN, tokens_at_once=64_000)

    assert many.kv_cache == 64 * few.kv_cache
    assert few.kv_cache == 1000 * 2 * 28 * 4 * 128 * 2


@given(
    tokens=st.integers(1, 100_000),
    more=st.integers(0, 100_000),
    gpus=st.integers(1, 64),
    recompute=st.booleans(),
    method=st.sampled_from(["full", "lora", "qlora"]),
)
def test_longer_samples_never_need_less_and_more_gpus_never_more(
    tokens: int, more: int, gpus: int, recompute: bool, method
) -> None:
    def total(tokens: int, gpus: int) -> float:
        return training_need(
            SEVEN,
            longest_tokens=tokens,
            gpus=gpus,
            recompute=recompute,
            method=method,
            trainable_params=1e7,
        ).total

    assert total(tokens + more, gpus) >= total(tokens, gpus)
    if gpus > 1:
        assert total(tokens, 2 * gpus) <= total(tokens, gpus)
