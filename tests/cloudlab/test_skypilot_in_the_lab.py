"""SkyPilot alone, as it is, finds the emulated cloud real enough to launch and to take down."""

from pathlib import Path

import pytest

from emulated.cloud import Cloud
from emulated.lab import Lab

pytestmark = [pytest.mark.cloudlab, pytest.mark.slow]

TASK = """\
resources:
  infra: aws
  accelerators: H100:8
  use_spot: true
run: |
  echo "rank $SKYPILOT_NODE_RANK has $SKYPILOT_NUM_GPUS_PER_NODE GPUs"
  python3 -c "import sys; print(sys.version_info[:2])"
"""


def test_a_spot_h100_node_runs_a_job_and_goes_without_a_trace(
    lab: Lab, cloud: Cloud, tmp_path: Path
) -> None:
    task = tmp_path / "task.yaml"
    task.write_text(TASK)

    launched = lab.run(["sky", "launch", "-y", "-c", "bare", task], timeout_s=600)
    (instance,) = cloud.instances(skypilot_head_node="1")
    lab.run(["sky", "down", "-y", "bare"])

    assert "rank 0 has 8 GPUs" in launched.stdout
    assert "SUCCEEDED" in launched.stdout
    assert instance["InstanceType"] == "p5.48xlarge"
    assert instance["InstanceLifecycle"] == "spot"
    assert instance["Placement"]["AvailabilityZone"] == "us-east-1b"
    assert cloud.left() == []
