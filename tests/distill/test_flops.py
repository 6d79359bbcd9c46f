"""Arithmetic of training, beside counts done by hand and by PyTorch itself."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from distill.flops import PEAK_BF16, Shape, peak_flops_per_s, shape_of
from distill.models import new_student
from recipes.recipe import NewStudent


@pytest.mark.parametrize(
    ("gpu", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165.2),
    ],
)
def test_the_peak_is_found_by_the_name_that_the_driver_gives(gpu: str, teraflops: float) -> None:
    assert peak_flops_per_s(gpu, "bfloat16") == teraflops * 1e12


@pytest.mark.parametrize("device", ["cpu", "NVIDIA L40", "NVIDIA A10G", "Tesla T4", "RTX A4000"])
def test_a_device_that_is_not_in_the_table_has_no_peak(device: str) -> None:
    assert peak_flops_per_s(device, "bfloat16") is None


def test_float32_has_no_peak_here() -> None:
    assert peak_flops_per_s("NVIDIA H100 80GB HBM3", "float32") is None


def test_every_peak_in_the_table_is_of_a_plausible_size() -> None:
    assert all(50e12 < peak < 5000e12 for _, peak in PEAK_BF16)


def test_the_formula_counts_what_pytorch_counts_in_a_forward_pass() -> None:
    torch.manual_seed(0)
    shape = NewStudent(
        characters="0123456789",
        layers=2,
        hidden_size=64,
        heads=4,
        intermediate_size=128,
        context_tokens=512,
    )
    model, _ = new_student(shape)
    model.set_attn_implementation("eager")  # whose products the counter knows
    length = 256
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.zeros(1, length, dtype=torch.long))

    ours = shape_of(model).training_flops([length], completion_tokens=length) / 3

    # PyTorch counts attention in full, and we the half that a causal mask leaves.
    skipped = 2 * length * length * 64 * 2
    assert ours == pytest.approx(counter.get_total_flops() - skipped, rel=0.01)


def test_prompt_tokens_cost_no_head() -> None:
    shape = Shape(body_parameters=1000, head_parameters=500, layers=0, attention_width=0)

    assert shape.training_flops([10, 20], completion_tokens=12) == 6 * (1000 * 30 + 500 * 12)


def test_of_a_mixture_of_experts_only_the_chosen_ones_count() -> None:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        moe_intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=8,
        num_experts_per_tok=2,
        decoder_sparse_step=1,
    )
    model = Qwen3MoeForCausalLM(config)
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    others = sum(
        p.numel()
        for name, p in model.named_parameters()
        if ".experts." not in name and "embed" not in name and "lm_head" not in name
    )

    assert experts == 8 * 3 * 16 * 32
    assert shape_of(model).body_parameters == others + experts // 4
