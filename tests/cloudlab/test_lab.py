"""The emulated cloud itself: hosts live and die with their instances, and nothing leaves it."""

import base64
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emulated.catalog import AMI
from emulated.cloud import Cloud, wait_until
from emulated.lab import Lab
from emulated.processes import child_of, is_running, with_setting

pytestmark = pytest.mark.cloudlab

Launch = Callable[..., str]


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ssh") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


@pytest.fixture
def launch(cloud: Cloud, key: Path) -> Iterator[Launch]:
    """Start a small instance, or several, and wait for its host; all are terminated in the end."""
    started = []

    def start(zone: str = "us-east-1b", **more: Any) -> str:
        public = key.with_suffix(".pub").read_text()
        user = {"name": "ubuntu", "ssh_authorized_keys": [public]}
        request = {
            "ImageId": AMI,
            "InstanceType": "m6i.large",
            "MinCount": 1,
            "MaxCount": 1,
            "NetworkInterfaces": [{"SubnetId": cloud.subnet(zone), "DeviceIndex": 0}],
            "UserData": f"#cloud-config\n{json.dumps({'users': [user]})}",
            "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 8}}],
        }
        made = cloud.client("ec2", zone[:-1]).run_instances(**request | more)
        instances = [str(each["InstanceId"]) for each in made["Instances"]]
        started.extend((zone[:-1], instance) for instance in instances)
        wait_until(lambda: set(instances) <= cloud.hosts().keys())
        return instances[0]

    yield start
    for region, instance in started:
        cloud.client("ec2", region).terminate_instances(InstanceIds=[instance])
    wait_until(lambda: not {instance for _, instance in started} & cloud.hosts().keys())


def state_of(cloud: Cloud, instance: str) -> str:
    return str(next(i for i in cloud.instances() if i["InstanceId"] == instance)["State"]["Name"])


def test_a_host_takes_the_key_of_its_user_data_and_names_itself_by_its_address(
    cloud: Cloud, lab: Lab, launch: Launch, key: Path
) -> None:
    instance = launch()
    address = cloud.hosts()[instance]["address"]

    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    ssh = ["ssh", *options, "-i", key, f"ubuntu@{address}"]
    wait_until(lambda: lab.run([*ssh, "true"], check=False).returncode == 0)
    said = lab.run([*ssh, "hostname; sudo id -un; echo $AWS_ENDPOINT_URL"]).stdout.split()

    assert said == ["ip-" + address.replace(".", "-"), "root", lab.env["AWS_ENDPOINT_URL"]]


def test_a_host_reaches_s3_with_the_keys_of_its_role_and_with_no_others(
    cloud: Cloud, launch: Launch
) -> None:
    cloud.client("s3").create_bucket(Bucket="from-a-host")
    script = (
        "import boto3; boto3.client('s3').put_object(Bucket='from-a-host', Key='k', Body=b'v')\n"
        "print(boto3.Session().get_credentials().method)"
    )
    python = ["/opt/stillhouse/bin/python", "-c"]

    with_role = cloud.on_host(launch(IamInstanceProfile={"Name": "skypilot-v1"}), *python, script)
    without = cloud.on_host(launch(), *python, script, check=False)

    assert with_role.stdout.strip() == "iam-role"
    assert cloud.client("s3").get_object(Bucket="from-a-host", Key="k")["Body"].read() == b"v"
    assert "NoCredentialsError" in without.stderr


def test_machines_of_one_request_have_its_role_all_of_them_and_when_one_is_gone_too(
    cloud: Cloud, launch: Launch
) -> None:
    before = cloud.hosts().keys()
    first = launch(IamInstanceProfile={"Name": "skypilot-v1"}, MinCount=2, MaxCount=2)
    (second,) = cloud.hosts().keys() - before - {first}

    def roles() -> list[str]:
        return [host["role"] for name, host in cloud.hosts().items() if name in (first, second)]

    wait_until(lambda: roles() == ["skypilot-v1", "skypilot-v1"])
    cloud.reclaim(first)
    wait_until(lambda: first not in cloud.hosts())

    assert roles() == ["skypilot-v1"]


def test_the_metadata_service_wants_a_token(cloud: Cloud, launch: Launch) -> None:
    curl = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}"]
    service = "http://169.254.169.254/latest"
    instance = launch()

    plain = cloud.on_host(instance, *curl, f"{service}/meta-data/instance-id")
    token = cloud.on_host(instance, *curl, "-X", "PUT", f"{service}/api/token")

    assert plain.stdout == "401"
    assert token.stdout == "400"  # it has to say for how long


def test_a_host_has_the_packages_of_the_worker_and_cannot_change_them(
    cloud: Cloud, launch: Launch
) -> None:
    instance = launch()
    imports = "import torch, transformers, pydantic, yaml, boto3, safetensors, tokenizers, datasets"

    cloud.on_host(instance, "/opt/stillhouse/bin/python", "-c", imports)
    written = cloud.on_host(instance, "touch", "/opt/stillhouse/shared/x", check=False)

    assert "Read-only file system" in written.stderr


def test_nothing_leaves_the_lab(cloud: Cloud, lab: Lab, launch: Launch) -> None:
    # 192.0.2.1 is reserved for documentation; without a route the answer comes at once.
    knock = ["bash", "-c", "exec 3<>/dev/tcp/192.0.2.1/80"]
    instance = launch()

    assert "default" not in lab.run(["ip", "route"]).stdout
    assert "unreachable" in lab.run(knock, check=False).stderr
    assert "unreachable" in cloud.on_host(instance, *knock, check=False).stderr


@pytest.mark.parametrize(("behaviour", "state"), [("terminate", "terminated"), ("stop", "stopped")])
def test_a_host_that_switches_itself_off_is_what_its_instance_was_made_to_be(
    cloud: Cloud, launch: Launch, behaviour: str, state: str
) -> None:
    instance = launch(InstanceInitiatedShutdownBehavior=behaviour)

    cloud.on_host(instance, "shutdown", "-h", "now", check=False)

    wait_until(lambda: state_of(cloud, instance) == state)
    assert instance not in cloud.hosts()


def test_a_planned_shutdown_can_be_called_off(cloud: Cloud, launch: Launch) -> None:
    instance = launch()

    cloud.on_host(instance, "shutdown", "-h", "+60")
    planned = cloud.on_host(instance, "cat", "/run/shutdown.pid").stdout.strip()
    cloud.on_host(instance, "shutdown", "-c")

    wait_until(lambda: cloud.on_host(instance, "kill", "-0", planned, check=False).returncode)


def test_a_reboot_keeps_the_disk_and_starts_the_clock_again(cloud: Cloud, launch: Launch) -> None:
    instance = launch()
    cloud.on_host(instance, "touch", "/home/ubuntu/kept")
    before = cloud.hosts()[instance]["pid"]
    time.sleep(1.1)  # boot time has a resolution of a second

    cloud.client("ec2").reboot_instances(InstanceIds=[instance])

    wait_until(lambda: cloud.hosts().get(instance, {"pid": before})["pid"] != before)
    cloud.on_host(instance, "test", "-e", "/home/ubuntu/kept")
    uptime = float(cloud.on_host(instance, "cat", "/proc/uptime").stdout.split()[0])
    assert uptime < 60
    assert state_of(cloud, instance) == "running"


def test_a_spot_notice_reaches_the_host_and_a_reclaimed_instance_says_why(
    cloud: Cloud, launch: Launch
) -> None:
    instance = launch(InstanceMarketOptions={"MarketType": "spot"})
    service = "http://169.254.169.254/latest"
    ask = (
        f"T=$(curl -s -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' {service}/api/token);"
        f'curl -s -H "X-aws-ec2-metadata-token: $T" {service}/meta-data/spot/instance-action'
    )

    before = cloud.on_host(instance, "bash", "-c", ask).stdout
    cloud.notice(instance)
    notice = json.loads(cloud.on_host(instance, "bash", "-c", ask).stdout)
    cloud.reclaim(instance)

    assert before == ""
    assert notice["action"] == "terminate"
    wait_until(lambda: instance not in cloud.hosts())
    lost = next(i for i in cloud.instances() if i["InstanceId"] == instance)
    assert lost["State"]["Name"] == "terminated"
    assert lost["StateReason"]["Code"] == "Server.SpotInstanceTermination"


def test_a_host_can_lose_its_network_and_get_it_back(
    cloud: Cloud, lab: Lab, launch: Launch
) -> None:
    instance = launch()
    knock = ["bash", "-c", f"exec 3<>/dev/tcp/{cloud.hosts()[instance]['address']}/22"]
    within_a_second = ["timeout", "1", *knock]

    cloud.cut(instance)
    assert lab.run(within_a_second, check=False).returncode != 0
    cloud.mend(instance)

    wait_until(lambda: lab.run(within_a_second, check=False).returncode == 0)


def test_ec2_goes_on_calling_a_crashed_host_running_until_it_is_rebooted(
    cloud: Cloud, launch: Launch
) -> None:
    instance = launch(InstanceInitiatedShutdownBehavior="terminate")

    cloud.crash(instance)
    wait_until(lambda: instance not in cloud.hosts())
    time.sleep(0.5)  # the hypervisor has looked by then
    assert state_of(cloud, instance) == "running"
    cloud.client("ec2").reboot_instances(InstanceIds=[instance])

    wait_until(lambda: instance in cloud.hosts())


def test_disks_go_with_their_instance(cloud: Cloud, launch: Launch) -> None:
    tags = [{"ResourceType": "volume", "Tags": [{"Key": "owner", "Value": "disks-go"}]}]
    instance = launch(TagSpecifications=tags)
    assert len(cloud.left(owner="disks-go")) == 1

    cloud.client("ec2").terminate_instances(InstanceIds=[instance])

    assert cloud.left(owner="disks-go") == []


def test_a_command_in_the_lab_is_like_any_other_command(lab: Lab, tmp_path: Path) -> None:
    output = tmp_path / "output"
    script = "import os, signal, sys, time; print(os.getcwd(), flush=True); "

    assert lab.run(["bash", "-c", "exit 7"], check=False).returncode == 7
    asked = lab.start(["python", "-c", script + "time.sleep(60)"], output=output, cwd=tmp_path)
    wait_until(lambda: output.read_text().strip() == str(tmp_path))
    asked.send_signal(signal.SIGTERM)
    assert asked.wait(10) == -signal.SIGTERM

    killed = lab.start(["sleep", "4242"], output=output)
    wait_until(lambda: "sleep 4242" in lab.run(["ps", "ax"]).stdout)
    killed.kill()
    killed.wait()
    wait_until(lambda: "sleep 4242" not in lab.run(["ps", "ax"]).stdout)


def test_user_data_that_was_encoded_twice_is_read_all_the_same(
    cloud: Cloud, launch: Launch, key: Path
) -> None:
    public = key.with_suffix(".pub").read_text()
    text = f"#cloud-config\n{json.dumps({'users': [{'ssh_authorized_keys': [public]}]})}"
    instance = launch(UserData=base64.b64encode(text.encode()).decode())

    keys = cloud.on_host(instance, "cat", "/home/ubuntu/.ssh/authorized_keys").stdout

    assert keys == public


@pytest.fixture
def second(lab: Lab, tmp_path: Path) -> Iterator[Lab]:
    """Another lab beside the first, with the same image."""
    another = Lab(lab.folder.beside(tmp_path.name))
    yield another
    another.down()
    shutil.rmtree(another.folder.path)


def test_two_labs_do_not_meet_and_taking_one_down_leaves_nothing_of_it(
    cloud: Cloud, lab: Lab, second: Lab
) -> None:
    second.up(lambda text: None, kept=False)
    other = Cloud(second)
    other.client("s3").create_bucket(Bucket="only-in-the-second")
    daemon = second.state()
    assert daemon is not None

    second.up(lambda text: None, kept=True)
    assert second.state() == replace(daemon, kept=True)  # up twice is up once
    listed = cloud.client("s3").list_buckets()["Buckets"]
    second.down()

    assert "only-in-the-second" not in {bucket["Name"] for bucket in listed}
    assert not is_running(daemon.pid)
    assert not second.folder.run.exists()
    assert str(second.folder.path) not in Path("/proc/self/mounts").read_text()
    assert lab.is_up()


def test_a_lab_that_was_killed_is_cleared_away_by_down_or_up(second: Lab) -> None:
    second.up(lambda text: None, kept=True)
    state = second.state()
    assert state is not None
    lingering = second.start(["sleep", "4243"], output=second.folder.path / "output")
    inner = child_of(state.pid)
    assert inner is not None
    wait_until(lambda: "sleep 4243" in second.run(["ps", "ax"]).stdout)

    os.kill(state.pid, signal.SIGKILL)

    wait_until(lambda: not is_running(inner))
    assert lingering.wait(10) == -signal.SIGKILL
    assert not second.is_up()
    second.up(lambda text: None, kept=True)
    assert second.is_up()


def test_a_lab_is_found_and_ended_although_its_folder_was_removed(second: Lab) -> None:
    second.up(lambda text: None, kept=True)
    state = second.state()
    assert state is not None
    shutil.rmtree(second.folder.run)

    second.down()

    assert not is_running(state.pid)


def test_after_a_test_that_failed_nothing_of_it_goes_on(
    cloud: Cloud, lab: Lab, launch: Launch, tmp_path: Path
) -> None:
    instance = launch()
    command = ["bash", "-c", "setsid sleep 1000 & echo $!; wait"]
    started = lab.start(command, output=tmp_path / "said")
    wait_until((tmp_path / "said").read_text)

    lab.end_commands()
    cloud.terminate_all()

    assert started.returncode == -signal.SIGKILL
    assert with_setting("HOME", str(lab.folder.home)) == []
    assert state_of(cloud, instance) == "terminated"
    wait_until(lambda: instance not in cloud.hosts())
