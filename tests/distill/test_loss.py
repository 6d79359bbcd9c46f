"""The loss: completion tokens and nothing else, however the batch is padded or cut."""

import pytest
import torch
from torch.nn import functional

from distill.loss import NO_LOSS, CompletionLoss, collate, head_is_plain, tokens_with_loss
from distill.models import new_student
from distill.text import Sample
from recipes.recipe import NewStudent


@pytest.fixture
def model(small_student: NewStudent) -> torch.nn.Module:
    torch.manual_seed(0)
    return new_student(small_student)[0]


SAMPLES = [
    Sample([1, 2, 3, 4, 5], prompt_tokens=2),
    Sample([6, 7, 8], prompt_tokens=1),
    Sample([9, 1, 9, 2, 9, 3, 9, 4], prompt_tokens=5),
]


def gradients(module: CompletionLoss, samples: list[Sample]) -> dict[str, torch.Tensor]:
    module.zero_grad()
    module(*collate(samples, "cpu")).backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def assert_close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-6, msg=name)


def test_each_position_is_labelled_with_the_next_token_of_the_completion() -> None:
    ids, labels = collate(SAMPLES[:2], "cpu")

    assert ids.tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, 0, 0]]
    no = NO_LOSS
    assert labels.tolist() == [[no, 3, 4, 5, no], [7, 8, no, no, no]]
    assert [tokens_with_loss(sample) for sample in SAMPLES] == [3, 2, 3]


def test_a_sample_without_a_prompt_is_taught_all_but_its_first_token() -> None:
    sample = Sample([4, 5, 6], prompt_tokens=0)

    assert collate([sample], "cpu")[1].tolist() == [[5, 6, NO_LOSS]]
    assert tokens_with_loss(sample) == 2


def test_loss_and_gradients_are_those_of_plain_cross_entropy(model: torch.nn.Module) -> None:
    ours = CompletionLoss(model, head_is_plain=True)
    ids, labels = collate(SAMPLES, "cpu")
    logits = model(input_ids=ids, attention_mask=(ids != 0).long()).logits
    plain = functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=NO_LOSS, reduction="sum"
    )
    model.zero_grad()
    plain.backward()
    theirs = {
        f"model.{name}": parameter.grad.clone() for name, parameter in model.named_parameters()
    }

    assert ours(ids, labels).item() == pytest.approx(plain.item(), rel=1e-5)
    assert_close(gradients(ours, SAMPLES), theirs)


def test_a_head_taken_in_many_pieces_gives_the_same(
    model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = [Sample([number % 15 for number in range(300)], prompt_tokens=3)] * 2
    module = CompletionLoss(model, head_is_plain=True)
    whole = gradients(module, long)

    monkeypatch.setattr("distill.loss.PIECE_BYTES", 1)

    assert_close(gradients(module, long), whole)


def test_padded_together_is_the_same_as_one_by_one(model: torch.nn.Module) -> None:
    module = CompletionLoss(model, head_is_plain=True)
    one_by_one = [gradients(module, [sample]) for sample in SAMPLES]
    total = {name: sum(grads[name] for grads in one_by_one) for name in one_by_one[0]}

    assert_close(gradients(module, SAMPLES), total)


def test_what_the_prompt_says_next_is_not_learnt(model: torch.nn.Module) -> None:
    module = CompletionLoss(model, head_is_plain=True)
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    labels = torch.full_like(ids, NO_LOSS)
    labels[0, 3] = 5
    module(ids, labels).backward()
    learnt = gradients(module, [Sample([1, 2, 3, 4, 5], prompt_tokens=4)])

    module.zero_grad()
    module(ids, labels).backward()
    only_the_last = {name: p.grad for name, p in module.named_parameters()}

    assert_close(learnt, only_the_last)
    everything = gradients(module, [Sample([1, 2, 3, 4, 5], prompt_tokens=1)])
    assert any(not torch.allclose(learnt[name], everything[name]) for name in learnt)


def test_bfloat16_passes_stay_near_float32(model: torch.nn.Module) -> None:
    module = CompletionLoss(model, head_is_plain=True)
    exact = module(*collate(SAMPLES, "cpu")).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = module(*collate(SAMPLES, "cpu"))
    rough.backward()

    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact, rel=0.02)


def test_a_plain_head_is_told_from_one_that_bends_its_outputs(model: torch.nn.Module) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    bent = Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=18,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            final_logit_softcapping=0.01,
        )
    )

    assert head_is_plain(model)
    assert not head_is_plain(bent)
    ids, labels = collate(SAMPLES, "cpu")
    logits = bent(input_ids=ids).logits
    plain = functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=NO_LOSS, reduction="sum"
    )
    assert CompletionLoss(bent, head_is_plain=False)(ids, labels).item() == pytest.approx(
        plain.item(), rel=1e-5
    )
