"""What SkyPilot is told besides the task, and what of its words is kept."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.errors import ProvisionError
from launcher.machines.skypilot import SkyPilot, redacted_into

ROOT = Path(__file__).parents[3]

# As in SkyPilot: settings are sent with a request by the client, and put over the server's there.
PROGRAM = """
import json, sys
from launcher.errors import ProvisionError
from launcher.machines.skypilot import credentials_kept_here
from sky import skypilot_config
from sky.server.requests import payloads
from sky.utils import annotations

annotations.is_on_api_server = False
with credentials_kept_here([sys.argv[1]]):
    sent = payloads.RequestBody()
after = payloads.RequestBody()
annotations.is_on_api_server = True
with skypilot_config.override_skypilot_config(sent.override_skypilot_config):
    settings = skypilot_config.to_dict()
print(json.dumps([settings, after.override_skypilot_config]))
"""


def settings_of_a_launch(home: Path, cloud: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What SkyPilot's server goes by in a launch, and what is sent with the next request."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, cloud],
        env={**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    during, after = json.loads(done.stdout.splitlines()[-1])
    return during, after


@pytest.mark.slow
def test_no_key_of_a_cloud_is_copied_to_a_machine_where_skypilot_has_a_setting_for_it(
    tmp_path: Path,
) -> None:
    during, after = settings_of_a_launch(tmp_path, "aws")

    assert {"aws", "gcp", "azure", "kubernetes", "oci", "nebius"} <= set(during)
    assert {cloud["remote_identity"] for cloud in during.values()} == {"NO_UPLOAD"}
    assert after == {}


@pytest.mark.slow
def test_a_role_that_a_persons_settings_name_stays_where_machines_are_rented_with_it(
    tmp_path: Path,
) -> None:
    (tmp_path / ".sky").mkdir()
    (tmp_path / ".sky/config.yaml").write_text(
        "aws: {remote_identity: my-role, vpc_names: mine}\ngcp: {remote_identity: SERVICE_ACCOUNT}"
    )

    during, after = settings_of_a_launch(tmp_path, "aws")

    assert during["aws"]["remote_identity"] == "my-role"
    assert during["gcp"]["remote_identity"] == "NO_UPLOAD"
    assert after["gcp"]["remote_identity"] == "SERVICE_ACCOUNT"


@pytest.mark.slow
def test_a_machine_that_can_have_no_role_keeps_the_key_of_its_own_cloud_to_end_itself(
    tmp_path: Path,
) -> None:
    during, _ = settings_of_a_launch(tmp_path, "nebius")

    assert "nebius" not in during
    assert during["aws"]["remote_identity"] == "NO_UPLOAD"


def test_what_skypilot_says_is_kept_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mark3d/aws+secret4711")
    log = tmp_path / "provision.log"
    log.write_text("before\n")

    with redacted_into(log) as stream:
        print("⚙︎ Launching on AWS with mark3d/aws+secret4711", "ok", file=stream, flush=True)
        seen_at_once = log.read_text()

    assert seen_at_once == "before\n⚙︎ Launching on AWS with [AWS_SECRET_ACCESS_KEY] ok\n"


class Server:
    """SkyPilot's server, as much of it as ending a cluster asks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import sky

        self.records: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str]] = []
        self.cancelled: list[str] = []
        self.downed: list[str] = []
        for name in ("get", "status", "api_status", "api_cancel", "down", "stream_and_get"):
            monkeypatch.setattr(sky, name, getattr(self, name))

    def get(self, request: Any) -> Any:
        return request

    def status(self, **_: Any) -> Any:
        return self.records

    def api_status(self, cluster_name: str) -> Any:
        return [SimpleNamespace(request_id=each, name=name) for each, name in self.requests]

    def api_cancel(self, requests: list[str], silent: bool) -> Any:
        self.cancelled += requests

    def down(self, cluster: str) -> Any:
        import sky

        self.downed.append(cluster)
        if not self.records:
            raise sky.exceptions.ClusterDoesNotExist(cluster)

    def stream_and_get(self, request: Any, output_stream: Any) -> Any:
        return request


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(monkeypatch)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what SkyPilot imports
@pytest.mark.parametrize("status", ["INIT", "UP", "STOPPED"])
def test_a_cluster_that_skypilot_knows_is_there_whatever_its_state(
    server: Server, status: str
) -> None:
    assert SkyPilot().is_up("tiny-1-1") is False

    server.records = [{"status": status}]

    assert SkyPilot().is_up("tiny-1-1") is True


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what SkyPilot imports
def test_a_launch_that_is_under_way_ends_with_a_cluster_that_is_not_written_down_yet(
    server: Server, tmp_path: Path
) -> None:
    server.requests = [("r1", "sky.launch"), ("r2", "sky.logs")]

    SkyPilot().down("tiny-1-1", tmp_path / "log")

    assert server.cancelled == ["r1"]
    assert server.downed == ["tiny-1-1"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what SkyPilot imports
def test_a_server_that_hangs_holds_nobody_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    monkeypatch.setattr("sky.api_status", lambda **_: answered.wait(30))
    monkeypatch.setattr("sky.status", lambda **_: answered.wait(30))
    monkeypatch.setattr("launcher.machines.skypilot.ANSWER_S", 0.01)
    monkeypatch.setattr("launcher.machines.skypilot.DOWN_S", 0.01)

    with pytest.raises(ProvisionError, match="has not torn tiny-1-1 down"):
        SkyPilot().down("tiny-1-1", tmp_path / "log")
    assert SkyPilot().is_up("tiny-1-1") is None
    answered.set()
