"""The real SkyPilot without a cloud and without a network, in a home folder of its own.

Its API server runs on the frozen price catalogs of tests/catalogs; moto answers where it asks AWS
who it is. Both are ended by their own process groups: SkyPilots of other people are left alone.
"""

import contextlib
import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
SKY = Path(sys.executable).parent / "sky"
PATIENCE_S = 180.0

_AMI = "ami-03cf127a"
"""An image that moto has in every region."""

_IMAGES = ("custom-cpu-ubuntu", "custom-gpu-ubuntu", "custom-gpu-ubuntu-cuda13")


@contextlib.contextmanager
def offline_sky(home: Path) -> Iterator[dict[str, str]]:
    """SkyPilot with AWS enabled; gives the environment to call `sky` in."""
    _write_catalogs(home / ".sky" / "catalogs" / "v8")
    cloud, server = (f"http://127.0.0.1:{_free_port()}" for _ in range(2))
    plain = {**os.environ, "HOME": str(home), "AWS_EC2_METADATA_DISABLED": "true"}
    environ = {
        **plain,
        "AWS_ACCESS_KEY_ID": "offline",
        "AWS_SECRET_ACCESS_KEY": "offline",
        "AWS_DEFAULT_REGION": "us-east-2",
        "AWS_ENDPOINT_URL": cloud,
        "SKYPILOT_API_SERVER_ENDPOINT": server,
        "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
    }
    with contextlib.ExitStack() as started:
        moto = ["-m", "moto.server", "-p", cloud.rpartition(":")[2]]
        started.enter_context(_running(moto, environ, home / "moto.log", cloud))
        api = ["-m", "sky.server.server", "--port", server.rpartition(":")[2]]
        health = f"{server}/api/health"
        started.enter_context(_running(api, environ, home / "server.log", health))
        subprocess.run([SKY, "check", "aws"], env=environ, check=True, capture_output=True)
        yield environ


@contextlib.contextmanager
def _running(words: list[str], environ: Mapping[str, str], log: Path, url: str) -> Iterator[None]:
    """A process that answers at `url`, and whatever it starts; all of it is gone afterwards."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *words],
            env=environ,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _wait(process, url, log)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.5)
    said = log.read_text(errors="replace").strip().splitlines()[-1:]
    raise SystemExit(f"{url} does not answer: {''.join(said) or 'nothing was said'}")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _write_catalogs(folder: Path) -> None:
    """The frozen prices, and what SkyPilot would fetch besides: images and quota codes."""
    shutil.copytree(ROOT / "tests" / "catalogs", folder)
    with (folder / "aws" / "vms.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    regions = sorted({row["Region"] for row in rows})
    images = [
        [f"skypilot:{tag}", region, "ubuntu", "22.04", _AMI, "20261101", ""]
        for tag in _IMAGES
        for region in regions
    ]
    columns = ["Tag", "Region", "OS", "OSVersion", "ImageId", "CreationDate", "BaseImageId"]
    _write(folder / "aws" / "images.csv", columns, images)
    codes = ["InstanceType", "OnDemandInstanceCode", "SpotInstanceCode"]
    _write(folder / "aws" / "instance_quota_mapping.csv", codes, [])


def _write(path: Path, columns: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
