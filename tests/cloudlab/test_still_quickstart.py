"""The quickstart on rented machines, one and two: as good as at home."""

import os
import subprocess
import sys

import pytest
from still import Run, Still

from emulated.cloud import Cloud
from emulated.folder import REPOSITORY
from emulated.lab import Lab
from recipes.rundir import WorkerStarted
from tracking.books import NO_MACHINE

pytestmark = [pytest.mark.cloudlab, pytest.mark.slow]

RENTED = ("hardware.local=false", "hardware.usd_per_hour=null", "hardware.accelerators=H100:8")


@pytest.fixture(scope="module")
def still(lab: Lab, cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Still:
    """With the quickstart's teacher in its home."""
    home = tmp_path_factory.mktemp("quickstart") / "home"
    recipe = REPOSITORY / "recipes" / "quickstart-teacher.yaml"
    subprocess.run(
        [sys.executable, "-m", "distill.prepare", recipe, "--name", "additions"],
        env=os.environ | {"STILLHOUSE_HOME": str(home), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
    )
    return Still(lab, cloud, home)


def launch(still: Still, nodes: int) -> Run:
    changes = [("--set", change) for change in (*RENTED, f"hardware.nodes={nodes}")]
    recipe = REPOSITORY / "recipes" / "quickstart.yaml"
    return still.launch(recipe, "--budget", 40, *(word for pair in changes for word in pair))


def assert_as_good_as_at_home_and_nothing_left(run: Run, processes: int) -> None:
    receipt = run.receipt
    assert receipt.status == "done"
    assert receipt.scores["additions"].value >= 0.95
    assert receipt.teardown.proved, receipt.teardown.detail
    assert [started.processes for started in run.events(WorkerStarted)] == [processes]
    assert {one["InstanceLifecycle"] for one in run.instances} == {"spot"}
    assert run.left == []


def test_the_quickstart_is_as_good_on_a_spot_machine_as_at_home_and_leaves_nothing(
    still: Still,
) -> None:
    run = launch(still, nodes=1)

    assert run.end() == 0, run.story()
    assert_as_good_as_at_home_and_nothing_left(run, processes=1)
    assert len(run.instances) == 1


def test_so_it_is_on_two_after_one_of_them_was_taken_away_while_they_were_set_up(
    still: Still, cloud: Cloud
) -> None:
    run = launch(still, nodes=2)

    cloud.reclaim(run.wait_for_machine())

    assert run.end() == 0, run.story()
    assert_as_good_as_at_home_and_nothing_left(run, processes=2)
    first, second = run.receipt.attempts
    assert first.how in ("lost", NO_MACHINE)
    assert second.how == "done"
    assert len(run.instances) == 4
