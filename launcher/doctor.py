"""Looks whether everything is in place before money is at stake: each line ok, or what to do.

A check never shows a credential, changes nothing that stays, and never raises: one that could not
look says so, which is not the same as "ok".
"""

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from launcher.market.catalogs import catalog_clouds, enabled_clouds, fetch_command, sky_folder
from launcher.market.cloud_limits import NO_AUTODOWN
from recipes.errors import InvalidInputError
from recipes.privacy import redacted
from tracking.home import Home

State = Literal["ok", "attention", "unknown"]

AWS_QUOTAS = {"on demand": "L-417A185B", "spot": "L-C4BD4855"}
"""EC2's quotas of vCPUs for P machines, as SkyPilot's catalog names them for p5.48xlarge."""

ClientFactory = Callable[[str, str], Any]


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    state: State
    detail: str
    remedy: str = ""
    """What to do; empty where all is well."""

    def as_json(self) -> dict[str, str]:
        return {
            "name": self.name,
            "state": self.state,
            "detail": self.detail,
            "remedy": self.remedy,
        }


def examine(
    home: Home,
    environ: Mapping[str, str],
    client: ClientFactory,
    region: str = "us-east-1",
    clock: Callable[[], float] = time.time,
) -> Iterator[Check]:
    """All checks, one after the other, as each has its answer."""
    yield _skypilot()
    yield from _clouds(environ)
    yield _guarded("AWS credentials", lambda: _aws_credentials(client, region))
    for kind, code in AWS_QUOTAS.items():
        yield _guarded(f"AWS quota {kind}", partial(_quota, client, region, kind, code))
    store = _guarded("run store", lambda: _run_store(environ))
    yield store
    if store.state == "ok":  # its clock is what ours is compared with
        yield _guarded("clock", lambda: _clock(environ, clock))
    yield _guarded("notices", lambda: _notices(environ))
    yield _guarded("home", lambda: _home(home))
    yield _guarded("MLflow", lambda: _mlflow(home))


def _guarded(name: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - a doctor reports every failure and dies of none
        line = (redacted(str(error)).strip() or type(error).__name__).splitlines()[0][:200]
        return Check(name, "unknown", f"could not look: {line}", "Mend that, and look again.")


def _skypilot() -> Check:
    try:
        found = version("skypilot")
    except PackageNotFoundError:
        remedy = "`make env` installs it; without it only `--local` works."
        return Check("SkyPilot", "attention", "not installed", remedy)
    return Check("SkyPilot", "ok", found)


def _clouds(environ: Mapping[str, str]) -> Iterator[Check]:
    sky = sky_folder(environ)
    clouds = enabled_clouds(sky)
    if clouds is None:
        yield Check("clouds", "attention", "SkyPilot was never asked", "Run `sky check`.")
        return
    if not clouds:
        yield Check("clouds", "attention", "none is enabled", "Run `sky check`; it says why.")
        return
    yield Check("clouds", "ok", ", ".join(clouds))
    if missing := sorted(set(clouds) - set(catalog_clouds(sky))):
        commands = "; ".join(fetch_command(cloud) for cloud in missing)
        yield Check("catalogs", "attention", f"none of {', '.join(missing)}", f"Run {commands}.")
    if cannot := sorted(set(clouds) & NO_AUTODOWN):
        yield Check(
            "autodown",
            "attention",
            f"{', '.join(cannot)} cannot end machines by SkyPilot's timer",
            "Keep the launcher's machine on while a run is there, or use another cloud.",
        )


def _aws_credentials(client: ClientFactory, region: str) -> Check:
    from botocore.exceptions import NoCredentialsError

    try:
        identity = client("sts", region).get_caller_identity()
    except NoCredentialsError:
        remedy = "Set them up with `aws configure`, or leave AWS aside."
        return Check("AWS credentials", "attention", "none found", remedy)
    return Check("AWS credentials", "ok", f"account {identity['Account']}")


def _quota(client: ClientFactory, region: str, kind: str, code: str) -> Check:
    quotas = client("service-quotas", region)
    value = quotas.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"]
    name, detail = f"AWS quota {kind}", f"{value:.0f} vCPUs of P machines in {region}"
    if value < 192:
        remedy = "One p5.48xlarge has 192: ask AWS for more, in Service Quotas."
        return Check(name, "attention", detail, remedy)
    return Check(name, "ok", detail)


def _run_store(environ: Mapping[str, str]) -> Check:
    from recipes.store import WHILE_SOMEBODY_WAITS_S, FolderStore, open_store

    url = environ.get("STILLHOUSE_STORE")
    if not url:
        remedy = "Set STILLHOUSE_STORE=s3://bucket/prefix before renting machines."
        return Check("run store", "attention", "none is named", remedy)
    store, key = open_store(url, environ, WHILE_SOMEBODY_WAITS_S), f"doctor/{secrets.token_hex(8)}"
    made = [] if not isinstance(store, FolderStore) else _missing(Path(store.url) / "doctor")
    store.put_bytes(key, b"written and deleted again by `still doctor`\n")
    store.delete(key)
    for folder in made:
        with suppress(OSError):  # somebody else has put something there
            folder.rmdir()
    return Check("run store", "ok", f"{url} can be written")


def _missing(path: Path) -> list[Path]:
    """The folder and those above it that do not exist, the deepest first."""
    return [each for each in (path, *path.parents) if not each.exists()]


def _clock(environ: Mapping[str, str], clock: Callable[[], float]) -> Check:
    from launcher.runs.right_clock import MOST_S, clock_error_s, described
    from recipes.store import WHILE_SOMEBODY_WAITS_S, open_store

    store = open_store(environ["STILLHOUSE_STORE"], environ, WHILE_SOMEBODY_WAITS_S)
    error_s = clock_error_s(store, clock)
    if error_s is None:
        remedy = "Keep it right: rented machines end by it."
        return Check("clock", "unknown", "the run store does not tell its time", remedy)
    if abs(error_s) > MOST_S:
        remedy = "Set it (`timedatectl set-ntp true`): rented machines end by it."
        return Check("clock", "attention", described(error_s), remedy)
    return Check("clock", "ok", f"within {MOST_S:.0f} s of the run store's")


def _notices(environ: Mapping[str, str]) -> Check:
    from launcher.runs.messengers import COMMAND, URL, Webhook, ways_of

    try:
        ways = ways_of(environ)
    except InvalidInputError as error:
        return Check("notices", "attention", "nobody is told", f"{error}.")
    if not ways:
        return Check("notices", "ok", f"nobody is told: neither {URL} nor {COMMAND} is set")
    to = (f"{way.name} at {way.host}" if isinstance(way, Webhook) else way.name for way in ways)
    return Check("notices", "ok", f"to a {' and a '.join(to)}; none was sent by this look")


def _home(home: Home) -> Check:
    free_gb = shutil.disk_usage(home.path).free / 1e9
    detail = f"{home.path}, {free_gb:,.0f} GB free"
    if not os.access(home.path, os.W_OK):
        return Check("home", "attention", detail, "It cannot be written: set STILLHOUSE_HOME.")
    if free_gb < 5:
        return Check("home", "attention", detail, "Make room: students are kept there.")
    return Check("home", "ok", detail)


def _mlflow(home: Home) -> Check:
    from tracking.mlflow_store import reach

    return Check("MLflow", "ok", reach(home))
