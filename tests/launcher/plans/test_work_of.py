"""What a recipe comes to, before any machine is looked at."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.estimate.models import find_model
from launcher.estimate.quantiles import Quantiles
from launcher.plans.work_of import ANSWER_SHARE, Facts, Rows, work_of
from recipes.errors import RefusedError
from recipes.recipe import Recipe

STUDENT = "Qwen/Qwen2.5-1.5B-Instruct"
TEACHER = "Qwen/Qwen2.5-7B-Instruct"


def recipe(**changes: Any) -> Recipe:
    parts: dict[str, Any] = {
        "name": "r",
        "teacher": {"kind": "dataset", "model": "somebody"},
        "student": {"kind": "pretrained", "model": STUDENT},
        "data": {"kind": "hub", "dataset": "a/b", "revision": "1", "prompt": "{q}"},
        "training": {"epochs": 2, "batch_size": 16, "learning_rate": 1e-5},
        "budget": {"usd": 50},
    }
    parts |= changes
    if parts["teacher"]["kind"] not in ("model", "api"):
        parts["data"] = {"completion": "{a}", **parts["data"]}
    return Recipe.model_validate(parts)


def rows(count: int = 1000, tokens: float = 500.0, **changes: Any) -> Rows:
    exactly = Quantiles.exactly(tokens)
    fields: dict[str, Any] = {
        "count": count,
        "tokens": exactly,
        "prompt_tokens": exactly,
        "prompt_bytes": int(count * tokens * 4),
        "longest_prompt_bytes": None,
        "longest_tokens": None,
        "source": "made up",
    }
    return Rows(**fields | changes)


def facts(data: Rows | None = None, *tasks: Rows, teacher: bool = False) -> Facts:
    student, known = find_model(STUDENT), find_model(TEACHER)
    assert student is not None
    return Facts(data or rows(), tasks, student, known if teacher else None)


def writes(kind: str, **sampling: Any) -> dict[str, Any]:
    if kind == "model":
        return {"kind": kind, "model": TEACHER, "sampling": sampling}
    url = "https://example.org/v1"
    return {"kind": kind, "base_url": url, "model": "m", "concurrency": 10, "sampling": sampling}


# ---- training --------------------------------------------------------------------------------


def test_tokens_are_rows_times_their_length_times_epochs() -> None:
    work = work_of(recipe(), facts(rows(1024, 500)))

    assert work.steps == 128
    assert work.training.train_tokens == 2 * 1024 * 500
    assert work.training.sample_tokens == 500
    assert work.training.step_tokens == 16 * 500


def test_steps_count_as_the_worker_counts_them() -> None:
    from distill.batching import planned_steps

    for count, epochs, batch in [(1000, 5, 16), (7, 0.1, 4), (33, 2.5, 32), (5, 3, 100)]:
        training = {"epochs": epochs, "batch_size": batch, "learning_rate": 1e-5}
        made = recipe(training=training)
        assert work_of(made, facts(rows(count))).steps == planned_steps(made, count)


def test_steps_that_the_recipe_gives_decide_the_tokens() -> None:
    training = {"steps": 32, "batch_size": 16, "learning_rate": 1e-5}

    work = work_of(recipe(training=training), facts(rows(1024, 500)))

    assert work.steps == 32
    assert work.training.train_tokens == 32 * 16 * 500


def test_no_sample_is_longer_than_what_fits() -> None:
    training = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-5, "max_tokens": 300}

    work = work_of(recipe(training=training), facts(rows(4, 500)))

    assert work.training.sample_tokens == 300
    assert work.longest_tokens == 300


def test_the_longest_sample_is_the_longest_row_where_it_was_measured() -> None:
    assert work_of(recipe(), facts(rows(longest_tokens=777))).longest_tokens == 777
    assert work_of(recipe(), facts(rows(longest_tokens=None))).longest_tokens == 4096


# ---- what has to be written ------------------------------------------------------------------


def test_what_a_teacher_of_ours_writes_is_learnt_and_its_length_is_not_known_before() -> None:
    made = recipe(teacher=writes("model", max_new_tokens=1000, batch_size=8))

    work = work_of(made, facts(rows(100, 200), teacher=True))

    assert work.generation is not None
    assert (work.generation.count, work.generation.most_tokens) == (100, 1000)
    assert work.training.sample_tokens == 200 + 500
    assert work.token_spread.p10 == pytest.approx(300 / 700)
    assert work.token_spread.p90 == pytest.approx(1200 / 700)
    assert work.prompt_bytes == 100 * 200 * 4


def test_several_answers_to_a_prompt_are_so_many_samples() -> None:
    teacher = writes("model", max_new_tokens=1000, samples_per_prompt=4, temperature=0.7)

    work = work_of(recipe(teacher=teacher), facts(rows(100), teacher=True))

    assert work.generation is not None
    assert work.generation.count == 400
    assert work.steps == 50  # two epochs of 25 steps


def test_an_endpoint_is_asked_from_home_and_no_machine_waits_for_it() -> None:
    made = recipe(teacher=writes("api", max_new_tokens=1000))

    work = work_of(made, facts(rows(100)))

    assert work.generation is None
    assert work.asked == 100
    # 100 answers of up to 1,000 tokens, ten at a time and 50 tokens a second
    assert work.home_hours == ANSWER_SHARE.times(200 / 3600)


@pytest.mark.parametrize("kind", ["model", "api"])
def test_answers_that_may_make_samples_too_long_are_refused_unless_these_are_dropped(
    kind: str,
) -> None:
    training = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-5, "max_tokens": 2000}
    data = facts(rows(100, 200), teacher=kind == "model")

    def planned(most: int, too_long: str) -> None:
        teacher = writes(kind, max_new_tokens=most)
        work_of(recipe(teacher=teacher, training=training | {"too_long": too_long}), data)

    planned(1800, "error")
    planned(1801, "drop")
    with pytest.raises(
        RefusedError, match=r"up to 1801 tokens .* about 200 may come to more than 2"
    ):
        planned(1801, "error")


def test_nobody_is_asked_where_the_completions_are_there() -> None:
    work = work_of(recipe(), facts())

    assert work.asked == 0
    assert work.home_hours == Quantiles.exactly(0.0)
    assert work.prompt_bytes is None


def test_an_exam_has_the_problems_and_the_limits_of_its_task() -> None:
    task = {
        "kind": "exact_match",
        "task": "sums",
        "data": {"kind": "generated", "rows": 9, "prompt": "{question}", "completion": "{answer}"},
        "max_new_tokens": 100_000,
        "batch_size": 3,
    }

    (exam,) = work_of(recipe(evaluation=[task]), facts(rows(), rows(9, 50.0))).exams

    assert (exam.what, exam.field, exam.count, exam.at_once) == ("sums", "evaluation.0", 9, 3)
    # the student's context has no room for more
    assert exam.most_tokens == (exam.model.context_tokens or 0) - 50


# ---- models ----------------------------------------------------------------------------------


def test_weights_are_fetched_and_a_new_student_is_not() -> None:
    teacher = writes("model", max_new_tokens=10)
    both = work_of(recipe(teacher=teacher), facts(teacher=True)).download_bytes
    student = {
        "kind": "new",
        "characters": "01",
        "layers": 1,
        "hidden_size": 8,
        "heads": 1,
        "intermediate_size": 8,
    }
    new = work_of(recipe(student=student), facts()).download_bytes

    assert both == pytest.approx(2 * (1.544e9 + 7.616e9), rel=1e-3)
    assert new == 0


@given(
    count=st.integers(1, 10**6),
    tokens=st.floats(1, 5000),
    epochs=st.floats(0.01, 100),
    batch=st.integers(1, 1000),
)
def test_tokens_follow_from_the_steps_that_are_taken(
    count: int, tokens: float, epochs: float, batch: int
) -> None:
    training = {"epochs": epochs, "batch_size": batch, "learning_rate": 1e-5}

    work = work_of(recipe(training=training), facts(rows(count, tokens)))

    passes = work.steps / math.ceil(count / batch)
    assert work.steps >= 1
    assert work.training.train_tokens == pytest.approx(passes * count * min(tokens, 4096))
