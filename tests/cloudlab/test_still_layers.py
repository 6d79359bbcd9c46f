"""Layers that end machines, each alone: what the other ones would have done is taken away.

The end of the job alone and the node's timer alone are in test_still_launch.py, at the end of runs
that need them anyway.
"""

import json
from pathlib import Path

import pytest
from still import RECIPE, Run, Still

from emulated.cloud import Cloud, refused_termination, wait_until
from emulated.lab import Lab
from recipes.rundir import WorkerStarted

pytestmark = [pytest.mark.cloudlab, pytest.mark.slow]

PATIENCE = 3
"""How long the watcher lets a machine be without any progress [minutes]; as long as its setup may
take where other things go on."""

LOOKS_EVERY_S = 60
"""How often SkyPilot's daemon on a node asks whether its minutes are over."""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def still(lab: Lab, cloud: Cloud, tmp_path: Path) -> Still:
    return Still(lab, cloud, tmp_path / "home")


@pytest.fixture
def run(still: Still, recipe: Path) -> Run:
    """A run whose worker has just begun a long training."""
    longer = "training.steps=20000"
    run = still.launch(recipe, "--set", longer, "--set", f"hardware.patience_minutes={PATIENCE}")
    run.wait_for(WorkerStarted)
    return run


def test_skypilot_alone_gives_a_machine_back_when_its_minutes_are_over_however_busy_it_is(
    still: Still, run: Run
) -> None:
    run.kill_launcher_and_watcher()
    still.kill_skypilot()
    run.without_timer()

    run.outlasts_autostop()

    wait_until(lambda: not run.running, LOOKS_EVERY_S + 60, "SkyPilot's daemon ends the machine")
    assert run.left == []


def test_the_watcher_alone_ends_a_machine_that_is_cut_off_although_aws_first_refuses(
    run: Run, cloud: Cloud
) -> None:
    machine = run.wait_for_machine()
    run.without_timer()
    run.without_autostop()
    cloud.add_fault(refused_termination(times=8))

    cloud.cut(machine)

    assert run.end() == 4, run.story()
    assert "nothing has moved" in run.story()
    assert run.receipt.teardown.proved
    assert run.left == []


def test_the_sweep_alone_ends_a_rebooted_machine_after_all_that_knew_of_it_is_gone(
    still: Still, run: Run, cloud: Cloud, tmp_path: Path
) -> None:
    machine = run.wait_for_machine()
    run.kill_launcher_and_watcher()
    still.kill_skypilot()
    cloud.client("ec2").reboot_instances(InstanceIds=[machine])
    wait_until(lambda: not run.has_timer, what="the machine starts again, and nothing else does")

    with still.everything_lost():
        stranger = Still(still.lab, cloud, tmp_path / "elsewhere")
        found = json.loads(stranger.run("sweep", "--json", check=False).stdout)
        stranger.run("sweep", "--apply", "--yes")

    assert machine in {orphan["id"] for orphan in found["orphans"]}
    assert run.left == []
