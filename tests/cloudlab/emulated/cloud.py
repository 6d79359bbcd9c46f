"""The emulated cloud as a test sees it: what is there, and what is to go wrong.

Everything here looks from outside, through the API that a person would use; nothing of the
launcher's or SkyPilot's own state is asked.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from subprocess import CompletedProcess
from typing import Any, cast

import boto3

from emulated.account import NETWORKS
from emulated.faults import Fault
from emulated.folder import ENDPOINT
from emulated.lab import Lab

REGIONS = tuple(NETWORKS)


class Cloud:
    """Eyes and levers of one lab that is up."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    # ---- what is there -------------------------------------------------------------------------

    def client(self, service: str, region: str = "us-east-1") -> Any:
        """A boto3 client of the emulated AWS, usable outside the lab."""
        return boto3.client(
            service,
            region_name=region,
            endpoint_url=self.lab.endpoint,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def instances(self, **tags: str) -> list[dict[str, Any]]:
        """Instances of all regions with these tags, in whatever state, oldest first.

        In tag names `_` stands for `-`: `instances(stillhouse_run=run_id)`.
        """
        found = [
            instance
            for region in REGIONS
            for reservation in self.client("ec2", region).describe_instances(
                Filters=_filters(tags)
            )["Reservations"]
            for instance in reservation["Instances"]
        ]
        return sorted(found, key=lambda instance: instance["LaunchTime"])

    def volumes(self, **tags: str) -> list[dict[str, Any]]:
        """Volumes of all regions with these tags."""
        return [
            volume
            for region in REGIONS
            for volume in self.client("ec2", region).describe_volumes(Filters=_filters(tags))[
                "Volumes"
            ]
        ]

    def left(self, **tags: str) -> list[str]:
        """Ids of everything that costs: instances that are not terminated, and volumes."""
        running = [
            instance["InstanceId"]
            for instance in self.instances(**tags)
            if instance["State"]["Name"] != "terminated"
        ]
        return running + [volume["VolumeId"] for volume in self.volumes(**tags)]

    def uploads(self, bucket: str) -> list[str]:
        """Keys of multipart uploads that nobody finished."""
        listed = self.client("s3").list_multipart_uploads(Bucket=bucket)
        return [upload["Key"] for upload in listed.get("Uploads", [])]

    def subnet(self, zone: str) -> str:
        """The lab's subnet in a zone such as `us-east-1b`."""
        found = self.client("ec2", zone[:-1]).describe_subnets(
            Filters=[
                {"Name": "availability-zone", "Values": [zone]},
                {"Name": "cidr-block", "Values": ["10.77.*"]},
            ]
        )
        return str(found["Subnets"][0]["SubnetId"])

    def calls(self, action: str) -> list[dict[str, Any]]:
        """Requests of one action so far, refused ones too. Only those that change something."""
        listed = cast(list[dict[str, Any]], self.lab.lever("GET", "calls"))
        return [call for call in listed if call["action"] == action]

    # ---- hosts ---------------------------------------------------------------------------------

    def hosts(self) -> dict[str, dict[str, Any]]:
        """Hosts that run, by instance."""
        listed = cast(list[dict[str, Any]], self.lab.lever("GET", "hosts"))
        return {host["id"]: host for host in listed}

    def on_host(
        self, instance_id: str, *command: str, check: bool = True
    ) -> "CompletedProcess[str]":
        """Run a command on a host as root, as if on its console: without network or ssh."""
        pid = self.hosts()[instance_id]["pid"]
        enter = ["nsenter", "--target", str(pid), "--all", "--root", "--wdns=/", "--"]
        own = ["HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", f"AWS_ENDPOINT_URL={ENDPOINT}"]
        return self.lab.run([*enter, "env", "-i", *own, *command], check=check, timeout_s=60)

    def cut(self, instance_id: str) -> None:
        """Take a host's network away."""
        self._pull(instance_id, "cut")

    def mend(self, instance_id: str) -> None:
        """Give a host its network back."""
        self._pull(instance_id, "mend")

    def crash(self, instance_id: str) -> None:
        """A host dies, and EC2 goes on calling it running."""
        self._pull(instance_id, "crash")

    def notice(self, instance_id: str, seconds: float = 120.0) -> None:
        """Tell a host that it will be interrupted. Nothing else happens."""
        self._pull(instance_id, f"notice?seconds={seconds}")

    def reclaim(self, instance_id: str) -> None:
        """Take a spot instance away, at once."""
        self._pull(instance_id, "reclaim")

    def terminate_all(self) -> None:
        """Take every instance away, as the account's owner would."""
        for region in REGIONS:
            ec2 = self.client("ec2", region)
            alive = [{"Name": "instance-state-name", "Values": ["pending", "running", "stopped"]}]
            found = [
                instance["InstanceId"]
                for reservation in ec2.describe_instances(Filters=alive)["Reservations"]
                for instance in reservation["Instances"]
            ]
            if found:
                ec2.terminate_instances(InstanceIds=found)

    def _pull(self, instance_id: str, what: str) -> None:
        self.lab.lever("POST", f"hosts/{instance_id}/{what}")

    # ---- faults --------------------------------------------------------------------------------

    def add_fault(self, fault: Fault) -> int:
        """Let a fault stand; all are taken away after the test."""
        return cast(int, self.lab.lever("POST", "faults", fault.to_json()))

    def clear_faults(self) -> None:
        """Take every fault and every policy away."""
        self.lab.lever("DELETE", "faults")
        self.lab.lever("DELETE", "policies")

    def allow_only(self, key: str, policy: Mapping[str, Any]) -> None:
        """Let an access key do what an IAM policy allows, until `clear_faults`."""
        self.lab.lever("POST", f"policies/{key}", json.dumps(policy).encode())

    def refused(self) -> list[str]:
        """What policies did not allow so far."""
        return cast(list[str], self.lab.lever("GET", "refused"))

    @contextmanager
    def fault(self, fault: Fault) -> Iterator[None]:
        """A fault for the length of a block."""
        number = self.add_fault(fault)
        try:
            yield
        finally:
            self.lab.lever("DELETE", f"faults/{number}")

    def no_capacity(self, *zones: str) -> Fault:
        """The fault of every launch in these zones, or in all: nothing to be had."""
        return Fault(
            "refuse",
            service="ec2",
            action="RunInstances",
            values=tuple(self.subnet(zone) for zone in zones),
            code="InsufficientInstanceCapacity",
            message="We currently do not have sufficient capacity in the zone you requested.",
        )


def unavailable_store(for_s: float | None = None) -> Fault:
    """The fault of an S3 that answers 503."""
    return Fault(
        "refuse",
        service="s3",
        status=503,
        code="SlowDown",
        message="Please reduce your request rate.",
        for_s=for_s,
    )


def refused_termination(times: int | None = None) -> Fault:
    """The fault of an EC2 that does not take instances back, so many times or always."""
    return Fault(
        "refuse",
        service="ec2",
        action="TerminateInstances",
        status=400,
        code="UnauthorizedOperation",
        message="You are not authorized to perform this operation.",
        times=times,
    )


def wait_until(claim: Callable[[], object], seconds: float = 60.0, what: str = "") -> None:
    """Wait until something is so; fail when it is not in time. What takes longer is asked for less
    often: the machine has other things to do."""
    deadline, pause_s = time.monotonic() + seconds, 0.05
    while not claim():
        if time.monotonic() > deadline:
            raise AssertionError(f"not so within {seconds:.0f} s: {what or claim}")
        time.sleep(pause_s)
        pause_s = min(1.0, 1.3 * pause_s)


def _filters(tags: dict[str, str]) -> list[dict[str, Sequence[str]]]:
    return [
        {"Name": f"tag:{name.replace('_', '-')}", "Values": [value]} for name, value in tags.items()
    ]
