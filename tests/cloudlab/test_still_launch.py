"""`still launch` on rented machines: the real command, SkyPilot and worker, in the emulated cloud.

With its machine taken away in mid-training, with everything that drives it killed, and with its
home lost: the same student comes home, and nothing stays behind.
"""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from still import PATIENCE_S, RECIPE, Run, Still, at_home

from emulated.cloud import Cloud, unavailable_store, wait_until
from emulated.lab import Lab
from launcher.machines.task import LINGER_MINUTES
from recipes.rundir import CheckpointLoaded, CheckpointStored, WorkerEnded

pytestmark = [pytest.mark.cloudlab, pytest.mark.slow]

AWAY_S = 60.0
"""For so long the store answers nobody [s]."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("still")


@pytest.fixture(scope="module")
def recipe(folder: Path) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def scores_at_home(folder: Path, recipe: Path) -> dict[str, object]:
    return at_home(recipe, folder / "at-home")


@pytest.fixture(scope="module")
def still(lab: Lab, cloud: Cloud, folder: Path) -> Still:
    return Still(lab, cloud, folder / "home")


def assert_done_and_gone(run: Run) -> None:
    receipt = run.receipt
    assert receipt.status == "done"
    assert receipt.teardown.proved, receipt.teardown.detail
    assert receipt.reserved_usd == 0
    assert Decimal(0) < receipt.metered_usd == sum(receipt.lines.values())
    assert run.left == []


def test_a_machine_taken_away_and_a_minute_without_a_store_cost_little_and_change_nothing(
    still: Still, cloud: Cloud, recipe: Path, scores_at_home: dict[str, object]
) -> None:
    run = still.launch(recipe)
    run.wait_for(CheckpointStored, count=3)

    cloud.reclaim(run.wait_for_machine())
    run.wait_for(CheckpointStored, attempt=2)
    cloud.add_fault(unavailable_store(for_s=AWAY_S))
    run.without_timer()
    run.without_autostop()

    assert run.end() == 0, run.story()
    assert run.scores == scores_at_home
    assert_done_and_gone(run)
    first, second = run.receipt.attempts
    assert first.how == "lost"
    assert second.how == "done"
    (loaded,) = run.events(CheckpointLoaded)
    assert loaded.attempt == 2
    assert loaded.step >= 150
    stored = next(event for event in run.events(CheckpointStored) if event.attempt == 2)
    assert run.events(WorkerEnded)[-1].t >= stored.t + AWAY_S  # not before all of it was stored
    stages = run.receipt.stages
    assert 0 < stages["lost"] < 0.25 * sum(stages.values())
    assert {"boot", "train", "evaluate"} <= set(run.receipt.lines)
    wait_until(lambda: run.mlflow_runs() == 1, 60, "the run in MLflow")


def test_a_run_that_nobody_drives_any_more_ends_by_itself_and_its_books_are_closed_later(
    still: Still, recipe: Path, scores_at_home: dict[str, object]
) -> None:
    run = still.launch(recipe)
    run.wait_for(CheckpointStored)

    run.kill_launcher_and_watcher()
    still.kill_skypilot()
    run.without_autostop()
    wait_until(lambda: not run.is_at_work, PATIENCE_S, "the worker ends")
    wait_until(lambda: not run.running, LINGER_MINUTES * 60 + 30, "the machine ends by itself")
    assert run.books.open_attempt is not None  # nobody was there to write it down

    still.run("watch", run.id)
    assert run.scores == scores_at_home
    assert_done_and_gone(run)


def test_a_run_whose_home_was_lost_in_mid_training_is_driven_to_its_end_by_another_one(
    lab: Lab, cloud: Cloud, recipe: Path, scores_at_home: dict[str, object], tmp_path: Path
) -> None:
    lost, other = Still(lab, cloud, tmp_path / "lost"), Still(lab, cloud, tmp_path / "other")
    run = lost.launch(recipe)
    run.wait_for(CheckpointStored)
    run.kill_launcher_and_watcher()
    lost.kill_skypilot()

    with lost.everything_lost():
        (listed,) = json.loads(other.run("adopt", run.store, "--json").stdout)
        adopted = other.adopt(run)

        assert adopted.end() == 0, adopted.story()

    assert (listed["run_id"], listed["status"], listed["known"]) == (run.id, "running", False)
    assert adopted.scores == scores_at_home
    assert adopted.student
    assert_done_and_gone(adopted)
    assert [attempt.how for attempt in adopted.receipt.attempts] == ["done"]
    assert len(adopted.instances) == 1  # the machine went on by itself meanwhile
