"""What is known of data and models before anything is paid, and what is said where it is not."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_model import CONFIG

from launcher.plans.read_facts import read_facts
from recipes.errors import InvalidInputError, RefusedError
from recipes.recipe import Recipe

NEW = {
    "kind": "new",
    "characters": "0123456789+=>,;",
    "layers": 2,
    "hidden_size": 64,
    "heads": 4,
    "intermediate_size": 176,
    "context_tokens": 64,
}
KNOWN = {"kind": "pretrained", "model": "Qwen/Qwen2.5-0.5B-Instruct"}
HUB = {"kind": "hub", "dataset": "a/b", "revision": "1", "prompt": "{q}", "completion": "{a}"}


def recipe(data: dict[str, Any], student: dict[str, Any] = KNOWN, **changes: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "r",
            "teacher": {"kind": "none"},
            "student": student,
            "data": data,
            "training": {"epochs": 1, "batch_size": 1, "learning_rate": 1e-5},
            "budget": {"usd": 1},
            **changes,
        }
    )


def jsonl(folder: Path, *lines: str) -> dict[str, Any]:
    path = folder / "data.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"kind": "jsonl", "path": str(path), "prompt": "Q: {q}", "completion": "{a}"}


# ---- data on the hub -------------------------------------------------------------------------


def test_data_on_the_hub_are_what_the_recipe_says() -> None:
    rows = read_facts(recipe({**HUB, "rows": 1000, "expected_tokens": 4700})).rows

    assert rows.count == 1000
    assert rows.tokens.p10 == rows.tokens.p90 == 4700
    assert rows.longest_tokens is None


@pytest.mark.parametrize(
    ("known", "field"), [({"rows": 10}, "expected_tokens"), ({"expected_tokens": 10}, "rows")]
)
def test_data_on_the_hub_of_unknown_size_are_refused_and_the_field_is_named(
    known: dict[str, int], field: str
) -> None:
    with pytest.raises(RefusedError, match=rf"^data\.{field}: .* Give data\.{field}: "):
        read_facts(recipe({**HUB, **known}))


def test_problems_of_unknown_number_are_refused_too() -> None:
    task = {"kind": "exact_match", "task": "t", "data": {**HUB, "expected_tokens": 5}}
    generated = {"kind": "generated", "rows": 3, "prompt": "{question}", "completion": "x"}

    with pytest.raises(RefusedError, match=r"^evaluation\.0\.data\.rows: "):
        read_facts(recipe(generated, evaluation=[task]))


# ---- data that are made ----------------------------------------------------------------------


@pytest.mark.parametrize("digits", [1, 3, 7])
def test_made_up_additions_are_as_long_as_the_worker_makes_them(digits: int) -> None:
    from distill.additions import additions

    data = {
        "kind": "generated",
        "rows": 100,
        "digits": digits,
        "prompt": "{question}=",
        "completion": "{working};{answer}",
    }
    made = [
        sum(map(len, (each.question, each.working, each.answer))) + len("=;") + 1
        for each, _ in zip(additions(digits=digits, part="train", seed=0), range(60), strict=False)
    ]

    rows = read_facts(recipe(data, NEW)).rows

    assert rows.longest_tokens == max(made)
    assert rows.tokens.p50 == pytest.approx(sum(made) / len(made), abs=1)


def test_a_prompt_is_counted_in_bytes_where_bytes_are_asked_for() -> None:
    data = {"kind": "generated", "rows": 3, "digits": 2, "prompt": "计算 {question}"}

    rows = read_facts(recipe({**data, "completion": "{answer}"}, NEW)).rows

    assert rows.prompt_tokens.p50 == 3 + 5  # characters, 00+00 among them
    assert rows.longest_prompt_bytes == 3 + 3 + 1 + 5
    assert rows.prompt_bytes == 3 * (3 + 3 + 1 + 5)


# ---- data in files ---------------------------------------------------------------------------


def test_a_file_is_filled_in_and_measured_in_characters_for_a_new_student(tmp_path: Path) -> None:
    data = jsonl(tmp_path, '{"q": "é1", "a": "345", "other": "x"}', "", '{"q": "2", "a": "67"}')

    rows = read_facts(recipe(data, NEW)).rows

    assert rows.count == 2
    assert rows.prompt_tokens.p50 == (5 + 4) / 2
    assert rows.tokens.p50 == (8 + 6) / 2
    assert rows.prompt_bytes == 6 + 4
    assert rows.longest_prompt_bytes == 6


def test_for_any_other_student_a_token_is_some_bytes(tmp_path: Path) -> None:
    data = jsonl(tmp_path, json.dumps({"q": "x" * 597, "a": "y" * 600}))

    rows = read_facts(recipe(data)).rows

    assert (rows.tokens.p10, rows.tokens.p50, rows.tokens.p90) == (240, 300, 400)
    assert rows.prompt_tokens.p50 == 150
    assert rows.longest_tokens == 401


def test_only_so_many_rows_are_read_as_are_taken(tmp_path: Path) -> None:
    data = jsonl(tmp_path, '{"q": "1", "a": "2"}', "this is no JSON")

    assert read_facts(recipe({**data, "rows": 1})).rows.count == 1
    with pytest.raises(InvalidInputError, match=r"data\.jsonl:2: not JSON"):
        read_facts(recipe(data))


@pytest.mark.parametrize(
    ("line", "said"),
    [('{"q": "1"}', ":1: has no column a"), ("[1]", ":1: is no object"), ("", "has no rows")],
)
def test_a_file_that_cannot_be_used_is_told_with_its_line(
    tmp_path: Path, line: str, said: str
) -> None:
    with pytest.raises(InvalidInputError) as refused:
        read_facts(recipe(jsonl(tmp_path, line)))

    assert said in str(refused.value)


def test_a_file_that_is_gone_is_told(tmp_path: Path) -> None:
    data = jsonl(tmp_path, "{}")
    Path(data["path"]).unlink()

    with pytest.raises(InvalidInputError, match="cannot be read: No such file"):
        read_facts(recipe(data))


def test_parquet_is_measured_like_any_file(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    path = tmp_path / "data.parquet"
    parquet.write_table(pa.table({"q": ["12", "3456"], "a": ["7", "8"], "n": [1, 2]}), path)
    data = {"kind": "parquet", "path": str(path), "prompt": "{q}", "completion": "{a}{n}"}

    rows = read_facts(recipe(data, NEW)).rows

    assert (rows.count, rows.tokens.p50) == (2, (4 + 6) / 2)
    with pytest.raises(InvalidInputError, match="has no column z"):
        read_facts(recipe({**data, "prompt": "{z}"}))
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InvalidInputError, match="cannot be read as Parquet"):
        read_facts(recipe(data))


# ---- models ----------------------------------------------------------------------------------


def test_a_common_model_is_known() -> None:
    data = {**HUB, "rows": 1, "expected_tokens": 1}

    assert read_facts(recipe(data)).student.params == 494_032_768


@pytest.mark.slow
def test_a_new_student_is_as_large_as_the_worker_makes_it() -> None:
    from distill.models import new_student

    data = {**HUB, "rows": 1, "expected_tokens": 1}
    student = recipe(data, NEW).student
    assert student.kind == "new"
    model, _ = new_student(student)
    assert read_facts(recipe(data, NEW)).student.params == sum(
        parameter.numel() for parameter in model.parameters()
    )


def test_a_model_that_is_not_in_the_table_is_refused_and_what_to_do_is_said() -> None:
    data = {**HUB, "rows": 1, "expected_tokens": 1}

    with pytest.raises(RefusedError, match=r"student\.model: the size of a/strange is unknown"):
        read_facts(recipe(data, {"kind": "pretrained", "model": "a/strange"}))


def test_a_folder_is_read_from_its_own_config(tmp_path: Path) -> None:
    made = recipe(
        {"kind": "generated", "rows": 1, "prompt": "{question}"},
        teacher={"kind": "model", "model": str(tmp_path)},
    )

    with pytest.raises(InvalidInputError, match=r"^teacher\.model: .*config\.json cannot be read"):
        read_facts(made)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InvalidInputError, match="must hold an object"):
        read_facts(made)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    teacher = read_facts(made).teacher
    assert teacher is not None
    assert teacher.layers == 3
