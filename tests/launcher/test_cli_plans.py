"""Commands around plans, from their arguments to their exit codes."""

import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny_recipe import TINY

import recipes
from launcher.cli import cli
from launcher.outside import Outside
from launcher.plans.fits import OverBudgetPlanError
from launcher.plans.rehearsal import STEPS
from launcher.rehearse import DearRehearsalError, plan_rehearsal
from recipes.loading import load_recipe, with_changes
from recipes.rundir import Done, StageDone, StageStarted, TrainStep, WorkerEnded, write_model

Still = Callable[..., Result]

# The scripted machine and its worker are of conftest.
ScriptedMachine = Any
Worker = Any


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


# ---- still rehearse --------------------------------------------------------------------------


def rehearses(step_s: float) -> Any:
    """A worker whose steps take so long, and that ends when it was told to."""

    def worker_of(worker: Worker) -> Iterator[None]:
        worker.boot()
        yield
        worker.say(StageStarted, stage="train")
        steps = worker.run.read_recipe().training.steps
        for step in range(1, steps + 1):
            worker.clock.now += step_s
            worker.say(
                TrainStep,
                step=step,
                steps=steps,
                loss=1.0,
                learning_rate=0.001,
                grad_norm=1.0,
                tokens=10 * step,
                completion_tokens=10 * step,
                tokens_per_s=1.0,
                memory_bytes=500_000_000,
            )
        worker.say(StageDone, stage="train")
        done = Done(status="done", steps=steps, of_steps=steps, finished_at=worker.clock())
        write_model(worker.run.done, done)
        worker.say(WorkerEnded, status="done")

    return worker_of


def test_a_rehearsal_is_a_run_of_its_own_and_the_next_plan_knows_what_it_measured(
    still: Still, outside: Outside, recipe_file: Path, machine: ScriptedMachine
) -> None:
    machine.scripts = [rehearses(0.4)]
    before = json.loads(still("plan", recipe_file, "--json").stdout)

    result = still("rehearse", recipe_file, "--usd", "0.5", "--yes")

    assert result.exit_code == 0, result.stderr
    assert "measured: 24 steps of 0.4 s, 25 tokens/s, 0.50 GB of memory" in result.stdout
    assert "after - before" in result.stdout
    (books,) = outside.ledger.runs()
    assert books.recipe_name == "tiny-rehearsal"
    assert books.budget_micro_usd == 500_000
    assert 0 < books.spent_micro_usd < 500_000
    after = json.loads(still("plan", recipe_file, "--json").stdout)
    assert Decimal(after["hours"]["p50"]) > 3 * Decimal(before["hours"]["p50"]) / 2
    assert f"as measured by {books.run_id}" in after["assumptions"][-1]


def test_a_rehearsal_for_programs_has_receipt_measurement_and_both_plans(
    still: Still, recipe_file: Path, machine: ScriptedMachine
) -> None:
    machine.scripts = [rehearses(0.4)]

    said = json.loads(still("rehearse", recipe_file, "--yes", "--json").stdout)

    assert said["measured"]["tokens_per_s"] == pytest.approx(25)
    assert said["receipt"]["run_id"] == said["run_id"]
    assert Decimal(said["difference"]["usd"]["p50"]) > 0
    assert said["fields"] == []


def test_a_rehearsal_that_would_cost_more_is_refused_with_what_it_takes(
    still: Still, outside: Outside, recipe_file: Path
) -> None:
    result = still("rehearse", recipe_file, "--usd", "0.001", "--yes")

    assert result.exit_code == 3
    assert "steps on this machine come to $0.0160" in result.stderr
    assert "--usd is $0.0010" in result.stderr
    assert "Give --usd 0.03." in result.stderr
    assert outside.ledger.runs() == []


@pytest.mark.parametrize("amount", ["0", "-1", "much", "nan", "inf"])
def test_a_rehearsal_costs_an_amount(still: Still, recipe_file: Path, amount: str) -> None:
    result = still("rehearse", recipe_file, f"--usd={amount}", "--yes")

    assert result.exit_code == 2
    assert "above 0" in result.stderr


def test_a_rehearsal_that_is_cut_short_says_what_it_measured_and_exits_with_5(
    still: Still, recipe_file: Path, machine: ScriptedMachine
) -> None:
    def stops(worker: Worker) -> Iterator[None]:
        worker.boot()
        done = Done(status="stopped", reason="budget", steps=0, of_steps=25, finished_at=1.0)
        write_model(worker.run.done, done)
        worker.say(WorkerEnded, status="stopped")
        yield

    machine.scripts = [stops]

    result = still("rehearse", recipe_file, "--usd", "0.5", "--yes")

    assert result.exit_code == 5
    assert "measured: nothing: it ended too soon" in result.stdout


def test_a_rehearsal_with_less_than_its_machine_is_begun_with_is_refused_with_what_it_takes(
    own_home: Path, sky_home: Path, clock: Callable[[], float]
) -> None:
    world = Outside(environ={"STILLHOUSE_HOME": str(own_home), "HOME": str(sky_home)}, clock=clock)
    folder = Path(recipes.__file__).parent
    made = world.pricing.plan(load_recipe(folder / "reasoning-7b.yaml"), folder)

    with pytest.raises(DearRehearsalError, match="is not begun with less than") as refused:
        plan_rehearsal(world, made, "6.5")

    assert refused.value.plan.usd.p90 < Decimal("6.5")
    (enough,) = re.findall(r"Give --usd ([\d.]+),", str(refused.value))
    assert plan_rehearsal(world, made, enough).plan.offer == refused.value.plan.offer


def test_a_rehearsal_of_a_run_with_few_hours_is_not_refused_for_them(
    own_home: Path, sky_home: Path, clock: Callable[[], float]
) -> None:
    """More dollars, which the refusal asked for, would not have helped."""
    world = Outside(environ={"STILLHOUSE_HOME": str(own_home), "HOME": str(sky_home)}, clock=clock)
    folder = Path(recipes.__file__).parent
    short = with_changes(load_recipe(folder / "reasoning-7b.yaml"), {"budget.hours": "0.15"})
    made = world.pricing.plan(short, folder)

    planned = plan_rehearsal(world, made, "50")

    assert planned.plan.hours.p90 > Decimal("0.15")
    assert planned.plan.needed_usd < 50


def test_not_even_a_part_is_accepted_of_a_run_that_cannot_begin(
    own_home: Path, sky_home: Path, clock: Callable[[], float]
) -> None:
    world = Outside(environ={"STILLHOUSE_HOME": str(own_home), "HOME": str(sky_home)}, clock=clock)
    folder = Path(recipes.__file__).parent
    s1 = load_recipe(folder / "s1.yaml")

    def check(usd: str, hours: str) -> None:
        changes = {"budget.usd": usd, "budget.hours": hours}
        made = world.pricing.plan(with_changes(s1, changes), folder)
        world.pricing.check_fits(made, accept_partial=True)

    check("25", "0.2")
    with pytest.raises(OverBudgetPlanError, match="is not begun with less than"):
        check("5", "0.2")
    with pytest.raises(OverBudgetPlanError, match="no machine is begun with less"):
        check("25", "0.15")


def test_no_offer_is_both_spot_and_on_demand(still: Still) -> None:
    result = still("offers", "--spot", "--on-demand")

    assert result.exit_code == 2
    assert "neither" in result.stderr


def test_what_does_not_fit_on_one_machine_is_rehearsed_on_as_many_as_it_asks_for(
    own_home: Path, sky_home: Path, clock: Callable[[], float]
) -> None:
    world = Outside(environ={"STILLHOUSE_HOME": str(own_home), "HOME": str(sky_home)}, clock=clock)
    folder = Path(recipes.__file__).parent

    large, small = (
        plan_rehearsal(
            world, world.pricing.plan(load_recipe(folder / f"{name}.yaml"), folder), "50"
        )
        for name in ("s1", "reasoning-7b")
    )

    assert large.plan.offer.nodes == 2
    assert small.plan.offer.nodes == 1
    assert large.plan.units == {"train": STEPS}
    assert [line.name for line in large.plan.lines if line.name == "evaluate"] == []
