"""Keeps hosts in step with what EC2 says, and EC2 in step with hosts that switch themselves off.

`next_steps` decides and is pure; `Hypervisor` carries out. The cloud's word comes through its own
API, so that nothing here depends on how the emulation keeps its books.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from emulated import hosts
from emulated.cloudinit import authorized_keys
from emulated.hosts import Host, Instance, Plant

Deed = Literal["boot", "reboot", "report_off", "stop", "wipe"]

log = logging.getLogger("hypervisor")


@dataclass(frozen=True)
class Step:
    """One thing to do about one instance.

    boot: start its host. reboot: start it again, disk kept. report_off: the host switched itself
    off, tell EC2. stop: end the host, keep the disk. wipe: end the host, throw the disk away.
    """

    deed: Deed
    instance_id: str


def next_steps(states: Mapping[str, str], ended: Mapping[str, int | None]) -> list[Step]:
    """What has to be done for hosts to be as EC2 says.

    Args:
        states: instance to its state in EC2. An instance EC2 does not know counts as terminated.
        ended: instance to its host's exit status, `None` while it runs. A host that was killed
            has neither asked to start again nor switched itself off: to EC2 it goes on running.

    >>> next_steps({"i-1": "running"}, {})
    [Step(deed='boot', instance_id='i-1')]
    >>> next_steps({"i-1": "running"}, {"i-1": 0})
    [Step(deed='report_off', instance_id='i-1')]
    """
    steps = [
        Step("boot", instance)
        for instance, state in states.items()
        if state == "running" and instance not in ended
    ]
    for instance, status in ended.items():
        state = states.get(instance, "terminated")
        if state in ("terminated", "shutting-down"):
            steps.append(Step("wipe", instance))
        elif state in ("stopped", "stopping"):
            steps.append(Step("stop", instance))
        elif status == hosts.REBOOT:
            steps.append(Step("reboot", instance))
        elif status == 0:
            steps.append(Step("report_off", instance))
    return steps


def read_instances(region: str, described: Mapping[str, Any]) -> list[Instance]:
    """Instances out of an answer of DescribeInstances.

    Those of one request have one role: moto gives it to the first of them alone.
    """
    return [
        Instance(
            id=found["InstanceId"],
            region=region,
            zone=found["Placement"]["AvailabilityZone"],
            type=found["InstanceType"],
            state=found["State"]["Name"],
            address=found.get("PrivateIpAddress", ""),
            lifecycle=found.get("InstanceLifecycle", "on-demand"),
            role=role,
        )
        for reservation in described["Reservations"]
        for role in [_role_of(reservation["Instances"])]
        for found in reservation["Instances"]
    ]


def _role_of(asked_for_together: Iterable[Mapping[str, Any]]) -> str:
    profiles = (found.get("IamInstanceProfile", {}) for found in asked_for_together)
    return next((each["Arn"].rpartition("/")[2] for each in profiles if each.get("Arn")), "")


class Hypervisor:
    """Runs hosts. One thread reconciles; faults may come from others, hence the lock."""

    def __init__(self, clouds: Mapping[str, Any], plant: Plant) -> None:
        self._clouds = clouds
        """Region to its EC2 client."""
        self._plant = plant
        self._hosts: dict[str, Host] = {}
        self._lock = threading.RLock()
        self._wake = threading.Event()

    def wake(self) -> None:
        """Look again now: something changed."""
        self._wake.set()

    def run(self, poll_s: float = 5.0) -> None:
        """Reconcile for ever: when woken, and every `poll_s` seconds at the latest."""
        while True:
            self._wake.clear()
            self.reconcile()
            self._wake.wait(poll_s)

    def reconcile(self) -> None:
        """One look at EC2, and the steps that follow from it."""
        instances = {found.id: found for found in self._described()}
        states = {found.id: found.state for found in instances.values()}
        with self._lock:
            for name, host in self._hosts.items():
                # moto gives an instance its profile a moment after it calls it running, and takes
                # it from all of a request with the first of them
                found = instances.get(name, host.instance)
                host.instance = replace(found, role=found.role or host.instance.role)
            ended = {name: host.ended for name, host in self._hosts.items()}
            for step in next_steps(states, ended):
                log.info("%s %s", step.deed, step.instance_id)
                try:
                    self._take(step, instances.get(step.instance_id))
                except Exception:  # a host that cannot start must not keep the others waiting
                    log.exception("cannot %s %s", step.deed, step.instance_id)

    def hosts(self) -> list[Host]:
        """Hosts that are up."""
        with self._lock:
            return [host for host in self._hosts.values() if host.booted]

    def restart(self, instance_id: str) -> None:
        """Reboot a host, as if somebody had typed `reboot`, or switch it off and on."""
        with self._lock:
            host = self._hosts.get(instance_id)
            if host is None:
                return
            if host.booted:
                os.kill(host.init, signal.SIGUSR2)
            else:
                self._hosts.pop(instance_id).kill()

    def at_address(self, address: str) -> Host | None:
        """The host with this private address."""
        return next((host for host in self.hosts() if host.instance.address == address), None)

    def on_host(self, instance_id: str, do: Callable[[Host], None]) -> None:
        """Do something to one host.

        Raises:
            KeyError: no such host.
        """
        with self._lock:
            do(self._hosts[instance_id])

    def _described(self) -> Iterable[Instance]:
        for region, ec2 in self._clouds.items():
            yield from read_instances(region, ec2.describe_instances())

    def _take(self, step: Step, instance: Instance | None) -> None:
        if step.deed in ("stop", "wipe", "reboot"):
            self._hosts.pop(step.instance_id).kill()
        if step.deed == "wipe":
            hosts.wipe(step.instance_id, self._plant)
        if instance is None:
            return
        if step.deed in ("boot", "reboot"):
            self._boot(instance)
        elif step.deed == "report_off":
            self._report_off(instance)

    def _boot(self, instance: Instance) -> None:
        ec2 = self._clouds[instance.region]
        asked = ec2.describe_instance_attribute(InstanceId=instance.id, Attribute="userData")
        keys = authorized_keys(asked.get("UserData", {}).get("Value", ""))
        host = hosts.boot(instance, keys, self._plant)
        self._hosts[instance.id] = host
        threading.Thread(target=self._announce_end, args=(host,), daemon=True).start()

    def _announce_end(self, host: Host) -> None:
        host.wait()
        self.wake()

    def _report_off(self, instance: Instance) -> None:
        """A host that ends by itself is stopped or terminated, as its instance was made to."""
        ec2 = self._clouds[instance.region]
        asked = ec2.describe_instance_attribute(
            InstanceId=instance.id, Attribute="instanceInitiatedShutdownBehavior"
        )
        if asked["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate":
            ec2.terminate_instances(InstanceIds=[instance.id])
        else:
            ec2.stop_instances(InstanceIds=[instance.id])
        self.wake()
