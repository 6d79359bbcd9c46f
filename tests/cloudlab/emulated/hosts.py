"""One running instance as a host of its own: namespaces, an overlay disk, a cable to the bridge.

Runs inside the lab's sealed network namespace; see `guest/boot` for what happens within the host.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from emulated.folder import ENDPOINT, GATEWAY, SCRIPTS

BRIDGE = "br0"
REBOOT = 3
"""Exit status of a host's init that asks to be started again."""


@dataclass(frozen=True)
class Instance:
    """What the hypervisor has to know of an EC2 instance."""

    id: str
    region: str
    zone: str
    type: str
    state: str
    address: str
    lifecycle: str
    """`spot` or `on-demand`."""
    role: str
    """Name of its instance profile, or empty."""

    @property
    def name(self) -> str:
        return "ip-" + self.address.replace(".", "-")

    @property
    def cable(self) -> str:
        """Our end of its network cable. Interface names have 15 characters at most."""
        return "v" + self.id[-10:]


@dataclass(frozen=True)
class Plant:
    """What all hosts of a lab are made from."""

    hosts: Path
    image: Path
    shared: Path | None
    """Python packages that every host mounts, read-only."""
    logs: Path


class Host:
    """A host that was started. `ended` turns into its exit status when its init is gone."""

    def __init__(self, instance: Instance, process: "subprocess.Popen[bytes]", init: int) -> None:
        self.instance = instance
        self.init = init
        """Process id of its pid 1, as the lab sees it."""
        self._process = process

    @property
    def ended(self) -> int | None:
        return self._process.poll()

    @property
    def booted(self) -> bool:
        """Whether it has come so far that it listens for ssh and for signals."""
        return self.ended is None and Path(f"/proc/{self.init}/root/run/booted").exists()

    def wait(self) -> int:
        return self._process.wait()

    def kill(self) -> None:
        """Take the power away: pid 1 goes, and with it everything it was the first of."""
        if self.ended is None:
            os.kill(self.init, signal.SIGKILL)
        self._process.wait()
        _ip("link", "delete", self.instance.cable, check=False)

    def cut(self) -> None:
        """Pull the network cable."""
        _ip("link", "set", self.instance.cable, "down")

    def mend(self) -> None:
        """Put the network cable back."""
        _ip("link", "set", self.instance.cable, "up")


def lay_bridge() -> None:
    """The lab's network: one bridge with our address and that of the metadata service."""
    _ip("link", "set", "lo", "up")
    _ip("link", "add", BRIDGE, "type", "bridge")
    _ip("address", "add", f"{GATEWAY}/16", "dev", BRIDGE)
    _ip("address", "add", "169.254.169.254/32", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")


def boot(instance: Instance, keys: tuple[str, ...], plant: Plant) -> Host:
    """Start a host; its disk is new, or the one that it was stopped with."""
    disk = plant.hosts / instance.id
    disk.mkdir(parents=True, exist_ok=True)
    (disk / "authorized_keys").write_text("".join(f"{key}\n" for key in keys))
    process = _unshared(instance, disk, plant)
    init = _wait_for(lambda: _child(process.pid), process)
    _ip("link", "add", instance.cable, "type", "veth", "peer", "name", "eth0", "netns", str(init))
    _ip("link", "set", instance.cable, "master", BRIDGE, "up")
    assert process.stdin is not None
    process.stdin.write(b"go\n")
    process.stdin.close()
    return Host(instance, process, init)


def wipe(instance_id: str, plant: Plant) -> None:
    """Throw a host's disk away."""
    shutil.rmtree(plant.hosts / instance_id, ignore_errors=True)


def _unshared(instance: Instance, disk: Path, plant: Plant) -> "subprocess.Popen[bytes]":
    guest = SCRIPTS / "guest"
    environment = {
        "PATH": os.environ["PATH"],
        "DISK": str(disk),
        "IMAGE": str(plant.image),
        "SHARED": str(plant.shared or ""),
        "GUEST": str(guest),
        "NAME": instance.name,
        "ADDRESS": instance.address,
        "GATEWAY": GATEWAY,
        "ENDPOINT": ENDPOINT,
    }
    # A clock since boot of its own: SkyPilot's autostop asks a host when it was booted.
    unshare = ["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--time", "--fork"]
    unshare += ["--kill-child", f"--boottime={-_uptime_s()}"]
    with (plant.logs / f"{instance.id}.log").open("ab") as console:
        return subprocess.Popen(
            [*unshare, str(guest / "boot")],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _uptime_s() -> int:
    return int(float(Path("/proc/uptime").read_text().split()[0]))


def _child(pid: int) -> int | None:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else None


def _wait_for(
    look: Callable[[], int | None], process: "subprocess.Popen[bytes]", seconds: float = 10.0
) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        found = look()
        if found is not None:
            return found
        time.sleep(0.01)
    process.kill()
    raise RuntimeError(f"the host's first process did not start within {seconds:.0f} s")


def _ip(*arguments: str, check: bool = True) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
