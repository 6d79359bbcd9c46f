"""Bad days of runs on rented machines: what can go wrong goes wrong, and nothing stays behind."""

from pathlib import Path

import pytest
from still import PATIENCE_S, RECIPE, Run, Still

from emulated.cloud import Cloud, unavailable_store, wait_until
from emulated.faults import Fault
from emulated.lab import Lab
from launcher.runs.run import NO_MACHINE
from recipes.rundir import (
    CheckpointLoaded,
    CheckpointSaved,
    CheckpointStored,
    Stopping,
    TrainStep,
    Warned,
)

pytestmark = [pytest.mark.cloudlab, pytest.mark.slow]


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


def test_after_a_zone_without_machines_and_one_that_says_error_the_next_one_does_the_work(
    still: Still, cloud: Cloud, recipe: Path
) -> None:
    cloud.add_fault(cloud.no_capacity("us-east-1b"))
    second = (cloud.subnet("us-east-1c"),)
    cloud.add_fault(
        Fault("lose_answer", action="RunInstances", values=second, status=400, code="Unlucky")
    )

    run = still.launch(recipe, "--set", "training.steps=50")

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

    run = still.launch(recipe, "--set", "training.steps=50", "--budget", 6)

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


def test_a_machine_lost_in_setup_and_one_that_gives_notice_are_followed_by_others(
    still: Still, cloud: Cloud, recipe: Path
) -> None:
    run = still.launch(recipe)
    cloud.reclaim(run.wait_for_machine())
    run.wait_for(CheckpointStored, attempt=2)
    cloud.notice(run.wait_for_machine())

    assert run.end() == 0, run.story()
    assert_nothing_left(run)
    assert [attempt.how for attempt in run.receipt.attempts][1:] == ["interrupted", "done"]
    assert [(event.attempt, event.reason) for event in run.events(Stopping)] == [(2, "interrupt")]
    (loaded,) = run.events(CheckpointLoaded)
    saved = [event.step for event in run.events(CheckpointSaved) if event.attempt == 2]
    said = [event.step for event in run.events(TrainStep) if event.attempt == 2]
    assert loaded.step == saved[-1] >= max(said)  # the notice left time to save the last step


def test_a_store_that_is_away_a_stop_and_a_resume_lose_nothing(
    still: Still, cloud: Cloud, recipe: Path
) -> None:
    run = still.launch(recipe, "--set", "training.steps=8000")
    run.wait_for(CheckpointStored)
    cloud.add_fault(unavailable_store(for_s=60.0))
    wait_until(lambda: not is_away(cloud), PATIENCE_S)

    still.run("stop", run.id)
    assert run.end() == 130, run.story()
    assert_nothing_left(run)
    still.run("resume", run.id)

    assert_nothing_left(run)
    assert run.receipt.status == "done"
    assert [attempt.how for attempt in run.receipt.attempts] == ["interrupted", "done"]
    assert [event.code for event in run.events(Warned)].count("store") >= 2  # away, and back
    assert len(run.events(CheckpointLoaded)) == 1


def test_a_worker_that_dies_without_a_word_is_a_failed_run_and_no_machine_waits_for_it(
    still: Still, cloud: Cloud, recipe: Path
) -> None:
    run = still.launch(recipe)
    run.wait_for(CheckpointStored)

    cloud.on_host(run.wait_for_machine(), "pkill", "-9", "-f", "distill run$")

    assert run.end() == 4, run.story()
    assert_nothing_left(run)
    assert "ended without a word" in run.receipt.reason
    assert len(run.instances) == 1


def is_away(cloud: Cloud) -> bool:
    """Whether the store refuses."""
    from botocore.exceptions import ClientError

    try:
        cloud.client("s3").list_buckets()
    except ClientError:
        return True
    return False
