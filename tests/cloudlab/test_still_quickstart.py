"""The quickstart on rented machines, one and two: as good as at home."""

import os
import subprocess
import sys

import pytest
from still import Still

from emulated.cloud import Cloud
from emulated.folder import REPOSITORY
from emulated.lab import Lab
from recipes.rundir import WorkerStarted

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


@pytest.mark.parametrize("nodes", [1, 2])
def test_the_quickstart_is_as_good_on_spot_machines_as_at_home_and_leaves_nothing(
    still: Still, nodes: int
) -> None:
    changes = [("--set", change) for change in (*RENTED, f"hardware.nodes={nodes}")]
    recipe = REPOSITORY / "recipes" / "quickstart.yaml"

    run = still.launch(recipe, "--budget", 40, *(word for pair in changes for word in pair))

    assert run.end() == 0, run.story()
    receipt = run.receipt
    assert receipt.status == "done"
    assert receipt.scores["additions"].value >= 0.95
    assert receipt.teardown.proved, receipt.teardown.detail
    assert [started.processes for started in run.events(WorkerStarted)] == [nodes]
    assert len(run.instances) == nodes
    assert {one["InstanceLifecycle"] for one in run.instances} == {"spot"}
    assert run.left == []
