"""What AWS itself says of a run: its machines, their paid times, and what is left of it.

Everything is found by tag and nothing by our own records, in every region that was used. Filters
are kept to those that every implementation of the EC2 API answers; the rest is sorted out here.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from tracking.prices import Price

RUN_TAG = "stillhouse-run"
ATTEMPT_TAG = "stillhouse-attempt"

GONE = frozenset({"terminated", "shutting-down"})
"""States of a machine that no longer costs."""

ClientFactory = Callable[[str, str], Any]
"""`(service, region) -> boto3 client`."""


def boto3_client(service: str, region: str) -> Any:
    """A client that gives up after seconds, not minutes."""
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=5, read_timeout=20, retries={"max_attempts": 3, "mode": "standard"}
    )
    return boto3.client(service, region_name=region, config=config)


@dataclass(frozen=True)
class Instance:
    """A machine of a run."""

    id: str
    region: str
    state: str
    launched_at: float
    """Since when it costs [unix s]."""
    ended_at: float | None
    """Until when it cost [unix s]; `None` while it does, or where AWS does not say."""
    attempt: int | None
    """Which attempt of the run it was rented for; `None` where its tags do not say."""
    zone: str | None = None
    """By its name in this account; `None` where AWS does not say."""

    @property
    def is_gone(self) -> bool:
        return self.state in GONE


@dataclass(frozen=True)
class Leftover:
    """Something of a run that still costs."""

    kind: str
    id: str
    region: str

    def __str__(self) -> str:
        return f"{self.kind} {self.id} in {self.region}"


class Aws:
    """Asks and tells EC2 about the things that carry a run's tag.

    Args:
        regions: where to look.
        client: makes clients.
    """

    def __init__(self, regions: Iterable[str], client: ClientFactory = boto3_client) -> None:
        self._regions = tuple(dict.fromkeys(regions))
        self._client = client

    def instances(self, run_id: str) -> list[Instance]:
        """All machines of a run, those that are gone too for as long as AWS remembers them."""
        return list(self._everywhere(lambda region: self._instances(run_id, region)))

    def leftovers(self, run_id: str) -> list[Leftover]:
        """Machines, volumes, addresses and network interfaces of a run that still exist."""
        return list(self._everywhere(lambda region: self._leftovers(run_id, region)))

    def remove(self, leftover: Leftover) -> None:
        """End a machine or delete a thing. What is in use yet stays; ask again, later."""
        from botocore.exceptions import ClientError

        ec2 = self._client("ec2", leftover.region)
        try:
            match leftover.kind:
                case "instance":
                    ec2.terminate_instances(InstanceIds=[leftover.id])
                case "volume":
                    ec2.delete_volume(VolumeId=leftover.id)
                case "address":
                    ec2.release_address(AllocationId=leftover.id)
                case "network interface":
                    ec2.delete_network_interface(NetworkInterfaceId=leftover.id)
                case kind:
                    raise ValueError(f"no way to remove a {kind}")
        except ClientError as error:
            if _code(error) not in ("VolumeInUse", "InvalidParameterValue") and not _code(
                error
            ).endswith(".NotFound"):
                raise

    def end_on_shutdown(self, instance: Instance) -> bool:
        """Have a machine that powers itself off be terminated and not only stopped.

        Returns whether AWS confirms it when asked back.
        """
        from botocore.exceptions import ClientError

        ec2 = self._client("ec2", instance.region)
        name = "instanceInitiatedShutdownBehavior"
        try:
            ec2.modify_instance_attribute(
                InstanceId=instance.id, InstanceInitiatedShutdownBehavior={"Value": "terminate"}
            )
        except ClientError:
            return False
        answer = ec2.describe_instance_attribute(InstanceId=instance.id, Attribute=name)
        return bool(answer.get("InstanceInitiatedShutdownBehavior", {}).get("Value") == "terminate")

    def spot_prices(
        self, region: str, zone: str, instance_type: str, since: float, until: float
    ) -> list[Price]:
        """What one such machine cost as spot at each moment of a time [unix s], oldest first; the
        first price began at `since` or before."""
        pages = self._client("ec2", region).get_paginator("describe_spot_price_history")
        asked = pages.paginate(
            InstanceTypes=[instance_type],
            AvailabilityZone=zone,
            ProductDescriptions=["Linux/UNIX"],
            StartTime=datetime.fromtimestamp(since, UTC),
            EndTime=datetime.fromtimestamp(until, UTC),
        )
        return sorted(
            Price(said["Timestamp"].timestamp(), Decimal(said["SpotPrice"]))
            for page in asked
            for said in page["SpotPriceHistory"]
            if (said["InstanceType"], said["AvailabilityZone"]) == (instance_type, zone)
        )

    def _everywhere(self, ask: Callable[[str], list[Any]]) -> Iterator[Any]:
        with ThreadPoolExecutor(max_workers=max(1, len(self._regions))) as pool:
            for found in pool.map(ask, self._regions):
                yield from found

    def _instances(self, run_id: str, region: str) -> list[Instance]:
        pages = self._client("ec2", region).get_paginator("describe_instances")
        return [
            Instance(
                id=found["InstanceId"],
                region=region,
                state=found["State"]["Name"],
                launched_at=found["LaunchTime"].timestamp(),
                ended_at=ended_at(found.get("StateTransitionReason", "")),
                attempt=_attempt(found.get("Tags", [])),
                zone=found.get("Placement", {}).get("AvailabilityZone"),
            )
            for page in pages.paginate(Filters=_tagged(run_id))
            for reservation in page["Reservations"]
            for found in reservation["Instances"]
        ]

    def _leftovers(self, run_id: str, region: str) -> list[Leftover]:
        ec2, tagged = self._client("ec2", region), _tagged(run_id)
        machines = [one.id for one in self._instances(run_id, region) if not one.is_gone]
        volumes = [
            one["VolumeId"]
            for page in ec2.get_paginator("describe_volumes").paginate(Filters=tagged)
            for one in page["Volumes"]
            if one["State"] != "deleting"
        ]
        addresses = ec2.describe_addresses(Filters=tagged)["Addresses"]
        interfaces = ec2.describe_network_interfaces(Filters=tagged)["NetworkInterfaces"]
        found = {
            "instance": machines,
            "volume": volumes,
            "address": [one["AllocationId"] for one in addresses],
            "network interface": [one["NetworkInterfaceId"] for one in interfaces],
        }
        return [Leftover(kind, name, region) for kind, names in found.items() for name in names]


def ended_at(reason: str) -> float | None:
    """When a machine ended, from what AWS gives as the reason of its last change of state.

    >>> ended_at("User initiated (2026-11-22 03:20:27 GMT)")
    1795317627.0
    >>> ended_at("") is None
    True
    """
    found = re.search(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)", reason)
    if not found:
        return None
    return datetime.fromisoformat(found[1]).replace(tzinfo=UTC).timestamp()


def _tagged(run_id: str) -> list[dict[str, Any]]:
    return [{"Name": f"tag:{RUN_TAG}", "Values": [run_id]}]


def _attempt(tags: list[dict[str, str]]) -> int | None:
    values = [tag["Value"] for tag in tags if tag["Key"] == ATTEMPT_TAG]
    return int(values[0]) if values and values[0].isdecimal() else None


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
