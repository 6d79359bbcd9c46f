"""EC2, as a boto3 client shows it: machines, their disks, and a bill.

Times are told in whole seconds, as AWS does, and billed by them. A machine costs from its launch to
the moment it is told to end; it is forgotten an hour after that.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import Any

from botocore.exceptions import ClientError

from launcher.machines.aws import Aws
from recipes.money import machine_micro_usd
from simulated.world import BEGINNING, Outages, World

INSTANCE_TYPE = "p5.48xlarge"
"""All machines are alike."""

REMEMBERED_S = 3600.0
"""How long EC2 tells of a machine that is gone [s]."""

LONGEST_LIE_S = 4.5
"""EC2 may not tell of what exists for so long [s]: less than what lies between two looks."""

TRUTH_S = 30.0
"""At least so long between two lies [s]."""


@dataclass(eq=False)
class Machine:
    """An instance."""

    id: str
    region: str
    run: str
    attempt: int
    zone: str
    spot: bool
    market: "Market"
    launched_at: int
    tells_its_end: bool
    disk_stays: bool
    state: str = "running"
    ended_at: int | None = None
    """When it stopped to cost."""
    on_shutdown: str = "stop"

    @property
    def costs(self) -> bool:
        return self.ended_at is None

    @property
    def exists(self) -> bool:
        """Whether anybody still has to end it."""
        return self.state not in ("shutting-down", "terminated")

    def bill(self, now: float) -> int:
        """What it has cost so far [micro-dollars]."""
        if not self.spot:
            return self.dearest(now)
        return self.market.bill(self.launched_at, self.launched_at + self.seconds(now))

    def dearest(self, now: float) -> int:
        """The most that it can have cost so far, had it all been at the price on demand
        [micro-dollars]."""
        return machine_micro_usd(self.market.on_demand, self.seconds(now))

    def seconds(self, now: float) -> int:
        """For which it has cost so far."""
        return (int(now) if self.ended_at is None else self.ended_at) - self.launched_at


@dataclass(eq=False)
class Disk:
    id: str
    machine: Machine
    deleted: bool = False


class Market:
    """What a machine of one zone costs: on demand always the same, as spot it may move."""

    def __init__(self, world: World, spot: Decimal, on_demand: Decimal) -> None:
        self.on_demand = on_demand
        self.spot: list[tuple[int, Decimal]] = [(int(BEGINNING) - 3600, spot)]
        """Since when, and USD/h; oldest first."""
        self._world = world
        if "moving prices" in world.troubles:
            self._wait()

    def _wait(self) -> None:
        self._world.at(self._world.chance.uniform(30, 900), self._move)

    def _move(self) -> None:
        if "moving prices" in self._world.troubles:
            share = Decimal(self._world.chance.choice((20, 70, 100, 100, 100))) / 100
            self.spot.append((int(self._world.now), self.on_demand * share))
            self._world.tell(f"a spot price is {self.spot[-1][1]:.2f} USD/h now")
            self._wait()

    def bill(self, start: int, end: int) -> int:
        """By the price of each second [micro-dollars]."""
        until = [since for since, _ in self.spot[1:]] + [end]
        spans = [
            (usd, min(stop, end) - max(since, start))
            for (since, usd), stop in zip(self.spot, until, strict=True)
        ]
        return sum(machine_micro_usd(usd, seconds) for usd, seconds in spans if seconds > 0)

    def history(self, start: float, end: float) -> list[tuple[int, Decimal]]:
        """As EC2 tells it: the price at the start, and its changes until the end."""
        last = max(i for i, (since, _) in enumerate(self.spot) if i == 0 or since <= start)
        return [price for price in self.spot[last:] if price[0] <= end]


@dataclass
class Cloud:
    """What is really there, and what of it is told."""

    world: World
    on_create: Callable[[Machine], None] = lambda machine: None
    """Told of each machine just before it exists."""
    machines: list[Machine] = field(default_factory=list)
    disks: list[Disk] = field(default_factory=list)
    markets: dict[str, Market] = field(default_factory=dict)
    """By zone."""

    def __post_init__(self) -> None:
        self.outages = Outages(self.world.chance, 3600, longest_s=400)
        if "absent cloud" not in self.world.troubles:
            self.outages.end()
        self._lies_until = BEGINNING

    # ---- what happens

    def create(self, run: str, attempt: int, region: str, spot: bool, zone: str) -> Machine:
        world = self.world
        machine = Machine(
            id=f"i-{len(self.machines) + 1}",
            region=region,
            run=run,
            attempt=attempt,
            zone=zone,
            spot=spot,
            market=self.markets[zone],
            launched_at=int(world.now),
            tells_its_end=not world.happens("silent ends", 0.5),
            disk_stays=world.happens("left disks", 0.5),
        )
        self.on_create(machine)
        self.machines.append(machine)
        self.disks.append(Disk(f"vol-{len(self.disks) + 1}", machine))
        world.tell(f"{machine.id} of attempt {attempt} exists in {zone}")
        return machine

    def terminate(self, machine: Machine, why: str) -> None:
        if not machine.exists:
            return
        self.world.tell(f"{machine.id} ends: {why}")
        machine.state = "shutting-down"
        if machine.ended_at is None:
            machine.ended_at = int(self.world.now)
        self.world.at(self.world.chance.uniform(2, 30), lambda: self._gone(machine))

    def power_off(self, machine: Machine, why: str) -> None:
        """The machine switched itself off."""
        if machine.spot or machine.on_shutdown == "terminate":
            self.terminate(machine, why)
        elif machine.exists and machine.costs:
            self.world.tell(f"{machine.id} stops: {why}")
            machine.state, machine.ended_at = "stopped", int(self.world.now)

    def _gone(self, machine: Machine) -> None:
        machine.state = "terminated"
        for disk in self.disks:
            if disk.machine is machine and not machine.disk_stays:
                disk.deleted = True

    # ---- what is there

    def left(self) -> list[str]:
        """Everything that somebody would have to pay for or end."""
        machines = [machine.id for machine in self.machines if machine.exists]
        return machines + [disk.id for disk in self.disks if not disk.deleted]

    def bill(self) -> int:
        """All machines, so far [micro-dollars]."""
        return sum(machine.bill(self.world.now) for machine in self.machines)

    # ---- what is told

    def lies(self) -> bool:
        """Whether EC2 leaves out some of what is there just now."""
        now = self.world.now
        if now < self._lies_until:
            return True
        if now > self._lies_until + TRUTH_S and self.world.happens("lying cloud", 0.15):
            self._lies_until = now + self.world.chance.uniform(0.1, LONGEST_LIE_S)
            self.world.tell(f"EC2 leaves things out for {self._lies_until - now:.1f} s")
            return True
        return False

    def told_machines(self, region: str) -> list[Machine]:
        if self.lies():
            return []
        now = self.world.now
        return [
            one
            for one in self.machines
            if one.region == region
            and (one.state != "terminated" or now - (one.ended_at or now) < REMEMBERED_S)
        ]

    def told_disks(self, region: str) -> list[Disk]:
        if self.lies():
            return []
        return [one for one in self.disks if one.machine.region == region and not one.deleted]


class Ec2:
    """The client of one region."""

    def __init__(self, cloud: Cloud, region: str) -> None:
        self._cloud = cloud
        self._region = region

    def get_paginator(self, operation: str) -> "Pages":
        answers: dict[str, Callable[..., dict[str, Any]]] = {
            "describe_instances": lambda Filters: self._instances(),
            "describe_volumes": lambda Filters: self._volumes(),
            "describe_spot_price_history": self._prices,
        }
        return Pages(lambda **asked: self._ask(operation, lambda: answers[operation](**asked)))

    def describe_addresses(self, Filters: Any) -> dict[str, Any]:
        return self._ask("describe_addresses", lambda: {"Addresses": []})

    def describe_network_interfaces(self, Filters: Any) -> dict[str, Any]:
        return self._ask("describe_network_interfaces", lambda: {"NetworkInterfaces": []})

    def terminate_instances(self, InstanceIds: list[str]) -> dict[str, Any]:
        def end() -> dict[str, Any]:
            for machine in self._cloud.machines:
                if machine.id in InstanceIds:
                    self._cloud.terminate(machine, "EC2 was asked to")
            return {}

        return self._ask("terminate_instances", end)

    def delete_volume(self, VolumeId: str) -> dict[str, Any]:
        def delete() -> dict[str, Any]:
            disk = next(disk for disk in self._cloud.disks if disk.id == VolumeId)
            if disk.deleted:
                raise _error("InvalidVolume.NotFound")
            if disk.machine.state != "terminated":
                raise _error("VolumeInUse")
            disk.deleted = True
            self._cloud.world.tell(f"{disk.id} is deleted")
            return {}

        return self._ask("delete_volume", delete)

    def modify_instance_attribute(
        self, InstanceId: str, InstanceInitiatedShutdownBehavior: dict[str, str]
    ) -> dict[str, Any]:
        def modify() -> dict[str, Any]:
            self._machine(InstanceId).on_shutdown = InstanceInitiatedShutdownBehavior["Value"]
            return {}

        return self._ask("modify_instance_attribute", modify)

    def describe_instance_attribute(self, InstanceId: str, Attribute: str) -> dict[str, Any]:
        value = self._machine(InstanceId).on_shutdown
        return self._ask(
            "describe_instance_attribute",
            lambda: {"InstanceInitiatedShutdownBehavior": {"Value": value}},
        )

    # ---- answers

    def _ask(self, operation: str, answer: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        world = self._cloud.world
        if self._cloud.outages.now(world.now):
            world.boundary(f"while EC2 does not answer {operation}")
            world.pass_time(5.0)
            raise ConnectionError("EC2 does not answer")
        return world.call(
            operation, answer, "failing cloud", lambda: _error("RequestLimitExceeded")
        )

    def _machine(self, name: str) -> Machine:
        return next(machine for machine in self._cloud.machines if machine.id == name)

    def _instances(self) -> dict[str, Any]:
        told = [_described(one) for one in self._cloud.told_machines(self._region)]
        return {"Reservations": [{"Instances": told}]}

    def _prices(
        self, AvailabilityZone: str, StartTime: datetime, EndTime: datetime, **others: Any
    ) -> dict[str, Any]:
        market = self._cloud.markets[AvailabilityZone]
        told = market.history(StartTime.timestamp(), EndTime.timestamp())
        return {
            "SpotPriceHistory": [
                {
                    "InstanceType": INSTANCE_TYPE,
                    "AvailabilityZone": AvailabilityZone,
                    "Timestamp": _moment(since),
                    "SpotPrice": str(usd),
                }
                for since, usd in reversed(told)
            ]
        }

    def _volumes(self) -> dict[str, Any]:
        told = self._cloud.told_disks(self._region)
        return {"Volumes": [{"VolumeId": one.id, "State": "in-use"} for one in told]}


@dataclass
class Pages:
    """A paginator of one page."""

    answer: Callable[..., dict[str, Any]]

    def paginate(self, **asked: Any) -> Iterator[dict[str, Any]]:
        yield self.answer(**asked)


class AwsOneByOne(Aws):
    """Asks one region after the other, since threads would make a world depend on more than its
    seed."""

    def _everywhere(self, ask: Callable[[str], list[Any]]) -> Iterator[Any]:
        for region in self._regions:
            yield from ask(region)


def _described(machine: Machine) -> dict[str, Any]:
    ended_at = machine.ended_at if machine.tells_its_end else None
    return {
        "InstanceId": machine.id,
        "State": {"Name": machine.state},
        "LaunchTime": _moment(machine.launched_at),
        "Placement": {"AvailabilityZone": machine.zone},
        "StateTransitionReason": "" if ended_at is None else _reason(ended_at),
        "Tags": [
            {"Key": "stillhouse-run", "Value": machine.run},
            {"Key": "stillhouse-attempt", "Value": str(machine.attempt)},
        ],
    }


@cache
def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@cache
def _reason(ended_at: int) -> str:
    return f"User initiated ({_moment(ended_at):%Y-%m-%d %H:%M:%S} GMT)"


def _error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "as the world will have it"}}, "ask")
