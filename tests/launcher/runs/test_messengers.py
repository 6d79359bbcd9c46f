"""Notices on their way: what arrives, and that what does not arrive holds nothing up."""

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from launcher.doctor import examine
from launcher.outside import Outside
from launcher.runs.messengers import Command, UndeliveredError, Webhook, messengers, ways_of
from launcher.runs.notices import Notice
from recipes.errors import InvalidInputError
from tracking.home import home

SECRET = "T000/B000/canary"
SLACK = f"https://hooks.slack.com/services/{SECRET}"

DONE = Notice(
    run_id="tiny-1",
    kind="done",
    text="tiny-1 is <done>",
    spent_usd=Decimal("1.25"),
    budget_usd=Decimal("2"),
    time=1_800_000_000.0,
)


class Endpoint:
    """A web server that answers without a network, and keeps what it was sent."""

    def __init__(self, status: int = 200, **answer: Any) -> None:
        self.status = status
        self.answer = answer
        self.bodies: list[Any] = []

    def transport(self) -> httpx.MockTransport:
        def handle(request: httpx.Request) -> httpx.Response:
            self.bodies.append(json.loads(request.content))
            return httpx.Response(self.status, **self.answer)

        return httpx.MockTransport(handle)


def send_to(url: str, endpoint: Endpoint) -> None:
    Webhook(url, endpoint.transport()).send(DONE, 1.0)


def test_slack_is_sent_its_text_in_which_nobody_can_call_a_channel() -> None:
    endpoint = Endpoint()

    send_to(SLACK, endpoint)

    assert endpoint.bodies == [{"text": "tiny-1 is &lt;done&gt;"}]


def test_any_other_webhook_is_sent_the_facts_with_dollars_as_strings() -> None:
    endpoint = Endpoint(status=204)

    send_to("https://example.org/hook", endpoint)
    send_to("https://hooks.slack.com.example.org/services/x", endpoint)

    facts = {
        "run_id": "tiny-1",
        "kind": "done",
        "text": "tiny-1 is <done>",
        "spent_usd": "1.25",
        "budget_usd": "2",
        "time": 1_800_000_000.0,
    }
    assert endpoint.bodies == [facts, facts]


def test_a_webhook_cannot_send_us_elsewhere() -> None:
    endpoint = Endpoint(status=307, headers={"location": "http://169.254.169.254/"})

    with pytest.raises(UndeliveredError, match="it answered 307"):
        send_to(SLACK, endpoint)
    assert len(endpoint.bodies) == 1


def test_the_url_is_in_no_log_no_error_and_no_repr(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError(f"no route to {request.url}")

    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="httpx")
    ways = (Webhook(SLACK, Endpoint(500).transport()), Webhook(SLACK, httpx.MockTransport(breaks)))
    with messengers(ways, tmp_path / "notices.log") as notify:
        assert notify is not None
        notify(DONE)

    noted = (tmp_path / "notices.log").read_text()
    assert "webhook: done did not arrive: it answered 500" in noted
    assert "ConnectError" in noted
    assert "canary" not in noted + caplog.text + repr(ways)


def test_a_command_reads_json_and_its_words_go_through_no_shell(tmp_path: Path) -> None:
    out = tmp_path / "out"
    program = "import sys; open(sys.argv[1], 'w').write(sys.argv[2] + sys.stdin.read())"
    command = Command((sys.executable, "-c", program, str(out), "$(touch canary); "), {})

    command.send(DONE, 20.0)

    literal, _, body = out.read_text().partition("; ")
    assert literal == "$(touch canary)"
    assert json.loads(body)["spent_usd"] == "1.25"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("/nowhere/such-program",), "cannot be started: No such file"),
        ((sys.executable, "-c", "raise SystemExit(3)"), "ended with 3"),
    ],
)
def test_a_command_that_fails_says_how(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UndeliveredError, match=said):
        Command(words, {}).send(DONE, 20.0)


def test_a_command_that_hangs_is_ended_with_all_it_has_started(tmp_path: Path) -> None:
    # The child has the pipe open: its end is seen when both are gone.
    reader = tmp_path / "pipe"
    script = f"exec 3> {reader}; sleep 60 & wait"
    os.mkfifo(reader)
    gone = threading.Event()

    def read_to_the_end() -> None:
        reader.read_bytes()
        gone.set()

    threading.Thread(target=read_to_the_end, daemon=True).start()

    with pytest.raises(UndeliveredError, match="longer than"):
        Command(("/bin/sh", "-c", script), {"PATH": "/usr/bin:/bin"}).send(DONE, 0.3)

    assert gone.wait(10.0)


@pytest.fixture
def drip() -> Iterator[str]:
    """A server that answers a byte now and then, and never ends: no socket's timeout finds it."""
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not over.wait(0.02):
                connection.sendall(b"x")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/{SECRET}"
    over.set()
    thread.join(5.0)
    listener.close()


def test_a_hostile_webhook_holds_up_neither_the_run_nor_the_command(
    drip: str, tmp_path: Path
) -> None:
    arrived = tmp_path / "arrived"
    ways = (Webhook(drip), Command(("tee", "-a", str(arrived)), os.environ))
    began = time.monotonic()

    with messengers(ways, tmp_path / "notices.log", arrives_s=10.0, last_wait_s=2.0) as notify:
        assert notify is not None
        for _ in range(3):
            notify(DONE)
        assert time.monotonic() - began < 0.5

    assert time.monotonic() - began < 9.0
    assert len(arrived.read_text().splitlines()) == 3
    assert "may not have arrived" in (tmp_path / "notices.log").read_text()


def test_a_notice_that_takes_too_long_makes_way_for_the_next(tmp_path: Path) -> None:
    class Hangs:
        name = "webhook"
        sent = 0
        never = threading.Event()

        def send(self, notice: Notice, limit_s: float) -> None:
            self.sent += 1
            self.never.wait(30.0)

    hangs = Hangs()
    with messengers((hangs,), tmp_path / "notices.log", arrives_s=0.01) as notify:
        assert notify is not None
        notify(DONE)
        notify(DONE)
    hangs.never.set()

    assert hangs.sent == 2
    assert (tmp_path / "notices.log").read_text().count("longer than 0.01 s") == 2


def test_a_fault_of_ours_is_noted_and_nothing_more(tmp_path: Path) -> None:
    class Broken:
        name = "command"

        def send(self, notice: Notice, limit_s: float) -> None:
            raise ZeroDivisionError("canary")

    with messengers((Broken(),), tmp_path / "notices.log") as notify:
        assert notify is not None
        notify(DONE)

    assert "ZeroDivisionError" in (tmp_path / "notices.log").read_text()
    assert (tmp_path / "notices.log").stat().st_mode & 0o777 == 0o600


def test_without_a_folder_to_note_in_nothing_happens(tmp_path: Path) -> None:
    ways = (Webhook(SLACK, Endpoint(500).transport()),)

    with messengers(ways, tmp_path / "gone" / "notices.log") as notify:
        assert notify is not None
        notify(DONE)

    assert not (tmp_path / "gone").exists()


def test_nobody_is_told_where_the_environment_names_nobody(tmp_path: Path) -> None:
    with messengers(ways_of({}), tmp_path / "notices.log") as notify:
        assert notify is None


def test_the_environment_names_a_webhook_and_a_command() -> None:
    environ = {
        "STILLHOUSE_NOTIFY_URL": SLACK,
        "STILLHOUSE_NOTIFY_COMMAND": "notify-send 'still house' -",
    }

    webhook, command = ways_of(environ)

    assert webhook == Webhook(SLACK)
    assert command == Command(("notify-send", "still house", "-"), environ)


@pytest.mark.parametrize(
    "environ",
    [
        {"STILLHOUSE_NOTIFY_URL": f"ftp://example.org/{SECRET}"},
        {"STILLHOUSE_NOTIFY_URL": f"http:///{SECRET}"},
        {"STILLHOUSE_NOTIFY_COMMAND": "say 'canary"},
    ],
)
def test_what_cannot_be_read_is_refused_without_showing_it(environ: dict[str, str]) -> None:
    with pytest.raises(InvalidInputError) as refused:
        ways_of(environ)

    assert next(iter(environ)) in str(refused.value)
    assert "canary" not in str(refused.value)


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(
        """\
name: tiny
teacher: {kind: none}
student:
  {kind: new, characters: "0123456789", layers: 1, hidden_size: 8, heads: 1, intermediate_size: 8}
data: {kind: generated, rows: 10, prompt: "{question}", completion: "{answer}"}
training: {steps: 100, batch_size: 2, learning_rate: 0.001}
hardware: {local: true, usd_per_hour: 3.60}
budget: {usd: 1.00}
"""
    )
    return path


def test_a_launch_tells_a_command_from_its_start_to_its_end(
    still: Any, outside: Outside, recipe_file: Path, tmp_path: Path
) -> None:
    arrived = tmp_path / "arrived"
    program = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read())"
    words = f'{sys.executable} -c "{program}" {arrived}'
    outside.environ = {**outside.environ, "STILLHOUSE_NOTIFY_COMMAND": words}

    result = still("launch", recipe_file, "--yes")

    assert result.exit_code == 0, result.stderr
    said = [json.loads(line)["kind"] for line in arrived.read_text().splitlines()]
    assert said == ["started", "done"]


def test_a_launch_with_a_dead_webhook_ends_as_without_one(
    still: Any, outside: Outside, recipe_file: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = f"http://127.0.0.1:{port}/{SECRET}"
    outside.environ = {**outside.environ, "STILLHOUSE_NOTIFY_URL": url}

    result = still("launch", recipe_file, "--yes")

    assert result.exit_code == 0, result.stderr
    folder = outside.home.run(outside.ledger.resolve("latest")).path
    assert "started did not arrive: ConnectError" in (folder / "notices.log").read_text()
    everything = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"canary" not in everything + result.output.encode() + result.stderr.encode()


def test_a_launch_that_could_tell_nobody_is_refused_before_anything_is_paid(
    still: Any, outside: Outside, recipe_file: Path
) -> None:
    outside.environ = {**outside.environ, "STILLHOUSE_NOTIFY_URL": "slack"}

    result = still("launch", recipe_file, "--yes")

    assert result.exit_code == 2
    assert "STILLHOUSE_NOTIFY_URL" in result.stderr
    assert outside.ledger.run_ids() == []


def test_a_run_is_resumed_and_ended_although_nobody_can_be_told(
    still: Any, outside: Outside, recipe_file: Path
) -> None:
    still("launch", recipe_file, "--yes")
    outside.environ = {**outside.environ, "STILLHOUSE_NOTIFY_URL": "slack"}

    result = still("resume", "latest")

    assert result.exit_code == 0, result.stderr
    assert "warning: nobody is told" in result.stderr


def test_the_doctor_names_the_host_and_not_the_url(own_home: Path, tmp_path: Path) -> None:
    def no_aws(service: str, region: str) -> Any:
        raise LookupError("no AWS here")

    def line(url: str) -> str:
        environ = {"HOME": str(tmp_path), "STILLHOUSE_NOTIFY_URL": url}
        for check in examine(home({"STILLHOUSE_HOME": str(own_home)}), environ, no_aws):
            if check.name == "notices":
                return f"{check.state} {check.detail} {check.remedy}"
        raise AssertionError("the doctor did not look")

    assert line(SLACK).startswith("ok to a webhook at hooks.slack.com")
    assert "canary" not in line(SLACK)
    assert line("slack").startswith("attention nobody is told")
    assert line("").startswith("ok nobody is told")
