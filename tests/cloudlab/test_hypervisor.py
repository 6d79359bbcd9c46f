"""What the hypervisor decides, and what it reads; without hosts."""

import base64
import json
from datetime import UTC, datetime

import pytest

from emulated.cloudinit import authorized_keys
from emulated.hosts import REBOOT, Instance
from emulated.hypervisor import Step, next_steps, read_instances
from emulated.imds import metadata, notice_in

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
INSTANCE = Instance(
    id="i-0123456789abcdef0",
    region="us-east-1",
    zone="us-east-1b",
    type="p5.48xlarge",
    state="running",
    address="10.77.1.4",
    lifecycle="spot",
    role="skypilot-v1",
)


@pytest.mark.parametrize(
    ("state", "ended", "deed"),
    [
        ("terminated", None, "wipe"),
        ("shutting-down", None, "wipe"),
        ("terminated", 0, "wipe"),
        ("stopped", None, "stop"),
        ("running", REBOOT, "reboot"),
        ("running", 0, "report_off"),
    ],
)
def test_a_host_follows_its_instance_and_an_instance_its_host(
    state: str, ended: int | None, deed: str
) -> None:
    assert next_steps({"i-1": state}, {"i-1": ended}) == [Step(deed, "i-1")]  # type: ignore[arg-type]


@pytest.mark.parametrize("ended", [None, -9, 1])
def test_a_host_that_runs_or_crashed_is_left_alone(ended: int | None) -> None:
    assert next_steps({"i-1": "running"}, {"i-1": ended}) == []


def test_an_instance_without_a_host_gets_one_only_while_it_runs() -> None:
    states = {"i-1": "running", "i-2": "stopped", "i-3": "terminated", "i-4": "pending"}

    assert next_steps(states, {}) == [Step("boot", "i-1")]


def test_a_host_that_ec2_does_not_know_is_wiped() -> None:
    assert next_steps({}, {"i-1": None}) == [Step("wipe", "i-1")]


def test_an_instance_is_read_with_its_role_and_its_market() -> None:
    described = {
        "InstanceId": INSTANCE.id,
        "InstanceType": INSTANCE.type,
        "InstanceLifecycle": "spot",
        "State": {"Name": "running"},
        "Placement": {"AvailabilityZone": "us-east-1b"},
        "PrivateIpAddress": "10.77.1.4",
        "IamInstanceProfile": {"Arn": "arn:aws:iam::1:instance-profile/skypilot-v1"},
    }

    assert read_instances("us-east-1", {"Reservations": [{"Instances": [described]}]}) == [INSTANCE]


def test_names_of_cables_fit_the_kernel() -> None:
    assert len(INSTANCE.cable) <= 15


CLOUD_CONFIG = f"#cloud-config\n{json.dumps({'users': [{'ssh_authorized_keys': ['ssh-rsa A']}]})}"


@pytest.mark.parametrize("times", [0, 1, 2])
def test_keys_are_found_however_often_the_text_was_encoded(times: int) -> None:
    text = CLOUD_CONFIG
    for _ in range(times):
        text = base64.b64encode(text.encode()).decode()

    assert authorized_keys(text) == ("ssh-rsa A",)


@pytest.mark.parametrize("text", ["", "#!/bin/sh\necho", "ÿ", "#cloud-config\n", "AAAA"])
def test_user_data_without_users_gives_no_keys(text: str) -> None:
    assert authorized_keys(text) == ()


def test_the_metadata_of_an_instance_without_a_role_names_none() -> None:
    without = metadata(Instance(**vars(INSTANCE) | {"role": ""}), None, NOW)

    assert "meta-data/iam/security-credentials" in metadata(INSTANCE, None, NOW)
    assert not [path for path in without if "iam" in path]


def test_a_notice_says_when_and_is_there_only_while_it_stands() -> None:
    notice = notice_in(120, NOW)

    assert json.loads(notice) == {"action": "terminate", "time": "2026-11-22T12:02:00Z"}
    assert metadata(INSTANCE, notice, NOW)["meta-data/spot/instance-action"] == notice
    assert not [path for path in metadata(INSTANCE, None, NOW) if "spot" in path]
