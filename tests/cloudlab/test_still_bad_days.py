"""Bad days of runs on rented machines: what can go wrong goes wrong, and nothing stays behind.

Those that do not need the real SkyPilot are in tests/launcher/runs/test_bad_days.py.
"""

from pathlib import Path

import pytest
from still import RECIPE, Run, Still

from emulated.cloud import Cloud
from emulated.faults import Fault
from emulated.lab import Lab
from recipes.rundir import (
    CheckpointLoaded,
    CheckpointSaved,
    CheckpointStored,
    Stopping,
    TrainStep,
    WorkerEnded,
)
from tracking.books import NO_MACHINE

pytestmark = [pytest.mark.cloudlab, pytest.mark.slow]


NO_MLFLOW = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
"""A tracking server that is gone."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bad-days")


@pytest.fixture(scope="module")
def recipe(folder: Path) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def still(lab: Lab, cloud: Cloud, folder: Path) -> Still:
    return Still(lab, cloud, folder / "home")


def assert_nothing_left(run: Run) -> None:
    receipt = run.receipt
    assert receipt.teardown.proved, receipt.teardown.detail
    assert receipt.reserved_usd == 0
    assert run.left == []


def test_after_a_zone_without_machines_and_one_that_says_error_the_next_works_without_mlflow_too(
    still: Still, cloud: Cloud, recipe: Path
) -> None:
    cloud.add_fault(cloud.no_capacity("us-east-1b"))
    second = (cloud.subnet("us-east-1c"),)
    cloud.add_fault(
        Fault("lose_answer", action="RunInstances", values=second, status=400, code="Unlucky")
    )

    run = still.launch(recipe, "--set", "training.steps=50", env=NO_MLFLOW)

    assert run.end() == 0, run.story()
    assert_nothing_left(run)
    assert [attempt.how for attempt in run.receipt.attempts] == [NO_MACHINE, NO_MACHINE, "done"]
    zones = [one["Placement"]["AvailabilityZone"] for one in run.instances]
    assert zones[-1] == "us-west-2b"
    assert "us-east-1c" in zones  # it was there, whatever the cloud said


def test_without_machines_anywhere_the_run_fails_and_says_what_was_tried(
    still: Still, cloud: Cloud, recipe: Path
) -> None:
    cloud.add_fault(cloud.no_capacity())

    run = still.launch(recipe, "--set", "training.steps=50")

    assert run.end() == 4, run.story()
    assert_nothing_left(run)
    assert run.instances == []
    for zone in ("us-east-1b", "us-east-1c", "us-west-2b"):
        assert f"p5.48xlarge {zone} spot" in run.receipt.reason
    assert run.receipt.metered_usd == 0


def test_ctrl_c_while_it_provisions_leaves_the_run_going_and_kills_are_cleared_away_by_still_down(
    still: Still, recipe: Path
) -> None:
    run = still.launch(recipe)
    run.wait_for_machine()
    assert run.interrupt() == 130
    assert "goes on without you" in run.story()

    run.kill_launcher_and_watcher()
    still.kill_skypilot()
    still.run("down", run.id)

    assert_nothing_left(run)
    assert run.receipt.status == "interrupted"


def test_a_notice_leaves_time_to_save_and_a_worker_that_dies_without_a_word_fails_the_run(
    still: Still, cloud: Cloud, recipe: Path
) -> None:
    run = still.launch(recipe, "--set", "training.steps=5000")
    run.wait_for(CheckpointStored)
    cloud.notice(run.wait_for_machine())
    run.wait_for(WorkerEnded)
    still.kill_skypilot()
    run.wait_for(CheckpointStored, attempt=2)

    cloud.on_host(run.wait_for_machine(), "pkill", "-9", "-f", "distill run$")

    assert run.end() == 4, run.story()
    assert_nothing_left(run)
    assert [attempt.how for attempt in run.receipt.attempts] == ["interrupted", "lost"]
    assert [(event.attempt, event.reason) for event in run.events(Stopping)] == [(1, "interrupt")]
    (loaded,) = run.events(CheckpointLoaded)
    saved = [event.step for event in run.events(CheckpointSaved) if event.attempt == 1]
    said = [event.step for event in run.events(TrainStep) if event.attempt == 1]
    assert loaded.step == saved[-1] >= max(said)
    assert "ended without a word" in run.receipt.reason
    assert len(run.instances) == 2  # a third one would die the same death
