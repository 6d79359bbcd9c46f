"""What would end a run late is found before its first stage; one bad problem harms no other."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill.ahead import look_ahead
from distill.context import Context, WorkerError
from recipes.recipe import Recipe
from recipes.rundir import Warned, read_events

MakeContext = Callable[..., Context]
SHORT, LONG = "1+1=", "1+" * 64


@pytest.fixture
def make_task(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A task of these problems; fields of its data given replace its own."""

    def make(*problems: str | None, **data: Any) -> dict[str, Any]:
        file = tmp_path / "problems.jsonl"
        file.write_text("".join(json.dumps({"q": q, "a": "2"}) + "\n" for q in problems))
        place = {"kind": "jsonl", "path": str(file), "prompt": "{q}", "completion": "{a}"}
        return {"task": "sums", "data": place | data, "max_new_tokens": 4}

    return make


def warnings(context: Context) -> list[str]:
    events = [event for event, _ in read_events(context.run.events)]
    return [event.message for event in events if isinstance(event, Warned)]


@pytest.mark.parametrize(
    ("problem", "data", "code"),
    [
        (None, {}, "data"),
        (SHORT, {"completion": "{answer}"}, "data"),
        (SHORT, {"path": "/no/such.jsonl"}, "data"),
        ("what is 1+1?", {}, "vocabulary"),
        (SHORT, {"system": "Add."}, "vocabulary"),
    ],
)
def test_a_task_that_cannot_be_asked_is_refused(
    make_recipe: Callable[..., Recipe],
    make_context: MakeContext,
    make_task: Callable[..., dict[str, Any]],
    problem: str | None,
    data: dict[str, Any],
    code: str,
) -> None:
    task = make_task(SHORT, problem, **data)

    with pytest.raises(WorkerError) as error:
        look_ahead(make_context(make_recipe(evaluation=[task])))

    assert error.value.code == code


def test_problems_without_room_are_counted_and_said(
    make_recipe: Callable[..., Recipe],
    make_context: MakeContext,
    make_task: Callable[..., dict[str, Any]],
) -> None:
    context = make_context(make_recipe(evaluation=[make_task(SHORT, LONG, LONG[:127])]))

    look_ahead(context)

    assert warnings(context) == [
        "1 of 3 problems of task sums leave no room for an answer in the student's context of "
        "128 tokens: they will count as answers of no tokens, cut off"
    ]


def test_a_task_without_any_room_is_refused_with_both_numbers(
    make_recipe: Callable[..., Recipe],
    make_context: MakeContext,
    make_task: Callable[..., dict[str, Any]],
) -> None:
    with pytest.raises(WorkerError, match="the shortest has 128 tokens") as error:
        look_ahead(make_context(make_recipe(evaluation=[make_task(LONG, LONG + "1")])))

    assert "the student's context is 128" in error.value.message
    assert error.value.code == "too_long"


def test_a_student_in_a_folder_is_known_by_its_own_tokenizer_and_context(
    make_recipe: Callable[..., Recipe],
    make_context: MakeContext,
    make_task: Callable[..., dict[str, Any]],
    model_folder: Path,
) -> None:
    (model_folder / "model.safetensors").unlink()  # no weights are read
    student = {"kind": "pretrained", "model": str(model_folder)}
    context = make_context(make_recipe(student=student, evaluation=[make_task(SHORT, LONG)]))

    look_ahead(context)

    assert "1 of 2 problems of task sums" in warnings(context)[0]


# ---- what a teacher will be asked --------------------------------------------------------------


@pytest.fixture
def make_asked(
    tmp_path: Path, make_recipe: Callable[..., Recipe], make_context: MakeContext
) -> Callable[..., Context]:
    """A run whose teacher is asked these prompts; nobody answers at its address."""

    def make(*prompts: str, max_new_tokens: int, **training: Any) -> Context:
        file = tmp_path / "prompts.jsonl"
        file.write_text("".join(json.dumps({"q": prompt}) + "\n" for prompt in prompts))
        data = {"kind": "jsonl", "path": str(file), "prompt": "{q}"}
        sampling = {"max_new_tokens": max_new_tokens}
        teacher = {"kind": "api", "base_url": "http://127.0.0.1:9/v1", "model": "m"}
        steps = {"steps": 2, "batch_size": 4, "learning_rate": 1e-3}
        return make_context(
            make_recipe(
                teacher=teacher | {"sampling": sampling}, data=data, training=steps | training
            )
        )

    return make


def test_an_answer_that_may_be_too_long_is_refused_before_it_is_paid(
    make_asked: Callable[..., Context],
) -> None:
    context = make_asked("1+1=", "1+1+1=", max_new_tokens=15, max_tokens=20)

    with pytest.raises(WorkerError) as error:
        look_ahead(context)

    assert error.value.code == "too_long"
    assert "row 1 of the data may come to 21 tokens, 6 of its prompt" in error.value.message
    assert "training.max_tokens is 20" in error.value.message
    assert "Lower teacher.sampling.max_new_tokens to 14, raise tr" in error.value.remedy
    assert "set training.too_long to drop" in error.value.remedy
    look_ahead(make_asked("1+1=", "1+1+1=", max_new_tokens=14, max_tokens=20))


def test_an_answer_beyond_the_students_context_is_told_from_one_above_max_tokens(
    make_asked: Callable[..., Context],
) -> None:
    with pytest.raises(WorkerError, match="the student's context is 128") as error:
        look_ahead(make_asked("1+1=", max_new_tokens=125))

    assert "take a student with a longer context" in error.value.remedy
    look_ahead(make_asked("1+1=", max_new_tokens=124))


def test_with_drop_and_with_answers_that_are_there_nothing_is_too_long_ahead(
    make_asked: Callable[..., Context],
) -> None:
    look_ahead(make_asked("1+1=", LONG, max_new_tokens=1000, too_long="drop"))
    look_ahead(make_asked("1+1=", max_new_tokens=1000), is_answered=True)


@pytest.mark.parametrize("too_long", ["drop", "error"])
def test_prompts_that_leave_room_for_no_answer_at_all_are_refused(
    make_asked: Callable[..., Context], too_long: str
) -> None:
    with pytest.raises(WorkerError, match="the shortest has 128 tokens, and the student's context"):
        look_ahead(make_asked(LONG, LONG + "1", max_new_tokens=10, too_long=too_long))


def test_a_prompt_that_the_student_cannot_read_is_refused_before_it_is_answered(
    make_asked: Callable[..., Context],
) -> None:
    with pytest.raises(WorkerError, match=r"no token for .*'h'") as error:
        look_ahead(make_asked("1+1=", "what?", max_new_tokens=10))

    assert error.value.code == "vocabulary"
