"""FLOPs of a token, and how they follow from what is trained."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.estimate.flops import prompt_flops, training_flops, written_flops

SHAPE = {"active_params": 7e9, "layers": 32, "attention_width": 4096}


def test_full_training_takes_six_flops_a_parameter_besides_attention() -> None:
    assert training_flops(**SHAPE, context_tokens=0).model == 6 * 7e9


def test_lora_saves_the_gradients_of_the_base() -> None:
    lora = training_flops(**SHAPE, context_tokens=0, method="lora", trainable_params=1e7)

    assert lora.model == 4 * 7e9 + 6 * 1e7


def test_recomputation_is_work_for_the_clock_and_not_for_the_mfu() -> None:
    kept = training_flops(**SHAPE, context_tokens=2048)
    recomputed = training_flops(**SHAPE, context_tokens=2048, recompute=True)

    assert recomputed.model == kept.model == kept.hardware
    assert recomputed.hardware == pytest.approx(kept.hardware * 4 / 3)


def test_a_teacher_that_reads_along_costs_its_forward_pass() -> None:
    alone = training_flops(**SHAPE, context_tokens=0)
    taught = training_flops(**SHAPE, context_tokens=0, teacher_params=32e9)

    assert taught.model - alone.model == 2 * 32e9


@given(tokens=st.floats(1, 1e6), more=st.floats(1, 1e6))
def test_a_longer_sample_never_costs_less_for_each_token(tokens: float, more: float) -> None:
    for flops in (
        lambda n: training_flops(**SHAPE, context_tokens=n).hardware,
        lambda n: prompt_flops(**SHAPE, prompt_tokens=n),
        lambda n: written_flops(**SHAPE, tokens_before=n),
    ):
        assert flops(tokens + more) >= flops(tokens)


@pytest.mark.slow
def test_a_counter_inside_pytorch_agrees_on_a_small_model() -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from launcher.estimate.models import read_config

    tokens = 64
    config = Qwen2Config(
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=256,
        vocab_size=512,
        tie_word_embeddings=True,  # so that all parameters take part in products
        attn_implementation="eager",
    )
    model = Qwen2ForCausalLM(config)
    text = torch.zeros((1, tokens), dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=text, labels=text).loss.backward()

    facts = read_config(config.to_dict(), "small")
    expected = training_flops(
        active_params=facts.params,
        layers=facts.layers,
        attention_width=facts.attention_width,
        # Eager attention computes the half that nobody looks at, so twice the length counts.
        context_tokens=2 * tokens,
    )

    assert counter.get_total_flops() / tokens == pytest.approx(expected.model, rel=0.02)
