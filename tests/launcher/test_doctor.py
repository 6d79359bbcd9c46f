"""Whether everything is in place before money is at stake."""

import json
import sqlite3
from pathlib import Path
from time import time
from typing import Any

import pytest
from loopback_s3 import LoopbackS3

from launcher.doctor import Check, examine
from tracking.home import Home, home


class Fake:
    """AWS, with credentials and quotas as a test wants them."""

    def __init__(self, vcpus: float = 384.0, account: str | None = "123456789012") -> None:
        self.vcpus = vcpus
        self.account = account

    def get_caller_identity(self) -> dict[str, str]:
        if self.account is None:
            from botocore.exceptions import NoCredentialsError

            raise NoCredentialsError
        return {"Account": self.account}

    def get_service_quota(self, **_: Any) -> dict[str, Any]:
        return {"Quota": {"Value": self.vcpus}}


@pytest.fixture
def place(own_home: Path) -> Home:
    return home({"STILLHOUSE_HOME": str(own_home)})


def checks(place: Home, environ: dict[str, str], aws: Fake) -> dict[str, Check]:
    found = examine(place, environ, lambda service, region: aws)
    return {check.name: check for check in found}


def enable(folder: Path, *clouds: str) -> None:
    """As `sky check` leaves it."""
    (folder / ".sky").mkdir(parents=True)
    with sqlite3.connect(folder / ".sky" / "state.db") as database:
        database.execute("CREATE TABLE config (key TEXT, value TEXT)")
        database.execute(
            "INSERT INTO config VALUES ('enabled_clouds_default_compute', ?)",
            (json.dumps(list(clouds)),),
        )
    database.close()


@pytest.mark.slow
def test_a_machine_in_order_is_ok_line_by_line(place: Home, tmp_path: Path) -> None:
    enable(tmp_path, "AWS", "Yotta")
    environ = {"HOME": str(tmp_path), "STILLHOUSE_STORE": str(tmp_path / "store")}

    found = checks(place, environ, Fake())

    fine = {name for name, check in found.items() if check.state == "ok"}
    assert {"SkyPilot", "clouds", "AWS credentials", "run store", "home", "MLflow"} <= fine
    assert "yotta" in found["autodown"].detail
    assert not (tmp_path / "store").exists()  # nothing of the try stays


def test_a_clock_that_is_wrong_is_seen_beside_the_run_stores(
    place: Home, tmp_path: Path, s3: LoopbackS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environ().items():
        monkeypatch.setenv(name, value)
    store = f"s3://{s3.bucket()}/runs"
    environ = {"HOME": str(tmp_path), "STILLHOUSE_STORE": store, **s3.environ()}

    right = checks(place, environ, Fake())["clock"]
    wrong = examine(place, environ, lambda service, region: Fake(), clock=lambda: time() - 300)

    assert right.state == "ok"
    (seen,) = (check for check in wrong if check.name == "clock")
    assert seen.state == "attention"
    assert seen.detail.endswith("s behind the run store's")
    assert seen.remedy


def test_what_is_missing_comes_with_what_to_do(place: Home, tmp_path: Path) -> None:
    found = checks(place, {"HOME": str(tmp_path)}, Fake(vcpus=0.0, account=None))

    for name in ("clouds", "AWS credentials", "AWS quota spot", "run store"):
        assert found[name].state == "attention", name
        assert found[name].remedy, name


def test_a_check_that_could_not_look_is_not_ok_and_stops_no_other(
    place: Home, tmp_path: Path
) -> None:
    environ = {"HOME": str(tmp_path), "STILLHOUSE_STORE": "ftp://nowhere"}

    found = checks(place, environ, Fake())

    assert found["run store"].state == "unknown"
    assert "home" in found


def test_no_line_shows_a_secret(
    place: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-canary")
    monkeypatch.setenv("OPENAI_API_KEY", "key-canary")
    environ = {"HOME": str(tmp_path), "STILLHOUSE_STORE": "s3://user:canary@bucket/prefix"}

    found = checks(place, environ, Fake())

    assert "canary" not in " ".join(str(check.as_json()) for check in found.values())
