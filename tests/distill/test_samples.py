"""Samples: every fault of the data is found before training, and says which row and what to do."""

from typing import Any

import pytest

from distill.context import WorkerError
from distill.data import Row
from distill.models import new_student
from distill.samples import training_samples
from recipes.recipe import NewStudent, Training


@pytest.fixture
def tokenizer(small_student: NewStudent) -> Any:
    return new_student(small_student)[1]


def training(**fields: Any) -> Training:
    return Training.model_validate({"steps": 1, "batch_size": 1, "learning_rate": 1} | fields)


def pair(index: int, prompt: str, completion: str) -> tuple[Row, str]:
    return Row(index, None, prompt, completion), completion


def no_warning(code: str, message: str) -> None:
    pytest.fail(f"{code}: {message}")


def test_prompt_completion_and_end_become_a_sample(tokenizer: Any) -> None:
    (sample,) = training_samples([pair(0, "1+1=", "2")], tokenizer, training(), None, no_warning)

    assert tokenizer.decode(sample.input_ids) == "1+1=2<eos>"
    assert sample.prompt_tokens == 4


def test_a_sample_above_max_tokens_names_the_row_and_what_to_raise(tokenizer: Any) -> None:
    pairs = [pair(0, "1+1=", "2"), pair(7, "1+1=", "2" * 20)]

    with pytest.raises(WorkerError) as error:
        training_samples(pairs, tokenizer, training(max_tokens=24), 128, no_warning)

    assert error.value.code == "too_long"
    assert "row 7 of the data has 25 tokens" in error.value.message
    assert "training.max_tokens is 24" in error.value.message
    assert "25 or more" in error.value.remedy


def test_a_sample_above_the_students_context_is_told_from_one_above_max_tokens(
    tokenizer: Any,
) -> None:
    with pytest.raises(WorkerError, match="the student's context is 16") as error:
        training_samples([pair(0, "1+1=", "2" * 20)], tokenizer, training(), 16, no_warning)

    assert error.value.code == "too_long"


def test_a_sample_of_exactly_the_longest_length_fits(tokenizer: Any) -> None:
    samples = training_samples(
        [pair(0, "1+1=", "2" * 3)], tokenizer, training(max_tokens=8), 8, no_warning
    )

    assert len(samples[0].input_ids) == 8


def test_dropped_samples_are_counted_and_said(tokenizer: Any) -> None:
    pairs = [pair(0, "1+1=", "2"), pair(1, "1+1=", "2" * 20), pair(2, "1+1=", "2" * 30)]
    said: list[tuple[str, str]] = []

    samples = training_samples(
        pairs,
        tokenizer,
        training(max_tokens=16, too_long="drop"),
        128,
        lambda code, message: said.append((code, message)),
    )

    assert len(samples) == 1
    assert said == [("too_long", "2 of 3 samples are longer than 16 tokens and left out")]


def test_when_all_are_dropped_nothing_is_left_to_train_on(tokenizer: Any) -> None:
    with pytest.raises(WorkerError, match="all 1 samples are longer than 8 tokens") as error:
        training_samples(
            [pair(0, "1+1=", "2" * 20)],
            tokenizer,
            training(max_tokens=8, too_long="drop"),
            None,
            lambda *_: None,
        )

    assert error.value.code == "no_samples"


def test_no_rows_at_all_are_said(tokenizer: Any) -> None:
    with pytest.raises(WorkerError, match="nothing to train on") as error:
        training_samples([], tokenizer, training(), None, no_warning)

    assert error.value.code == "no_samples"


def test_an_empty_completion_names_the_row(tokenizer: Any) -> None:
    with pytest.raises(WorkerError, match="row 3 of the data has an empty completion") as error:
        training_samples([pair(3, "1+1=", "")], tokenizer, training(), None, no_warning)

    assert error.value.code == "empty_completion"


def test_a_tokenizer_without_an_end_of_text_is_said(tokenizer: Any) -> None:
    tokenizer.eos_token = None

    with pytest.raises(WorkerError) as error:
        training_samples([pair(0, "1+1=", "2")], tokenizer, training(), None, no_warning)

    assert error.value.code == "no_eos"


def test_a_teachers_answer_that_cannot_be_learnt_is_left_out_since_it_is_paid(
    tokenizer: Any,
) -> None:
    pairs = [pair(0, "1+1=", "2"), pair(1, "1+1=", "2" * 20), pair(2, "1+1=", "two")]
    said: list[tuple[str, str]] = []

    samples = training_samples(
        pairs,
        tokenizer,
        training(max_tokens=16),
        128,
        lambda code, message: said.append((code, message)),
        are_answers=True,
    )

    assert [tokenizer.decode(sample.input_ids) for sample in samples] == ["1+1=2<eos>"]
    assert said == [
        ("too_long", "1 of 3 samples are longer than 16 tokens and left out"),
        (
            "vocabulary",
            "1 of 3 answers have characters that the student's tokenizer has no token for, and are "
            "left out",
        ),
    ]


def test_when_no_answer_can_be_learnt_the_reasons_are_counted(tokenizer: Any) -> None:
    pairs = [pair(0, "1+1=", "2" * 20), pair(1, "1+1=", "two")]

    with pytest.raises(WorkerError, match="1 of 2 samples are longer than 16 tokens, and the o"):
        training_samples(
            pairs, tokenizer, training(max_tokens=16), 128, lambda *_: None, are_answers=True
        )
