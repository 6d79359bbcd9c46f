"""`still sweep` by a machine that has never heard of any run: all that is ours, nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
from still import BUCKET, Still

from emulated.cloud import Cloud
from emulated.lab import Lab
from launcher.machines.labels import labels

pytestmark = [pytest.mark.cloudlab, pytest.mark.slow]

PAST, FUTURE = 1_700_000_000.0, 4_000_000_000.0


@pytest.fixture
def still(lab: Lab, cloud: Cloud, tmp_path: Path) -> Still:
    return Still(lab, cloud, tmp_path / "home")


def tags(kind: str, expires_at: float | None) -> list[dict[str, Any]]:
    """Tags of ours, or somebody else's."""
    if expires_at is None:
        said = {"Name": "somebody else's", "stillhouse": "not our tag"}
    else:
        said = labels("aws", run_id="far-1", owner="bob@elsewhere", expires_at=expires_at)
    listed = [{"Key": key, "Value": value} for key, value in said.items()]
    return [{"ResourceType": kind, "Tags": listed}]


def plant(cloud: Cloud, region: str, expires_at: float | None) -> set[str]:
    """A machine without a disk of its own, a disk and a network interface."""
    ec2 = cloud.client("ec2", region)
    images = ec2.describe_images(Owners=["self", "amazon"])["Images"]
    machine = ec2.run_instances(
        ImageId=images[0]["ImageId"],
        InstanceType="t3.micro",
        MinCount=1,
        MaxCount=1,
        TagSpecifications=tags("instance", expires_at),
    )["Instances"][0]["InstanceId"]
    zone = ec2.describe_availability_zones()["AvailabilityZones"][0]["ZoneName"]
    volume = ec2.create_volume(
        AvailabilityZone=zone, Size=1, TagSpecifications=tags("volume", expires_at)
    )["VolumeId"]
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    interface = ec2.create_network_interface(
        SubnetId=subnet, TagSpecifications=tags("network-interface", expires_at)
    )["NetworkInterface"]["NetworkInterfaceId"]
    return {machine, volume, interface}


def begin_upload(cloud: Cloud, key: str) -> str:
    """A multipart upload that nobody will finish."""
    return str(cloud.client("s3").create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"])


def test_every_orphan_is_found_and_ended_and_nothing_else_is_touched(
    still: Still, cloud: Cloud
) -> None:
    young = plant(cloud, "us-west-2", FUTURE)
    planted = plant(cloud, "us-east-1", PAST) | young | plant(cloud, "eu-west-3", PAST)
    theirs = plant(cloud, "us-east-1", None)
    store = still.store.removeprefix(f"s3://{BUCKET}/")
    ours = begin_upload(cloud, f"{store}/far-1/checkpoints/step-1/model")
    other = begin_upload(cloud, "somebody/elses/file")

    found = json.loads(still.run("sweep", "--json", check=False).stdout)

    uploads = {one["id"].rpartition("=")[2] for one in found["orphans"] if one["kind"] == "upload"}
    assert {one["id"] for one in found["orphans"] if one["kind"] != "upload"} == planted
    assert uploads == {ours}
    assert found["unasked"] == {}

    by_cron = still.run("sweep", "--apply", check=False)
    assert by_cron.returncode == 0, by_cron.stderr
    assert "left alone: 4" in by_cron.stderr  # nobody is there to say that they may go
    left = set(cloud.left(stillhouse_run="far-1"))
    assert left
    assert left <= young

    done = still.run("sweep", "--apply", "--yes", "--json", check=False)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["orphans"] == []
    assert cloud.left(stillhouse_run="far-1") == []
    alive = {one["InstanceId"] for one in cloud.instances() if one["State"]["Name"] == "running"}
    assert theirs & alive
    begun = cloud.client("s3").list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    assert other in {one["UploadId"] for one in begun}
    cloud.client("s3").abort_multipart_upload(
        Bucket=BUCKET, Key="somebody/elses/file", UploadId=other
    )
    cloud.client("ec2").terminate_instances(InstanceIds=sorted(theirs & alive))
