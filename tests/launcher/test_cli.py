"""The command, from its arguments to its exit code."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from loopback_s3 import LoopbackS3
from tiny_recipe import TINY

from launcher.cli import cli
from launcher.outside import Outside
from launcher.pricing import Planned
from launcher.runs.wishes import make_wish
from recipes.errors import RefusedError
from recipes.loading import load_recipe
from recipes.recipe import Recipe
from recipes.rundir import Done, RunDir, WorkerEnded, write_model
from tracking.entries import StateChanged

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))

# The scripted machine, its clock and its worker are of conftest.
ScriptedMachine = Any
Clock = Any
Worker = Any


def stops_at_budget(worker: Worker) -> Any:
    worker.boot()
    worker.train(900.0)
    done = Done(status="stopped", reason="budget", steps=50, of_steps=100, finished_at=1.0)
    write_model(worker.run.done, done)
    worker.say(WorkerEnded, status="stopped")
    yield


def test_launch_runs_and_prints_the_receipt(still: Any, recipe_file: Path) -> None:
    result = still("launch", recipe_file, "--yes")

    assert result.exit_code == 0, result.stderr
    assert "metered" in result.stdout
    assert "started tiny-" in result.stderr


def test_json_goes_to_stdout_alone_with_the_keys_of_a_receipt(
    still: Any, recipe_file: Path
) -> None:
    result = still("launch", recipe_file, "--yes", "--json")

    receipt = json.loads(result.stdout)
    assert {
        "run_id",
        "recipe",
        "status",
        "estimated_usd",
        "metered_usd",
        "billed_usd",
        "lines",
        "wall_s",
        "stages",
        "scores",
        "teardown",
    } <= set(receipt)
    assert set(receipt["estimated_usd"]) == {"p10", "p50", "p90"}
    assert receipt["billed_usd"] is None  # unknown is not zero


def test_a_budget_too_small_refuses_with_exit_3_and_starts_nothing(
    still: Any, recipe_file: Path, machine: ScriptedMachine
) -> None:
    result = still("launch", recipe_file, "--yes", "--budget", "0.0001")

    assert result.exit_code == 3
    assert machine.starts == []
    assert "$0.0001" in result.stderr
    assert "Nothing was started" in result.stderr
    assert json.loads(still("ls", "--json").stdout) == []


def test_accept_partial_starts_what_may_not_fit_and_stops_with_exit_5(
    still: Any, recipe_file: Path, machine: ScriptedMachine
) -> None:
    machine.scripts = [stops_at_budget]

    result = still("launch", recipe_file, "--yes", "--budget", "0.01", "--accept-partial")

    assert result.exit_code == 5
    assert "after 50 of 100 steps" in result.stderr
    assert "metered" in result.stdout  # the receipt, also of a run cut short


def test_without_a_person_to_ask_and_without_yes_nothing_starts(
    still: Any, recipe_file: Path, machine: ScriptedMachine
) -> None:
    result = still("launch", recipe_file, text="y\n")

    assert result.exit_code == 3
    assert "--yes" in result.stderr
    assert machine.starts == []


def test_a_flag_changes_a_field_of_the_recipe(still: Any, recipe_file: Path) -> None:
    still("launch", recipe_file, "--yes", "--set", "training.seed=7", "--hours", "2")
    run_id = json.loads(still("ls", "--json").stdout)[0]["run_id"]
    folder = Path(still.__closure__[0].cell_contents.home.run(run_id).path)

    kept = json.loads((folder / "recipe.json").read_text())
    assert kept["training"]["seed"] == 7
    assert kept["budget"]["hours"] == "2"


def test_a_wrong_flag_names_the_field(still: Any, recipe_file: Path) -> None:
    unknown = still("plan", recipe_file, "--set", "training.stepz=7")
    shapeless = still("plan", recipe_file, "--set", "training.steps")

    assert (unknown.exit_code, shapeless.exit_code) == (2, 2)
    assert "training.stepz" in unknown.stderr
    assert "FIELD=VALUE" in shapeless.stderr


def test_plan_prints_lines_assumptions_and_the_total(still: Any, recipe_file: Path) -> None:
    text = still("plan", recipe_file)
    as_json = still("plan", recipe_file, "--json")

    assert text.exit_code == 0
    assert "train" in text.stdout
    assert "assumptions" in text.stdout
    assert json.loads(as_json.stdout)["usd"]["p50"].startswith("0.016")


def test_a_recipe_for_rented_machines_can_be_run_here_with_a_price(
    still: Any, recipe_file: Path
) -> None:
    text = TINY.replace("hardware: {local: true, usd_per_hour: 3.60}\n", "")
    recipe_file.write_text(text)

    result = still("launch", recipe_file, "--local", "--usd-per-hour", "3.60", "--yes")

    assert result.exit_code == 0, result.stderr


def test_a_run_that_stopped_goes_on_after_its_budget_was_raised(
    still: Any, recipe_file: Path, machine: ScriptedMachine
) -> None:
    machine.scripts = [stops_at_budget, *machine.scripts]
    still("launch", recipe_file, "--yes", "--accept-partial")

    raised = still("budget", "latest", "--raise", "1")
    resumed = still("resume", "latest")

    assert raised.exit_code == 0, raised.stderr
    assert "$2.00" in raised.stderr
    assert resumed.exit_code == 0, resumed.stderr


def rented(planned: Any, **parts: Any) -> Planned:
    """A plan of the same recipe for rented machines."""
    whole = {**planned.recipe.model_dump(), "hardware": {"accelerators": "H100:8"}, **parts}
    return Planned(Recipe.model_validate(whole), planned.plan)


def test_rented_machines_need_a_run_store(outside: Outside, recipe_file: Path) -> None:
    planned = outside.pricing.plan(load_recipe(recipe_file), recipe_file.parent)

    with pytest.raises(RefusedError, match="STILLHOUSE_STORE"):
        outside.driving.open_run(rented(planned), store=None)
    assert outside.ledger.runs() == []


def test_a_clock_that_is_wrong_rents_nothing_and_is_named(
    outside: Outside,
    recipe_file: Path,
    machine: ScriptedMachine,
    s3: LoopbackS3,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in s3.environ().items():
        monkeypatch.setenv(name, value)
    planned = outside.pricing.plan(load_recipe(recipe_file), recipe_file.parent)
    outside.environ = {**outside.environ, **s3.environ()}
    run_id = outside.driving.open_run(rented(planned), store=f"s3://{s3.bucket()}/runs")
    machine.rented = True

    with pytest.raises(RefusedError, match=f"ahead of the run store's.*still resume {run_id}"):
        outside.driving.launch(run_id, allow_remote_code=False)
    assert machine.starts == []
    assert not (outside.home.run(run_id).path / "watcher.log").exists()


@pytest.mark.parametrize("amount", ["0", "-1", "much", "nan", "inf", "1e30", "1e4400", "1e-9"])
def test_a_budget_is_raised_by_an_amount_only(still: Any, recipe_file: Path, amount: str) -> None:
    still("launch", recipe_file, "--yes")

    result = still("budget", "latest", f"--raise={amount}")

    assert result.exit_code == 2
    assert "above 0, 10,000,000 at most" in result.stderr
    assert still("ls").exit_code == 0  # what stands in the ledger can be read


def test_a_run_that_is_done_is_given_no_more_money(still: Any, recipe_file: Path) -> None:
    still("launch", recipe_file, "--yes")

    result = still("budget", "latest", "--raise", "1")

    assert result.exit_code == 3
    assert "is done" in result.stderr


def test_asking_again_for_a_run_that_is_over_changes_nothing_of_it(
    still: Any, recipe_file: Path, clock: Clock, outside: Outside
) -> None:
    still("launch", recipe_file, "--yes")
    receipt = still("show", "--json").stdout
    (books,) = outside.ledger.runs()
    clock.now += 86400.0

    assert still("resume", "latest").exit_code == 0

    assert still("show", "--json").stdout == receipt
    assert len(outside.ledger.books(books.run_id).states) == len(books.states)


def test_a_run_that_a_person_ends_was_interrupted_and_has_not_failed(
    still: Any, recipe_file: Path, machine: ScriptedMachine, outside: Outside
) -> None:
    def ended(worker: Worker) -> Any:
        worker.boot()
        make_wish(worker.run, "down")
        while True:
            yield

    machine.scripts = [ended, *machine.scripts]

    result = still("launch", recipe_file, "--yes")

    assert result.exit_code == 130
    assert "was ended" in result.stderr
    assert outside.ledger.runs()[0].state == "interrupted"
    assert still("resume", "latest").exit_code == 0


def test_what_a_watcher_refuses_is_said_by_who_started_it_and_not_the_runs_old_end(
    outside: Outside, recipe_file: Path, machine: ScriptedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = subprocess.Popen(
        [sys.executable, "-c", f"raise SystemExit({RefusedError.exit_code})"]
    )

    def start(run: RunDir, *_: Any, **__: Any) -> Any:
        (run.path / "watcher.log").write_text("warning: dear\nnot enough to begin\n")
        return refused

    monkeypatch.setattr("launcher.driving.start_watcher", start)
    planned = outside.pricing.plan(load_recipe(recipe_file), recipe_file.parent)
    run_id = outside.driving.open_run(planned, store=None)
    outside.ledger.append(run_id, StateChanged(state="interrupted", reason="long ago"))
    machine.rented = True
    refused.wait()

    with pytest.raises(RefusedError, match=r"^not enough to begin$"):
        outside.driving.launch(run_id, allow_remote_code=False)


def test_what_was_proved_of_one_attempt_is_not_said_of_the_next(
    still: Any, recipe_file: Path, machine: ScriptedMachine
) -> None:
    def interrupted(worker: Worker) -> Any:
        worker.boot()
        worker.say(WorkerEnded, status="interrupted")
        yield

    told: list[Any] = []

    def looks(worker: Worker) -> Any:
        worker.boot()
        told.append(json.loads(still("show", "--json").stdout)["teardown"])
        worker.train(1.0)
        worker.finish()
        yield

    machine.scripts = [interrupted, looks]
    still("launch", recipe_file, "--yes")
    still("resume", "latest")

    assert told == [{"proved": None, "detail": "attempt 2 is still on"}]


def test_a_question_says_what_can_be_answered(
    outside: Outside, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    person = io.StringIO("y\n")
    person.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", person)

    outside.ask("Start?")

    assert "Start? [y/N]" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("ls",), ("ls", "--json"), ("show",)])
def test_whoever_has_read_enough_changes_neither_what_a_command_does_nor_how_it_ends(
    still: Any, recipe_file: Path, own_home: Path, words: tuple[str, ...]
) -> None:
    still("launch", recipe_file, "--yes")
    command = f"{sys.executable} -m launcher.cli {' '.join(words)} | true; echo ${{PIPESTATUS[0]}}"

    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)

    assert done.stdout.split()[-1] == "0", done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_whose_recipe_is_damaged_can_be_ended_all_the_same(
    still: Any, recipe_file: Path, outside: Outside
) -> None:
    still("launch", recipe_file, "--yes")
    (books,) = outside.ledger.runs()
    outside.home.run(books.run_id).recipe.unlink()
    real = Outside(environ=outside.environ, clock=outside.clock)

    result = CliRunner(mix_stderr=False).invoke(cli, ["down", books.run_id], obj=real)

    assert "nothing of" in result.stderr  # and not that its recipe cannot be read
    assert result.exit_code == 3


def test_what_the_disk_refuses_is_named_without_a_traceback(
    still: Any, recipe_file: Path, outside: Outside
) -> None:
    still("launch", recipe_file, "--yes")
    (books,) = outside.ledger.runs()
    events = outside.home.run(books.run_id).events
    events.unlink()
    events.mkdir()

    result = still("show")

    assert result.exit_code == 2
    assert str(events) in result.stderr


def test_compare_takes_the_newest_run_of_each_recipe(
    still: Any, recipe_file: Path, machine: ScriptedMachine
) -> None:
    machine.scripts *= 3
    for name in ("tiny", "other", "other"):
        recipe_file.write_text(TINY.replace("name: tiny", f"name: {name}"))
        still("launch", recipe_file, "--yes")

    everything = json.loads(still("compare", "--all", "--json").stdout)
    newest = json.loads(still("compare", "--json").stdout)
    of_one = json.loads(still("compare", "--experiment", "other", "--all", "--json").stdout)

    assert [len(table["rows"]) for table in (everything, newest, of_one)] == [3, 2, 2]


def test_nothing_to_compare_is_said(still: Any) -> None:
    result = still("compare")

    assert result.exit_code == 2
    assert "no finished run yet" in result.stderr


def test_an_unknown_run_is_named_with_what_there_is(still: Any, recipe_file: Path) -> None:
    still("launch", recipe_file, "--yes")

    result = still("show", "nobody")

    assert result.exit_code == 2
    assert "'nobody'" in result.stderr
    assert "tiny-" in result.stderr


def test_logs_are_the_events_of_a_run(still: Any, recipe_file: Path) -> None:
    still("launch", recipe_file, "--yes")

    kinds = [json.loads(line)["kind"] for line in still("logs").stdout.splitlines()]

    assert kinds[0] == "worker_started"
    assert kinds[-1] == "worker_ended"


def test_there_is_nothing_to_stop_in_a_run_that_is_over(still: Any, recipe_file: Path) -> None:
    still("launch", recipe_file, "--yes")

    assert still("stop").exit_code == 3


def test_a_fault_of_ours_keeps_its_traceback(outside: Outside) -> None:
    def breaks() -> None:
        raise ZeroDivisionError

    outside.ledger.runs = breaks  # type: ignore[method-assign, assignment]

    result = CliRunner().invoke(cli, ["ls"], obj=outside)

    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize("command", [name for name in cli.commands])  # noqa: C416 - names only
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = CliRunner().invoke(cli, [command, "--help"])

    assert result.exit_code == 0
    assert f"still {command}" in result.output.split("Example")[1]


def test_check_names_every_fault_and_passes_what_is_shipped(still: Any, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(TINY.replace("usd: 1.00", "usd: -5").replace("steps: 100", "stepz: 100"))

    shipped = still("check", *RECIPES)
    faulty = still("check", wrong, "--json")

    assert shipped.exit_code == 0, shipped.stderr
    assert faulty.exit_code == 2
    faults = " ".join(json.loads(faulty.stdout)[str(wrong)])
    assert "wrong.yaml:8 budget.usd: must be above 0, is -5" in faults
    assert "training.stepz" in faults


def test_a_new_recipe_passes_check(still: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(still("new", "mine").stdout)

    assert still("check", path).exit_code == 0
    assert yaml.safe_load(path.read_text())["name"] == "mine"


def test_the_command_answers_without_anything_heavy() -> None:
    script = (
        "import sys\nfrom click.testing import CliRunner\nfrom launcher.cli import cli\n"
        f"for words in (['--help'], ['check', {str(RECIPES[0])!r}]):\n"
        "    assert CliRunner().invoke(cli, words).exit_code == 0\n"
        "heavy = {'torch', 'transformers', 'mlflow', 'sky', 'boto3', 'datasets', 'rich', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True
    )

    assert done.stdout.strip() == "[]"
