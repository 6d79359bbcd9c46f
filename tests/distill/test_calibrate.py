"""A trial measures every stage that a recipe has, on the real shapes, and leaves nothing behind."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill.calibrate import MIN_STEPS, main
from recipes.calibration import Calibration
from recipes.recipe import Recipe

ADDITIONS = {"kind": "generated", "digits": 1, "prompt": "{question}="}
TRAINING = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "dtype": "float32"}


@pytest.fixture
def trial(
    tmp_path: Path, make_recipe: Callable[..., Recipe], capsys: pytest.CaptureFixture[str]
) -> Callable[..., Calibration]:
    """Calibrate a recipe of 20 additions with these fields."""

    def calibrate(**fields: Any) -> Calibration:
        recipe = {
            "data": ADDITIONS | {"rows": 20, "completion": "{answer}"},
            "training": TRAINING,
        }
        file = tmp_path / "recipe.json"
        file.write_text(make_recipe(**(recipe | fields)).model_dump_json())
        assert main(file, time.time() - 5) == 0
        return Calibration.model_validate_json(capsys.readouterr().out)

    return calibrate


def test_labels_alone_need_only_the_training_tried(trial: Callable[..., Calibration]) -> None:
    measured = trial()

    assert measured.stages.keys() == {"train"}
    train = measured.stages["train"]
    assert (train.units, train.unit) == (6, "steps")  # two passes over 20 in batches of 8
    assert len(train.seconds_per_unit) >= MIN_STEPS
    assert all(seconds > 0 for seconds in train.seconds_per_unit)
    assert train.fixed_s > 0
    assert measured.checkpoint_s > 0
    assert measured.boot_s >= 5
    assert measured.device == "cpu"
    assert measured.prompt_bytes is None


def test_a_teacher_and_every_task_are_tried_too(
    trial: Callable[..., Calibration], model_folder: Path
) -> None:
    tasks = [
        {
            "task": f"task-{rows}",
            "data": ADDITIONS | {"rows": rows, "completion": "{answer}", "part": "held_out"},
            "max_new_tokens": 3,
        }
        for rows in (2, 5)
    ]
    sampling = {"max_new_tokens": 3, "batch_size": 4, "samples_per_prompt": 2, "temperature": 1}
    measured = trial(
        teacher={
            "kind": "model",
            "model": str(model_folder),
            "dtype": "float32",
            "sampling": sampling,
        },
        data=ADDITIONS | {"rows": 20},
        evaluation=tasks,
    )

    assert {stage: speed.units for stage, speed in measured.stages.items()} == {
        "generate": 40,
        "train": 10,
        "evaluate": 7,
    }
    assert all(min(speed.seconds_per_unit) > 0 for speed in measured.stages.values())
    # 20 prompts such as "1+2=".
    assert measured.prompt_bytes == 20 * 4
    assert measured.longest_prompt_bytes == 4


def test_a_teacher_behind_an_api_is_not_asked(trial: Callable[..., Calibration]) -> None:
    measured = trial(
        teacher={
            "kind": "api",
            "base_url": "http://127.0.0.1:1/v1",
            "model": "nobody",
            "concurrency": 10,
            "sampling": {"max_new_tokens": 100},
        },
        data=ADDITIONS | {"rows": 20},
    )

    generate = measured.stages["generate"]
    assert generate.units == 20
    # 100 tokens at 50 a second, ten at a time: a tenth, half and all of them.
    assert generate.seconds_per_unit == pytest.approx((0.02, 0.1, 0.2))
    assert measured.stages["train"].units == 6


def test_prompts_without_room_are_passed_over_where_the_run_would_drop_them(
    trial: Callable[..., Calibration], tmp_path: Path
) -> None:
    prompts = ["1+1=", *["1+" * 100] * 9]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps({"q": q}) + "\n" for q in prompts))
    teacher = {"kind": "api", "base_url": "http://127.0.0.1:1/v1", "model": "nobody"}

    measured = trial(
        teacher=teacher | {"sampling": {"max_new_tokens": 100}},
        data={"kind": "jsonl", "path": str(tmp_path / "q.jsonl"), "prompt": "{q}"},
        training=TRAINING | {"too_long": "drop"},
    )

    assert measured.stages["generate"].units == 10
    assert measured.stages["train"].units == 4


def test_answers_that_take_too_long_are_counted_as_the_longest_that_may_be(
    trial: Callable[..., Calibration], model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.calibrate.ANSWERS_S", 0.0)
    sampling = {"max_new_tokens": 60, "batch_size": 4}
    teacher = {"kind": "model", "model": str(model_folder), "dtype": "float32"}

    began = time.perf_counter()
    measured = trial(teacher=teacher | {"sampling": sampling}, data=ADDITIONS | {"rows": 8})

    (seconds,) = measured.stages["generate"].seconds_per_unit
    # Each batch was left after a token or two, and stands for 60.
    assert 0 < seconds < 60 * (time.perf_counter() - began)


def test_more_rows_are_more_units_at_the_same_speed(trial: Callable[..., Calibration]) -> None:
    data = ADDITIONS | {"rows": 60, "completion": "{answer}"}

    assert trial(data=data).stages["train"].units == 16


def test_the_trial_leaves_nothing_but_what_it_was_given(
    trial: Callable[..., Calibration], tmp_path: Path
) -> None:
    trial()

    assert [path.name for path in tmp_path.iterdir() if path.name != "stillhouse-home"] == [
        "recipe.json"
    ]


def test_what_would_fail_a_run_fails_its_trial_in_one_line(
    tmp_path: Path, make_recipe: Callable[..., Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"kind": "jsonl", "path": "/no/such.jsonl", "prompt": "{q}", "completion": "{a}"}
    file = tmp_path / "recipe.json"
    file.write_text(make_recipe(data=data).model_dump_json())

    assert main(file, time.time()) == 4

    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1].startswith("Error: /no/such.jsonl cannot be read")


def test_a_recipe_that_is_none_is_invalid_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps({"name": "x"}))

    assert main(file, time.time()) == 2
    assert "is not a valid Recipe" in capsys.readouterr().err
