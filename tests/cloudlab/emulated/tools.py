"""Programs the lab needs on the machine it runs on; what is missing is installed where we may."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from emulated.folder import LabError, LabFolder, LabUnavailable

PACKAGES = {
    "ip": "iproute2",
    "unshare": "util-linux",
    "ssh": "openssh-client",
    "rsync": "rsync",
    "debootstrap": "debootstrap",
}
"""Program to Debian package. SkyPilot itself calls ssh and rsync."""

UV = "uv==0.13.9"

Say = Callable[[str], None]


def require_root() -> None:
    """Namespaces, overlays and bridges are root's.

    Raises:
        LabUnavailable: not root.
    """
    if os.geteuid() != 0:
        raise LabUnavailable(
            "the emulated cloud makes network namespaces and mounts: run it as root"
        )


def ensure_programs(say: Say) -> None:
    """Install with apt what is missing.

    Raises:
        LabUnavailable: something is missing and apt cannot bring it.
    """
    missing = [package for program, package in PACKAGES.items() if not shutil.which(program)]
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise LabUnavailable(
            f"missing on this machine: {', '.join(missing)}. Install them and try again"
        )
    say(f"installing {', '.join(missing)}")
    install = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing]
    if run_quietly(install).returncode == 0:
        return
    run_quietly(["apt-get", "update", "-q"])
    second = run_quietly(install)
    if second.returncode != 0:
        last = (second.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise LabUnavailable(f"apt-get cannot install {', '.join(missing)}: {last}")


def ensure_uv(folder: LabFolder) -> Path:
    """uv, for our own environments and for the hosts. Made once."""
    if not folder.uv.exists():
        make_environment(folder.uv.parents[1])
        pip = [folder.uv.with_name("python"), "-m", "pip", "install", "-q", UV]
        must([str(part) for part in pip], "install uv")
    return folder.uv


def ensure_moto(folder: LabFolder, say: Say) -> Path:
    """The environment of the emulated AWS; returns its Python. Made again when its lock changes."""
    lock = Path(__file__).parents[1] / "locks" / "moto.txt"
    made_from = folder.moto_python.parents[1] / "lock.txt"
    if made_from.exists() and made_from.read_bytes() == lock.read_bytes():
        return folder.moto_python
    say("making moto's environment")
    shutil.rmtree(folder.moto_python.parents[1], ignore_errors=True)
    make_environment(folder.moto_python.parents[1], "--without-pip")
    install = [
        ensure_uv(folder),
        "pip",
        "install",
        "-q",
        "--python",
        folder.moto_python,
        "-r",
        lock,
    ]
    must([str(part) for part in install], "install moto", UV_CACHE_DIR=str(folder.cache / "uv"))
    shutil.copyfile(lock, made_from)
    return folder.moto_python


def make_environment(path: Path, *options: str) -> None:
    """A virtual environment of this Python."""
    must([sys.executable, "-m", "venv", *options, str(path)], f"make the environment {path.name}")


def must(command: list[str], purpose: str, **environment: str) -> None:
    """Run a command to its end.

    Raises:
        LabError: it failed; carries the end of what it said.
    """
    done = run_quietly(command, **environment)
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise LabError(f"cannot {purpose} ({command[0]} ended with {done.returncode}):\n{said}")


def run_quietly(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command, nice, and keep what it says."""
    return subprocess.run(
        ["nice", *command],
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"} | environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
