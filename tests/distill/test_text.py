"""Samples are what the model meets at inference, then the completion, then the end of text."""

from typing import Any

import pytest

from distill.context import WorkerError
from distill.data import Row
from distill.models import new_student
from distill.text import make_sample, prompt_ids
from recipes.recipe import NewStudent

ROLES = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
)
FORGETS_THINKING = "{% for m in messages %}{{ m['content'].split('</think>')[-1] }}{% endfor %}"

ROW = Row(3, None, "1+1=", None)


@pytest.fixture
def tokenizer() -> Any:
    letters = "abcdefghijklmnopqrstuvwxyz<>/+=12 "
    shape = NewStudent(characters=letters, layers=1, hidden_size=8, heads=1, intermediate_size=8)
    return new_student(shape)[1]


def test_the_prompt_is_a_prefix_and_the_end_of_text_comes_last(tokenizer: Any) -> None:
    sample = make_sample(tokenizer, ROW, "2")

    assert sample.input_ids[: sample.prompt_tokens] == prompt_ids(tokenizer, ROW)
    assert tokenizer.decode(sample.input_ids) == "1+1=2<eos>"
    assert sample.input_ids[-1] == tokenizer.eos_token_id


def test_a_template_with_roles_puts_its_header_before_the_completion(tokenizer: Any) -> None:
    tokenizer.chat_template = ROLES
    row = Row(0, "add", "1+1=", None)

    sample = make_sample(tokenizer, row, "2")

    assert tokenizer.decode(sample.input_ids) == "<system>add</><user>1+1=</><assistant>2<eos>"
    assert tokenizer.decode(prompt_ids(tokenizer, row)).endswith("<assistant>")


def test_a_template_that_drops_thinking_does_not_drop_it_from_what_is_learnt(
    tokenizer: Any,
) -> None:
    tokenizer.chat_template = FORGETS_THINKING

    sample = make_sample(tokenizer, ROW, "a lot</think>2")

    assert tokenizer.decode(sample.input_ids).endswith("a lot</think>2<eos>")


def test_without_a_template_the_prompt_stands_as_it_is(tokenizer: Any) -> None:
    tokenizer.chat_template = None

    assert tokenizer.decode(make_sample(tokenizer, ROW, "2").input_ids) == "1+1=2<eos>"
    with pytest.raises(WorkerError, match=r"data\.system is given, and the tokenizer has no chat"):
        prompt_ids(tokenizer, Row(0, "add", "1+1=", None))


def test_a_template_that_refuses_says_which_row_and_why(tokenizer: Any) -> None:
    tokenizer.chat_template = NO_SYSTEM

    with pytest.raises(WorkerError, match="refuses row 0: no system role") as caught:
        prompt_ids(tokenizer, Row(0, "add", "1+1=", None))
    assert caught.value.code == "template"


def test_a_tokenizer_without_an_end_of_text_is_refused(tokenizer: Any) -> None:
    tokenizer.eos_token = None

    with pytest.raises(WorkerError, match="no end-of-text token") as caught:
        make_sample(tokenizer, ROW, "2")
    assert caught.value.code == "no_eos"


@pytest.mark.parametrize("what", ["prompt", "completion"])
def test_a_character_that_would_be_lost_is_named_with_its_row(tokenizer: Any, what: str) -> None:
    row = Row(3, None, "1+1é1😀=" if what == "prompt" else "1+1=", None)

    with pytest.raises(WorkerError, match="row 3") as caught:
        make_sample(tokenizer, row, "2é😀")
    assert caught.value.code == "vocabulary"
    assert "'é', '😀'" in str(caught.value)
    assert "student.characters" in caught.value.remedy


def test_a_tokenizer_that_fails_on_an_unknown_character_is_told_apart_from_a_bug(
    tokenizer: Any,
) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "<eos>": 1}))  # type: ignore[call-arg]
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    strict = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>")

    with pytest.raises(WorkerError, match="'b'"):
        prompt_ids(strict, Row(0, None, "b", None))
