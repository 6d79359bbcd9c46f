"""Faults that tests order do to real clients what they say."""

import time
from collections.abc import Iterator

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from emulated.catalog import AMI
from emulated.cloud import Cloud, refused_termination, unavailable_store
from emulated.faults import Fault

pytestmark = pytest.mark.cloudlab


@pytest.fixture
def no_instances_stay(cloud: Cloud) -> Iterator[None]:
    yield
    cloud.clear_faults()
    for instance in cloud.instances(owner="faults"):
        if instance["State"]["Name"] != "terminated":
            zone = instance["Placement"]["AvailabilityZone"]
            ids = [instance["InstanceId"]]
            cloud.client("ec2", zone[:-1]).terminate_instances(InstanceIds=ids)


def launch(cloud: Cloud, zone: str = "us-east-1b") -> str:
    tags = [{"Key": "owner", "Value": "faults"}]
    made = cloud.client("ec2", zone[:-1]).run_instances(
        ImageId=AMI,
        InstanceType="m6i.large",
        MinCount=1,
        MaxCount=1,
        NetworkInterfaces=[{"SubnetId": cloud.subnet(zone), "DeviceIndex": 0}],
        BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 8}}],
        TagSpecifications=[
            {"ResourceType": "instance", "Tags": tags},
            {"ResourceType": "volume", "Tags": tags},
        ],
    )
    return str(made["Instances"][0]["InstanceId"])


def code_of(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


@pytest.mark.usefixtures("no_instances_stay")
def test_a_zone_without_capacity_refuses_and_the_next_one_does_not(cloud: Cloud) -> None:
    with (
        cloud.fault(cloud.no_capacity("us-east-1b")),
        pytest.raises(ClientError) as refused,
    ):
        launch(cloud, "us-east-1b")
    cloud.add_fault(cloud.no_capacity("us-east-1b"))
    launch(cloud, "us-east-1c")

    assert code_of(refused) == "InsufficientInstanceCapacity"
    assert [i["Placement"]["AvailabilityZone"] for i in cloud.instances(owner="faults")] == [
        "us-east-1c"
    ]


def test_without_capacity_anywhere_no_region_gives_an_instance(cloud: Cloud) -> None:
    before = len(cloud.instances())
    cloud.add_fault(cloud.no_capacity())

    for zone in ("us-east-1b", "us-west-2b"):
        with pytest.raises(ClientError):
            launch(cloud, zone)

    assert len(cloud.instances()) == before


@pytest.mark.usefixtures("no_instances_stay")
def test_the_cloud_can_say_error_although_the_machine_exists(cloud: Cloud) -> None:
    cloud.add_fault(Fault("lose_answer", action="RunInstances", status=400, code="Unlucky"))

    with pytest.raises(ClientError) as refused:
        launch(cloud)

    assert code_of(refused) == "Unlucky"
    assert len(cloud.left(owner="faults")) == 2  # the instance and its disk


@pytest.mark.usefixtures("no_instances_stay")
def test_termination_can_be_refused_for_a_while_and_then_works(cloud: Cloud) -> None:
    instance = launch(cloud)
    with cloud.fault(refused_termination()), pytest.raises(ClientError) as refused:
        cloud.client("ec2").terminate_instances(InstanceIds=[instance])
    cloud.client("ec2").terminate_instances(InstanceIds=[instance])

    assert code_of(refused) == "UnauthorizedOperation"
    assert cloud.left(owner="faults") == []


def test_disks_can_be_made_to_outlive_their_instances(cloud: Cloud) -> None:
    cloud.add_fault(Fault("leave_volumes", action="RunInstances"))

    instance = launch(cloud)
    cloud.client("ec2").terminate_instances(InstanceIds=[instance])

    (left,) = cloud.left(owner="faults")
    cloud.client("ec2").delete_volume(VolumeId=left)
    assert left.startswith("vol-")


def test_s3_can_answer_503_and_a_fault_can_wear_out(cloud: Cloud) -> None:
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="slow")
    s3.meta.config.merge(Config(retries={"max_attempts": 0}))
    cloud.add_fault(unavailable_store())

    with pytest.raises(ClientError) as refused:
        s3.put_object(Bucket="slow", Key="k", Body=b"")
    cloud.clear_faults()
    cloud.add_fault(Fault("refuse", service="s3", action="PUT /slow/*", status=503, times=1))
    s3.put_object(Bucket="slow", Key="other", Body=b"")  # botocore tries again

    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    assert s3.head_object(Bucket="slow", Key="other")["ContentLength"] == 0


def test_an_answer_can_be_slow(cloud: Cloud) -> None:
    cloud.add_fault(Fault("delay", service="s3", action="GET /", delay_s=0.4, times=1))

    began = time.monotonic()
    cloud.client("s3").list_buckets()

    assert time.monotonic() - began >= 0.4


def test_every_call_that_changes_something_is_on_record(cloud: Cloud) -> None:
    before = len(cloud.calls("CreateVolume"))

    volume = cloud.client("ec2").create_volume(AvailabilityZone="us-east-1b", Size=1)
    cloud.client("ec2").delete_volume(VolumeId=volume["VolumeId"])

    assert len(cloud.calls("CreateVolume")) == before + 1
    assert cloud.calls("DescribeVolumes") == []
