"""The tables that ship: GPUs, models, published runs."""

import pytest

from launcher.estimate.evidence import published
from launcher.estimate.gpus import all_gpus, find_gpu
from launcher.estimate.models import all_models, find_model, read_config
from recipes.errors import InvalidInputError

TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 96,
    "vocab_size": 100,
    "max_position_embeddings": 128,
}

# Published totals, from the index files of the weights.
PUBLISHED_PARAMS = {
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B-Instruct": 32_763_876_352,
    "Qwen/Qwen2.5-72B": 72_706_203_648,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mixtral-8x7B-v0.1": 46_702_792_704,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 1_777_088_000,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
}


@pytest.mark.parametrize("gpu", all_gpus(), ids=lambda gpu: gpu.name)
def test_every_gpu_has_figures_that_belong_together_and_a_source(gpu) -> None:
    assert 10 * 2**30 <= gpu.memory_bytes <= 300 * 2**30
    assert 50 <= gpu.balance <= 500
    assert gpu.half_flops <= gpu.half_flops_at_most <= 2 * gpu.half_flops
    assert gpu.best_matmul_flops is None or gpu.best_matmul_flops < gpu.half_flops
    assert gpu.fp8_flops is None or gpu.fp8_flops == pytest.approx(2 * gpu.half_flops, rel=0.03)
    assert "peak" in gpu.source


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("H100-SXM", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("a100", "A100"),
        ("Tesla T4", "T4"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("RTX A6000", "A6000"),
        ("Tesla V100-SXM2-16GB", "V100"),
    ],
)
def test_a_gpu_is_found_by_the_names_of_drivers_catalogs_and_papers(said: str, name: str) -> None:
    gpu = find_gpu(said)

    assert gpu is not None
    assert gpu.name == name


def test_a_gpu_that_is_not_in_the_table_is_unknown_and_not_guessed() -> None:
    assert find_gpu("48GB GPU (type not stated)") is None
    assert find_gpu("") is None


@pytest.mark.parametrize(("name", "params"), PUBLISHED_PARAMS.items())
def test_parameters_by_formula_are_the_published_totals_to_the_last_one(name, params) -> None:
    model = find_model(name)

    assert model is not None
    assert model.params == params


def test_a_mixture_of_experts_knows_what_a_token_passes_through() -> None:
    model = find_model("Qwen/Qwen3-30B-A3B")

    assert model is not None
    assert model.active_params == 3_353_032_704  # "A3B"


def test_every_model_of_the_table_has_a_context_and_a_name_of_its_own() -> None:
    models = all_models()

    assert all(model.context_tokens and model.context_tokens >= 2048 for model in models)
    assert len({model.name.lower() for model in models}) == len(models)


def test_another_family_is_an_error_that_names_model_and_family() -> None:
    with pytest.raises(InvalidInputError) as caught:
        read_config({**TINY, "model_type": "mamba"}, "some/model")

    assert "some/model" in str(caught.value)
    assert "'mamba'" in str(caught.value)
    assert "qwen2" in str(caught.value)  # what can be read


@pytest.mark.parametrize("value", [0, -1, "64", 64.0, True])
def test_a_width_that_is_no_whole_number_above_0_is_an_error_that_names_the_field(value) -> None:
    with pytest.raises(InvalidInputError, match="hidden_size in its config"):
        read_config({**TINY, "model_type": "llama", "hidden_size": value}, "some/model")


def test_a_missing_field_is_an_error_that_names_it() -> None:
    config = {**TINY, "model_type": "llama"}
    del config["vocab_size"]

    with pytest.raises(InvalidInputError, match="has no vocab_size"):
        read_config(config, "some/model")


def test_a_mixture_with_dense_layers_is_refused_and_not_miscounted() -> None:
    config = {**TINY, "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2}

    with pytest.raises(InvalidInputError, match="mlp_only_layers"):
        read_config({**config, "mlp_only_layers": [0]}, "some/model")


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "family", ["llama", "mistral", "qwen2", "qwen3", "smollm3", "mixtral", "qwen3_moe"]
)
def test_the_formula_counts_what_transformers_builds(family: str, tied: bool) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    mixture = {"num_experts_per_tok": 2, "moe_intermediate_size": 48}
    experts = {"mixtral": {"num_local_experts": 4}, "qwen3_moe": {"num_experts": 4}}
    fields = TINY | ({**mixture, **experts[family]} if family in experts else {})
    if family == "mixtral":
        del fields["moe_intermediate_size"]
    config = {**fields, "tie_word_embeddings": tied, "pad_token_id": 0}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **config))

    facts = read_config({**config, "model_type": family}, family)

    assert facts.params == sum(weight.numel() for weight in model.parameters())


def test_published_runs_are_told_apart_and_reach_a_share_that_can_be_true() -> None:
    runs = published()

    assert len({run.id for run in runs}) == len(runs) >= 40
    assert all(0.01 < run.share < 0.9 for run in runs)
    assert all(run.project for run in runs)
