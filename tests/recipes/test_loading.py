"""A recipe's file becomes a recipe, or every fault of it with its line."""

import os
import pickle
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from recipes.errors import InvalidInputError, InvalidRecipeError
from recipes.loading import load_recipe, parse_recipe

Faults = Callable[[str | bytes], list[str]]
Changed = Callable[[str, str], str]

MANY_FAULTS = """\
# line 1
name: Small Student
descripton: what it does
teacher:
  kind: model
  model: ""
  base_url: https://example.org
  sampling: {temperature: -1, tpo_p: 0.5}
student:
  kind: pretraind
data:
  kind: generated
  prompt: "{a b}"
  rows: 1e3
  completion: "{answer}"
training:
  batch_size: 5
  micro_batch_size: 2
  learning_rate: -3e-3
  epochs: 1
  steps: 2
  betas: [0.9]
evaluation:
  - task: one
    data: {kind: jsonl, path: x, prompt: "{q}", digits: 3}
  - task: two
    data: {kind: jsonl, path: x, prompt: "{q}", completion: "{a}"}
    answer_pattern: "(a"
hardware:
  local: yes
  spot: maybe
budget:
  usd: -5
  hours: [1]
"""


def test_every_fault_of_a_file_is_told_at_once_with_line_field_and_what_would_be_right(
    faults: Faults,
) -> None:
    assert faults(MANY_FAULTS) == [
        "small.yaml:2 name: must be lower-case letters, digits and dashes, 40 at most, "
        "is 'Small Student'",
        "small.yaml:3 descripton: is not a field: did you mean description?",
        "small.yaml:6 teacher.model: must have at least 1 character, has 0",
        "small.yaml:7 teacher.base_url: is only for kind api",
        "small.yaml:8 teacher.sampling.temperature: must be at least 0, is -1",
        "small.yaml:8 teacher.sampling.tpo_p: is not a field: did you mean top_p?",
        "small.yaml:10 student.kind: must be pretrained or new, is 'pretraind': "
        "did you mean pretrained?",
        "small.yaml:13 data.prompt: {a b} is not a column: write {name}, and {{ or }} for a brace",
        "small.yaml:14 data.rows: must be a whole number, is 1e3",
        "small.yaml:15 data.completion: must be left out: the teacher writes the completions",
        "small.yaml:18 training.micro_batch_size: must divide batch_size (5), is 2",
        "small.yaml:19 training.learning_rate: must be above 0, is -3e-3",
        "small.yaml:21 training.steps: give either epochs or steps, not both",
        "small.yaml:22 training.betas.1: is missing: the list is too short",
        "small.yaml:25 evaluation.0.data.digits: is only for kind generated",
        "small.yaml:25 evaluation.0.data.completion: is missing: it is the reference to compare "
        "with",
        "small.yaml:28 evaluation.1.answer_pattern: is not a regular expression: missing ), "
        "unterminated subpattern at position 0",
        "small.yaml:29 hardware.usd_per_hour: is missing: what an hour of this machine costs",
        "small.yaml:31 hardware.spot: must be true or false, is 'maybe'",
        "small.yaml:33 budget.usd: must be above 0, is -5",
        "small.yaml:34 budget.hours: must be a number, is a list",
    ]


def test_a_valid_recipe_has_no_fault(valid: str, faults: Faults) -> None:
    assert faults(valid) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("name: small\n", "", "1 name: is missing: what its runs are called; also the MLflow"),
        ("budget:\n  usd: 0.1\n", "", "1 budget: is missing: what it may cost"),
        (
            "budget:\n  usd: 0.1",
            "budget:",
            "27 budget: must be a map of fields (usd, hours), is empty",
        ),
        ("usd: 0.1", "usd: 5 dollars", "28 budget.usd: must be a number, is '5 dollars'"),
        ("usd: 0.1", "usd: .inf", "28 budget.usd: must be a number, is '.inf'"),
        ("usd: 0.1", "usd: 1e99", "28 budget.usd: must be at most 10,000,000, is 1e99"),
        ("learning_rate: 3e-4", "learning_rate: nan", "15 training.learning_rate: must be a num"),
        ("epochs: 2", "epochs:", "13 training.epochs: is missing: give either epochs or steps"),
        ("batch_size: 8", "batch_size: 8.5", "14 training.batch_size: must be a whole number, is"),
        ("batch_size: 8", "batch_size: [8]", "14 training.batch_size: must be a whole number, is"),
        ("batch_size: 8", "dtype: fp16", "14 training.dtype: must be float32 or bfloat16, is"),
        ("  kind: generated\n  prompt", "  prompt", "8 data.kind: is missing: jsonl, parquet, hub"),
        ("- kind: exact_match", "- kind: bleu", "17 evaluation.0.kind: must be exact_match, is"),
        ("  - kind", "  - hello\n  - kind", "17 evaluation.0: must be a map of fields (kind, task"),
        ("name: small", "name:", "1 name: must be text, is empty"),
        ("name: small", "name: [small]", "1 name: must be text, is a list"),
        ("  - kind: exact_match\n    task", "    task", "16 evaluation: must be a list, is a map"),
        ("usd_per_hour: 0.12", "nodes: 2", "26 hardware.nodes: must be 1 with local: true, is 2"),
        ("local: true", "local: false", "26 hardware.usd_per_hour: is only for local: true"),
    ],
)
def test_a_fault_names_its_line_and_says_what_would_be_right(
    changed: Changed, faults: Faults, old: str, new: str, fault: str
) -> None:
    told = faults(changed(old, new))

    assert [each for each in told if each.startswith(f"small.yaml:{fault}")], told


def test_two_tasks_of_one_name_are_a_fault_of_the_second(valid: str, faults: Faults) -> None:
    task = valid[valid.index("  - kind") : valid.index("hardware:")]

    assert faults(valid.replace(task, task + task)) == [
        "small.yaml:25 evaluation.1.task: must differ from the others, is sums"
    ]


def test_nobody_to_write_the_completions_is_a_fault(changed: Changed, faults: Faults) -> None:
    text = changed("  kind: model\n  model: owner/teacher", "  kind: none")

    assert faults(text) == [
        "small.yaml:7 data.completion: is missing: with teacher.kind none the text to learn comes "
        "from the data"
    ]


def test_a_rule_is_not_called_broken_for_a_value_that_is_wrong_itself(
    changed: Changed, faults: Faults
) -> None:
    assert faults(changed("epochs: 2", "epochs: two")) == [
        "small.yaml:13 training.epochs: must be a number, is 'two'"
    ]
    assert faults(changed("local: true", "local: perhaps")) == [
        "small.yaml:25 hardware.local: must be true or false, is 'perhaps'"
    ]


@pytest.mark.parametrize("name", ["no", "on", "null-hypothesis", "2024-05-01", "0x10", "1e5"])
def test_a_name_is_text_whatever_else_it_may_look_like(changed: Changed, name: str) -> None:
    recipe = parse_recipe(changed("name: small", f"name: {name}").encode(), "small.yaml")

    assert recipe.name == name


@pytest.mark.parametrize(
    ("written", "meant"), [("3e-4", 3e-4), ("3.0e-4", 3e-4), ("+0.5", 0.5), (".5", 0.5), ("1", 1.0)]
)
def test_numbers_may_be_written_as_people_write_them(
    changed: Changed, written: str, meant: float
) -> None:
    text = changed("learning_rate: 3e-4", f"learning_rate: {written}")

    assert parse_recipe(text.encode(), "small.yaml").training.learning_rate == meant


def test_dollars_are_exactly_what_was_written(changed: Changed) -> None:
    usd = "0.1000000000000000055511151231257827"
    recipe = parse_recipe(changed("usd: 0.1", f"usd: {usd}").encode(), "small.yaml")

    assert recipe.budget.usd == Decimal(usd)
    assert recipe.hardware.usd_per_hour == Decimal("0.12")


def test_a_commit_that_looks_like_a_number_stays_a_commit(changed: Changed) -> None:
    text = changed("  model: owner/student", "  model: owner/student\n  revision: 1234e5")

    student = parse_recipe(text.encode(), "small.yaml").student

    assert student.kind == "pretrained"
    assert student.revision == "1234e5"


def test_digits_with_a_leading_zero_are_not_octal(changed: Changed) -> None:
    recipe = parse_recipe(changed("rows: 100", "rows: 0100").encode(), "small.yaml")

    assert recipe.data.rows == 100


def test_a_number_of_many_thousand_digits_is_a_fault_and_is_not_printed(
    changed: Changed, faults: Faults
) -> None:
    told = faults(changed("rows: 100", f"rows: {'9' * 100_000}"))

    assert told == ["small.yaml:11 data.rows: must be a whole number with fewer digits"]


def test_more_than_a_hundred_faults_are_counted(valid: str, faults: Faults) -> None:
    told = faults(valid + "".join(f"field{number}: 1\n" for number in range(150)))

    assert len(told) == 101
    assert told[-1] == "small.yaml: and 50 more"


def test_the_error_survives_pickling(faults: Faults) -> None:
    with pytest.raises(InvalidRecipeError) as caught:
        parse_recipe(b"name: x", "small.yaml")

    again = pickle.loads(pickle.dumps(caught.value))

    assert isinstance(again, InvalidInputError)
    assert str(again) == str(caught.value)
    assert again.exit_code == 2


# ---- files -----------------------------------------------------------------------------------


def test_a_file_is_read_and_named_as_it_was_given(tmp_path: Path, valid: str) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(valid.replace("0.1\n", "-1\n"))

    with pytest.raises(InvalidRecipeError) as caught:
        load_recipe(path)

    assert caught.value.faults == (f"{path}:28 budget.usd: must be above 0, is -1",)


def test_a_missing_file_a_folder_and_a_device_are_told_apart(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "none.yaml", "there is no such file"),
        (tmp_path, "is a folder: name the recipe in it"),
        (Path("/dev/zero"), "is not a file"),
        (Path("/proc/self/mem"), "cannot be read: input/output error"),
        (Path("a\0b"), "cannot be read: embedded null byte"),
        (Path("x" * 300), "cannot be read: file name too long"),
    ):
        with pytest.raises(InvalidRecipeError) as caught:
            load_recipe(path)
        assert caught.value.faults[0].endswith(f": {message}")
        assert len(caught.value.faults) == 1


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path, valid: str) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(valid)
    path.chmod(0)
    tmp_path.chmod(0o755)
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)  # root may read everything
    try:
        with pytest.raises(InvalidRecipeError, match="cannot be read: permission denied"):
            load_recipe(path)
    finally:
        os.seteuid(was)


def test_a_name_that_is_no_text_is_shown_escaped(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9\x1b[31m.yaml")
    path.write_text("- a list")

    with pytest.raises(InvalidRecipeError) as caught:
        load_recipe(path)

    assert "caf\\udce9\\x1b[31m.yaml:1: is a list" in str(caught.value)
    str(caught.value).encode()


def test_a_file_of_ten_megabytes_is_refused_without_reading_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_bytes(b"a: 1\n" * 2_000_000)

    with pytest.raises(InvalidRecipeError, match="is larger than 1 MB: this is not a recipe"):
        load_recipe(path)
