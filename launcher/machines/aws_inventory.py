"""Everything in an AWS account that carries our tags, whoever launched it and wherever it is.

Nothing of our own records is asked. What has no tag of ours is never looked at twice.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from launcher.machines.aws import GONE, Aws, ClientFactory, Leftover
from launcher.machines.labels import EXPIRES, OWNER, RUN, read_expires
from recipes.privacy import redacted

Kind = Literal["instance", "volume", "address", "network interface", "upload"]

HOME_REGION = "us-east-1"
"""Where the account is asked which regions it has."""

AT_ONCE = 16
"""Regions asked at the same time."""


@dataclass(frozen=True)
class Thing:
    """Something that costs, with our tag on it."""

    kind: Kind
    id: str
    region: str
    """Of an upload: the bucket."""
    run_id: str
    owner: str | None = None
    expires_at: float | None = None
    """From then on it is nobody's any more [unix s]; `None` where its tags do not say."""

    def __str__(self) -> str:
        return f"{self.kind} {self.id} in {self.region}"


@dataclass(frozen=True)
class Inventory:
    """What was found, and where it could not be looked."""

    things: tuple[Thing, ...]
    unasked: Mapping[str, str]
    """Region or bucket -> why it could not be asked."""


def take_inventory(
    client: ClientFactory, regions: Sequence[str], stores: Iterable[tuple[str, str]] = ()
) -> Inventory:
    """Everything of ours in these regions, and unfinished uploads in these run stores.

    Args:
        client: makes clients.
        regions: names; none: every region that is enabled for the account.
        stores: bucket and prefix below which each run has a folder of its own.
    """
    unasked: dict[str, str] = {}

    def guarded(place: str, look: Callable[[], list[Thing]]) -> list[Thing]:
        try:
            return look()
        except Exception as error:  # noqa: BLE001 - one place that fails hides no other
            unasked[place] = redacted(str(error))
            return []

    def in_region(region: str) -> list[Thing]:
        return guarded(region, lambda: list(_in_region(client("ec2", region), region)))

    try:
        places = list(regions) or enabled_regions(client)
    except Exception as error:  # noqa: BLE001 - the same
        places, unasked["the list of regions"] = [], redacted(str(error))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        things = [thing for found in pool.map(in_region, places) for thing in found]
    for bucket, prefix in stores:
        look = lambda bucket=bucket, prefix=prefix: list(  # noqa: E731
            _uploads(client("s3", HOME_REGION), bucket, prefix)
        )
        things += guarded(f"s3://{bucket}", look)
    return Inventory(tuple(things), unasked)


def enabled_regions(client: ClientFactory) -> list[str]:
    """Every region in which this account can have anything."""
    answer = client("ec2", HOME_REGION).describe_regions()
    return sorted(region["RegionName"] for region in answer["Regions"])


def remove(client: ClientFactory, thing: Thing) -> None:
    """Have it end. What is in use yet stays; ask again, later.

    Raises:
        botocore.exceptions.ClientError: AWS refuses.
    """
    if thing.kind == "upload":
        key, _, upload = thing.id.rpartition("?uploadId=")
        client("s3", HOME_REGION).abort_multipart_upload(
            Bucket=thing.region, Key=key, UploadId=upload
        )
    else:
        Aws([thing.region], client).remove(Leftover(thing.kind, thing.id, thing.region))


def _in_region(ec2: Any, region: str) -> Iterator[Thing]:
    ours = [{"Name": "tag-key", "Values": [RUN]}]
    for page in ec2.get_paginator("describe_instances").paginate(Filters=ours):
        for reservation in page["Reservations"]:
            for one in reservation["Instances"]:
                if one["State"]["Name"] not in GONE:
                    yield from _thing("instance", one["InstanceId"], region, one.get("Tags"))
    for page in ec2.get_paginator("describe_volumes").paginate(Filters=ours):
        for one in page["Volumes"]:
            if one["State"] != "deleting":
                yield from _thing("volume", one["VolumeId"], region, one.get("Tags"))
    for one in ec2.describe_addresses(Filters=ours)["Addresses"]:
        yield from _thing("address", one["AllocationId"], region, one.get("Tags"))
    for page in ec2.get_paginator("describe_network_interfaces").paginate(Filters=ours):
        for one in page["NetworkInterfaces"]:
            name = one["NetworkInterfaceId"]
            yield from _thing("network interface", name, region, one.get("TagSet"))


def _thing(
    kind: Kind, name: str, region: str, tags: Sequence[Mapping[str, str]] | None
) -> Iterator[Thing]:
    said = {tag["Key"]: tag["Value"] for tag in tags or ()}
    if RUN in said:  # whatever the filter was taken for: without the tag it is not ours
        yield Thing(kind, name, region, said[RUN], said.get(OWNER), _expires(said))


def _expires(tags: Mapping[str, str]) -> float | None:
    return read_expires(tags[EXPIRES]) if EXPIRES in tags else None


def _uploads(s3: Any, bucket: str, prefix: str) -> Iterator[Thing]:
    """Multipart uploads that nobody finished: their parts are paid for, and no listing shows them.

    They carry no tags: the run is the folder they were meant for.
    """
    below = f"{prefix}/" if prefix else ""
    pages = s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=below)
    for page in pages:
        for one in page.get("Uploads", []):
            run_id, slash, _ = one["Key"].removeprefix(below).partition("/")
            if slash:
                yield Thing("upload", f"{one['Key']}?uploadId={one['UploadId']}", bucket, run_id)
