"""Commands around plans, from their arguments to their exit codes."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import recipes
from launcher.cli import cli
from launcher.outside import Outside

Still = Callable[..., Result]

TINY = """\
name: tiny
teacher: {kind: none}
student:
  {kind: new, characters: "0123456789", layers: 1, hidden_size: 8, heads: 1, intermediate_size: 8}
data: {kind: generated, rows: 10, prompt: "{question}", completion: "{answer}"}
training: {steps: 100, batch_size: 2, learning_rate: 0.001}
hardware: {local: true, usd_per_hour: 3.60}
budget: {usd: 1.00}
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


# ---- still diff ------------------------------------------------------------------------------


def test_diff_prices_two_local_recipes_and_names_what_differs(
    still: Still, recipe_file: Path, tmp_path: Path
) -> None:
    dearer = tmp_path / "dearer.yaml"
    dearer.write_text(TINY.replace("3.60", "7.20").replace("name: tiny", "name: dearer"))

    text = still("diff", recipe_file, dearer)
    said = json.loads(still("diff", recipe_file, dearer, "--json").stdout)

    assert text.exit_code == 0, text.stderr
    assert "dearer - tiny" in text.stdout
    assert "- hardware.usd_per_hour: 3.60 -> 7.20" in text.stdout
    assert said["difference"]["usd"]["p50"] == said["a"]["usd"]["p50"]
    assert Decimal(said["difference"]["hours"]["p50"]) == 0


def test_diff_names_the_file_that_is_wrong(still: Still, recipe_file: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(TINY.replace("usd: 1.00", "usd: -1"))

    result = still("diff", recipe_file, wrong)

    assert result.exit_code == 2
    assert "wrong.yaml:8 budget.usd" in result.stderr


# ---- still plan --save, still launch --plan --------------------------------------------------


@pytest.fixture
def plan_file(still: Still, recipe_file: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.plan.json"
    result = still("plan", recipe_file, "--save", path)
    assert result.exit_code == 0, result.stderr
    return path


def test_a_saved_plan_is_launched_as_it_stands(
    still: Still, outside: Outside, recipe_file: Path, plan_file: Path
) -> None:
    said = json.loads(plan_file.read_text())

    result = still("launch", recipe_file, "--plan", plan_file, "--yes")

    assert result.exit_code == 0, result.stderr
    (books,) = outside.ledger.runs()
    assert books.opened.plan["hash"] == said["hash"]
    assert f"plan {said['hash']}" in result.stderr


def test_a_saved_plan_is_refused_for_another_recipe_and_starts_nothing(
    still: Still, outside: Outside, recipe_file: Path, plan_file: Path
) -> None:
    result = still("launch", recipe_file, "--plan", plan_file, "--yes", "--set", "training.steps=9")

    assert result.exit_code == 3
    assert "training.steps: 100 -> 9" in result.stderr
    assert outside.ledger.runs() == []


def test_a_price_above_the_tolerance_is_refused_and_one_within_it_is_paid_and_said(
    still: Still, outside: Outside, recipe_file: Path, plan_file: Path
) -> None:
    words = ("launch", recipe_file, "--plan", plan_file, "--yes", "--usd-per-hour", "4.20")

    refused = still(*words)
    assert refused.exit_code == 3
    assert "$4.20/h now and $3.60/h in the plan" in refused.stderr
    assert outside.ledger.runs() == []

    paid = still(*words, "--tolerance", "20")
    assert paid.exit_code == 0, paid.stderr
    (attempt,) = outside.ledger.runs()[0].attempts
    assert str(attempt.usd_per_hour) == "4.20"


def test_a_saved_plan_above_its_budget_does_not_start_either(
    still: Still, outside: Outside, recipe_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "dear.json"
    small = ("--budget", "0.0001")

    saved = still("plan", recipe_file, *small, "-o", path)
    launched = still("launch", recipe_file, *small, "--plan", path, "--yes")

    assert (saved.exit_code, launched.exit_code) == (3, 3)
    assert path.exists()
    assert outside.ledger.runs() == []


def test_a_tolerance_without_a_plan_is_not_passed_over(still: Still, recipe_file: Path) -> None:
    result = still("launch", recipe_file, "--yes", "--tolerance", "5")

    assert result.exit_code == 2
    assert "give --plan FILE too" in result.stderr


def test_a_plan_that_is_a_recipe_is_named(still: Still, recipe_file: Path) -> None:
    result = still("launch", recipe_file, "--plan", recipe_file, "--yes")

    assert result.exit_code == 2
    assert f"{recipe_file} is not a valid SavedPlan" in result.stderr


# ---- what would fit --------------------------------------------------------------------------


def test_a_refusal_on_rented_machines_says_how_much_would_fit_and_where_else_all_of_it(
    own_home: Path, sky_home: Path, clock: Callable[[], float]
) -> None:
    environ = {"STILLHOUSE_HOME": str(own_home), "HOME": str(sky_home)}
    world = Outside(environ=environ, clock=clock)
    shipped = Path(recipes.__file__).parent

    over = CliRunner(mix_stderr=False).invoke(
        cli, ["plan", str(shipped / "s1.yaml"), "--budget", "40"], obj=world
    )
    late = CliRunner(mix_stderr=False).invoke(
        cli,
        ["plan", str(shipped / "reasoning-7b.yaml"), "--hours", "0.8", "--budget", "60"],
        obj=world,
    )

    assert over.exit_code == 3
    assert "of 1,000 samples (--set data.rows=" in over.stderr
    assert late.exit_code == 3
    assert " instead (hardware.accelerators H100:8, hardware.nodes 2)" in late.stderr
