"""One way to answer a batch: greedy or sampled, with nothing from the model's own folder."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from distill.context import WorkerError
from distill.generation import Answer, answer_batch, end_token_ids
from distill.models import load_model, load_tokenizer
from recipes.recipe import NewStudent

PROMPTS = [[1, 2], [3], [4, 5, 6, 7, 8], [9, 1, 2]]


@pytest.fixture
def model(model_folder: Path) -> Any:
    return load_model(str(model_folder))


@pytest.fixture
def tokenizer(model_folder: Path) -> Any:
    return load_tokenizer(str(model_folder))


def never_ends(model: Any, tokenizer: Any) -> Any:
    """Make the end of text a token that the model never writes."""
    model.generation_config.eos_token_id = None
    tokenizer.eos_token = "<unk>"
    return tokenizer


def test_a_prompt_is_answered_the_same_alone_and_in_a_batch(model: Any, tokenizer: Any) -> None:
    together = answer_batch(model, tokenizer, PROMPTS, max_new_tokens=12)
    alone = [answer_batch(model, tokenizer, [p], max_new_tokens=12)[0] for p in PROMPTS]

    assert together == alone
    assert len({answer.text for answer in together}) > 1


def test_a_sampled_answer_follows_from_its_seed_whatever_shares_its_batch(
    model: Any, tokenizer: Any
) -> None:
    def sample(prompts: list[list[int]], seeds: list[int]) -> list[Answer]:
        return answer_batch(
            model, tokenizer, prompts, max_new_tokens=12, temperature=1.0, seeds=seeds
        )

    together = sample(PROMPTS, [1, 2, 3, 4])

    assert sample(PROMPTS[::-1], [4, 3, 2, 1]) == together[::-1]
    assert sample([PROMPTS[1]], [2]) == [together[1]]
    assert sample([PROMPTS[1]], [5]) != [together[1]]


def test_sampling_draws_tokens_as_often_as_the_model_thinks_them_likely(
    model: Any, tokenizer: Any
) -> None:
    import torch

    with torch.inference_mode():
        scores = model(torch.tensor([[1, 2]])).logits[0, -1]
    expected = (scores / 2.0).softmax(-1)

    drawn = answer_batch(
        model, tokenizer, [[1, 2]] * 2000, max_new_tokens=1, temperature=2.0, seeds=range(2000)
    )

    counts = Counter(answer.text for answer in drawn)
    for token in range(10):
        share = float(expected[token])
        five_sigmas = 5 * (2000 * share * (1 - share)) ** 0.5
        assert abs(counts[tokenizer.decode([token])] - 2000 * share) < five_sigmas


def test_top_p_keeps_only_the_likeliest_tokens(model: Any, tokenizer: Any) -> None:
    import torch

    with torch.inference_mode():
        likely = model(torch.tensor([[1, 2]])).logits[0, -1].softmax(-1)
    ordered = likely.sort(descending=True)
    three = float(ordered.values[:2].sum() + ordered.values[2] / 2)

    drawn = answer_batch(
        model,
        tokenizer,
        [[1, 2]] * 300,
        max_new_tokens=1,
        temperature=1.0,
        top_p=three,
        seeds=range(300),
    )

    kept = {tokenizer.decode([token]) for token in ordered.indices[:3].tolist()}
    assert {answer.text for answer in drawn} == kept


def test_what_the_models_folder_says_about_sampling_is_left_aside(
    model: Any, tokenizer: Any
) -> None:
    plain = answer_batch(model, tokenizer, PROMPTS, max_new_tokens=12)
    theirs = model.generation_config
    theirs.repetition_penalty, theirs.do_sample, theirs.temperature = 5.0, True, 9.0

    assert answer_batch(model, tokenizer, PROMPTS, max_new_tokens=12) == plain
    assert model.generation_config is theirs


def test_an_answer_ends_at_any_end_token_and_is_told_from_one_cut_off(
    model: Any, tokenizer: Any
) -> None:
    tokenizer = never_ends(model, tokenizer)
    [cut] = answer_batch(model, tokenizer, [[1, 2]], max_new_tokens=5)
    first = tokenizer(cut.text[0])["input_ids"][0]
    model.generation_config.eos_token_id = [first, 3]

    [ended] = answer_batch(model, tokenizer, [[1, 2]], max_new_tokens=5)

    assert (cut.finish, cut.tokens, len(cut.text)) == ("length", 5, 5)
    assert (ended.finish, ended.tokens, ended.text) == ("stop", 1, "")


def test_blanks_in_an_answer_stay_where_the_model_wrote_them() -> None:
    from distill.generation import _answer
    from distill.models import new_student

    shape = NewStudent(characters="a .", layers=1, hidden_size=8, heads=1, intermediate_size=8)
    tokenizer = new_student(shape)[1]
    tokenizer.clean_up_tokenization_spaces = True

    assert _answer(tokenizer, tokenizer("a . a")["input_ids"], [9]).text == "a . a"


def test_tokens_are_counted_out_loud_and_whoever_listens_may_end_it(
    model: Any, tokenizer: Any
) -> None:
    heard: list[int] = []

    answer_batch(
        model,
        never_ends(model, tokenizer),
        PROMPTS,
        max_new_tokens=6,
        on_token=heard.append,
    )

    assert heard == [1, 2, 3, 4, 5, 6]

    def enough(tokens: int) -> None:
        if tokens == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer_batch(model, tokenizer, PROMPTS, max_new_tokens=6, on_token=enough)


def test_an_answer_ends_where_the_models_context_does(model: Any, tokenizer: Any) -> None:
    [answer] = answer_batch(model, never_ends(model, tokenizer), [[1] * 120], max_new_tokens=100)

    assert (answer.tokens, answer.finish) == (8, "length")


def test_a_prompt_that_fills_the_context_has_an_answer_of_no_tokens_and_harms_no_other(
    model: Any, tokenizer: Any
) -> None:
    [alone] = answer_batch(model, tokenizer, [[1, 2]], max_new_tokens=12)

    prompts = [[1] * 128, [1, 2], [1] * 200]
    first, second, third = answer_batch(model, tokenizer, prompts, max_new_tokens=12)

    assert first == third == Answer("", 0, "length")
    assert second == alone
    assert answer_batch(model, tokenizer, [[1] * 128], max_new_tokens=12) == [first]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_long_prompt_shortens_no_answer_but_its_own(
    model: Any, tokenizer: Any, temperature: float
) -> None:
    tokenizer.eos_token, model.generation_config.eos_token_id = None, 999  # drawn by no chance
    prompts = [[1, 2], [1] * 120, [4] * 100, [5] * 120, [3]]

    def answers(numbers: list[int]) -> list[Answer]:
        return answer_batch(
            model,
            tokenizer,
            [prompts[number] for number in numbers],
            max_new_tokens=40,
            temperature=temperature,
            seeds=numbers,
        )

    together = answers([0, 1, 2, 3, 4])

    assert [answer.tokens for answer in together] == [40, 8, 28, 8, 40]
    assert together == [answers([number])[0] for number in range(5)]


def test_tokens_are_counted_on_where_one_answer_is_longer_than_another(
    model: Any, tokenizer: Any
) -> None:
    heard: list[int] = []

    answer_batch(
        model,
        never_ends(model, tokenizer),
        [[1, 2], [1] * 125],
        max_new_tokens=6,
        on_token=heard.append,
    )

    assert heard == [1, 2, 3, 4, 5, 6]


def test_a_model_without_an_end_of_text_is_refused(model: Any, tokenizer: Any) -> None:
    tokenizer.eos_token = None
    model.generation_config.eos_token_id = None

    with pytest.raises(WorkerError, match="names an end-of-text token"):
        end_token_ids(model, tokenizer)
