"""What the hosts' image is made of: Debian 12, sshd, and SkyPilot's runtime as it leaves it.

Runs as a process of its own, in namespaces of its own (see `image.py`). Everything that needs a
network happens here; a host has none. A change of this file makes another image.

The worker's packages are not copied in: a host mounts those of the environment that started the
lab, read-only, at `/opt/stillhouse/shared`, where `/opt/stillhouse/bin/python` finds them.
"""

import os
import shutil
import sys
from pathlib import Path

from emulated.folder import SCRIPTS, LabError, LabFolder
from emulated.tools import must, run_quietly

SUITE = "bookworm"
PYTHON = "3.11"
"""Python of the hosts: that of Debian 12. The shared packages must be made for it."""

PACKAGES = (
    *("openssh-server", "rsync", "sudo", "curl", "ca-certificates", "procps", "iproute2"),
    *("netcat-openbsd", "psmisc", "lsof", "jq", "patch", "python3", "python3-venv"),
)

USER = "ubuntu"
RUNTIME = f"/home/{USER}/skypilot-runtime"


def build(root: Path, folder: LabFolder, wheel: Path) -> None:
    """Build the image in an empty folder.

    Raises:
        LabError: a step failed.
    """
    _bootstrap(root, folder.cache / "debs")
    _add_user(root)
    _add_runtime(root, folder, wheel)
    _add_worker_environment(root)


def _bootstrap(root: Path, debs: Path) -> None:
    debs.mkdir(parents=True, exist_ok=True)
    command = ["debootstrap", "--variant=minbase", f"--cache-dir={debs}"]
    command += [f"--include={','.join(PACKAGES)}", SUITE, str(root), *_mirror()]
    must(command, "bootstrap Debian")
    # Each host makes its own keys.
    for host_key in (root / "etc" / "ssh").glob("ssh_host_*"):
        host_key.unlink()


def _mirror() -> list[str]:
    """The mirror this machine's apt uses, if it is one of the suite; else debootstrap's own."""
    listed = run_quietly(
        ["apt-get", "indextargets", "--format", "$(RELEASE) $(ORIGIN) $(REPO_URI)"]
    )
    for line in listed.stdout.splitlines():
        if line.startswith(f"{SUITE} Debian "):
            return [line.split()[2]]
    return []


def _add_user(root: Path) -> None:
    _inside(root, "useradd", "--create-home", "--shell", "/bin/bash", "--uid", "1000", USER)
    (root / "etc/sudoers.d" / USER).write_text(f"{USER} ALL=(ALL) NOPASSWD:ALL\n")


def _add_runtime(root: Path, folder: LabFolder, wheel: Path) -> None:
    """What SkyPilot's setup would install, so that on a host it finds everything and goes on.

    Its guards: `uv -V` answers, `~/skypilot-runtime` is a folder, `ray` has the right version,
    `current_sky_wheel_hash` names the wheel it sends, `~/sky-user-env` has python and pip.
    """
    local = root / f"home/{USER}/.local/bin"
    local.mkdir(parents=True)
    shutil.copy2(folder.uv, local / "uv")
    _lend_network(root, folder.cache / "uv")
    _inside(root, "python3", "-m", "venv", RUNTIME)
    install = f"/home/{USER}/.local/bin/uv pip install --compile-bytecode --python {RUNTIME}"
    shutil.copyfile(SCRIPTS / "locks" / "runtime.txt", root / "tmp/runtime.txt")
    shutil.copyfile(wheel, root / "tmp" / wheel.name)
    _inside(root, *install.split(), "-r", "/tmp/runtime.txt")
    _inside(root, *install.split(), "--no-deps", "--reinstall", f"/tmp/{wheel.name}")
    wheels = root / f"home/{USER}/.sky/wheels"
    wheels.mkdir(parents=True)
    (wheels / "current_sky_wheel_hash").write_text(f"{wheel.parent.name}\n")
    user_environment = f"/home/{USER}/sky-user-env"
    _inside(root, "python3", "-m", "venv", "--system-site-packages", user_environment)
    _inside(root, "chown", "-R", f"{USER}:{USER}", f"/home/{USER}")
    _take_network_back(root)


def _lend_network(root: Path, cache: Path) -> None:
    """Names and certificates of this machine, and the cache of packages, while we build."""
    for name in ("etc/resolv.conf", "etc/hosts"):
        shutil.copyfile(f"/{name}", root / name)
    certificates = Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"))
    if certificates.exists():
        shutil.copyfile(certificates, root / "etc/ssl/certs/ca-certificates.crt")
    cache.mkdir(parents=True, exist_ok=True)
    (root / "cache").mkdir()
    must(["mount", "--bind", str(cache), str(root / "cache")], "lend the cache of packages")


def _take_network_back(root: Path) -> None:
    must(["umount", str(root / "cache")], "take the cache of packages back")
    (root / "cache").rmdir()
    for left in [*(root / "tmp").iterdir(), root / "etc/resolv.conf"]:
        left.unlink()
    # Without this uv asks an index before it uses what is there, and setup fails.
    (root / "etc/uv").mkdir()
    (root / "etc/uv/uv.toml").write_text("offline = true\n")


def _add_worker_environment(root: Path) -> None:
    _inside(root, "python3", "-m", "venv", "--without-pip", "/opt/stillhouse")
    (root / "opt/stillhouse/shared").mkdir()
    packages = root / f"opt/stillhouse/lib/python{PYTHON}/site-packages"
    (packages / "shared.pth").write_text("/opt/stillhouse/shared\n")


def _inside(root: Path, *command: str) -> None:
    passed_on = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("UV_") or name.lower() in ("http_proxy", "https_proxy", "no_proxy")
    }
    settings = passed_on | {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "UV_CACHE_DIR": "/cache",
        "UV_LINK_MODE": "copy",
        "UV_HTTP_TIMEOUT": "180",
        "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt",
    }
    clean = ["env", "-i", *(f"{name}={value}" for name, value in settings.items())]
    must(["chroot", str(root), *clean, *command], f"run {command[0]} in the image")


if __name__ == "__main__":
    try:
        build(Path(sys.argv[1]), LabFolder(Path(sys.argv[2])), Path(sys.argv[3]))
    except LabError as error:
        sys.exit(str(error))
