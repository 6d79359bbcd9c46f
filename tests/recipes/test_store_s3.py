"""A bucket on bad days: what passes is waited for, and what does not is explained."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import CredentialRetrievalError
from loopback_s3 import LoopbackS3

from recipes.store import NotStoredError, StoreError, StoreUnreachableError
from recipes.store_checkpoints import newest_checkpoint, pull_checkpoint, push_checkpoint
from recipes.store_s3 import PART_BYTES, Patience, S3Store, connect


class Clock:
    """Time passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self.on_sleep: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)
        self.on_sleep()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def patience(clock: Clock) -> Patience:
    return Patience(limit_s=90, clock=clock, sleep=clock.sleep)


@pytest.fixture
def store(s3: LoopbackS3, patience: Patience) -> S3Store:
    return S3Store(s3.bucket(), "runs/one", s3.client(), patience)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file of three parts."""
    path = tmp_path / "state.pt"
    path.write_bytes(b"stillhouse" * (2 * PART_BYTES // 10 + 1000))
    return path


# ---- patience --------------------------------------------------------------------------------


def test_pauses_double_up_to_the_longest(clock: Clock, patience: Patience) -> None:
    answers: list[Any] = [None] * 7

    def ask() -> str:
        if answers:
            answers.pop()
            raise StoreUnreachableError("busy", "Later.")
        return "done"

    assert patience.insist(ask) == "done"
    assert clock.pauses == [0.5, 1, 2, 4, 8, 10, 10]


def test_patience_is_counted_from_the_first_failure_and_not_from_the_start_of_a_long_transfer(
    clock: Clock, patience: Patience
) -> None:
    tried = []

    def transfer() -> str:
        clock.now += 3600
        tried.append(clock.now)
        if len(tried) == 1:
            raise StoreUnreachableError("busy", "Later.")
        return "done"

    assert patience.insist(transfer) == "done"


def test_what_does_not_pass_is_not_asked_again(clock: Clock, patience: Patience) -> None:
    def ask() -> None:
        raise StoreError("denied", "Allow it.")

    with pytest.raises(StoreError, match="denied"):
        patience.insist(ask)
    assert clock.pauses == []


# ---- faults ----------------------------------------------------------------------------------


def test_a_minute_of_503_is_waited_for(s3: LoopbackS3, store: S3Store, clock: Clock) -> None:
    fault = s3.add("PUT", "scores.json", kind="503")

    def mend() -> None:
        if clock.now >= 60 and fault in s3.faults:
            s3.take_away(fault)

    clock.on_sleep = mend
    store.put_bytes("scores.json", b"{}")

    assert clock.now >= 60
    assert store.get_bytes("scores.json") == b"{}"


def test_503_without_end_is_an_error_after_the_limit_that_says_so(
    s3: LoopbackS3, store: S3Store, clock: Clock
) -> None:
    s3.add("GET", kind="503")

    with pytest.raises(StoreUnreachableError, match=r"does not answer \(SlowDown\)"):
        store.get_bytes("scores.json")
    assert 80 <= clock.now <= 90


def test_access_denied_is_said_at_once_with_what_to_allow(
    s3: LoopbackS3, store: S3Store, clock: Clock
) -> None:
    s3.add("PUT", kind="403")

    with pytest.raises(StoreError) as denied:
        store.put_bytes("scores.json", b"{}")

    assert f"{store.url}/scores.json answered AccessDenied" in str(denied.value)
    assert "read, write and delete below the prefix" in str(denied.value)
    assert clock.pauses == []


def test_what_is_missing_is_told_from_what_is_denied_where_only_a_prefix_may_be_listed(
    s3: LoopbackS3, store: S3Store, tmp_path: Path
) -> None:
    store.put_bytes("there.json", b"{}")
    for name in ("missing.json", "there.json"):
        for method in ("GET", "HEAD"):
            s3.add(method, f"/runs/one/{name}", kind="403")

    for read in (store.get_bytes, lambda key: store.get_file(key, tmp_path / "file")):
        with pytest.raises(NotStoredError, match=r"missing\.json is not there"):
            read("missing.json")
        with pytest.raises(StoreError, match="answered") as denied:
            read("there.json")
        assert not isinstance(denied.value, NotStoredError)


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda store: store.put_bytes("a", b""), id="put"),
        pytest.param(lambda store: store.get_bytes("a"), id="get"),
        pytest.param(lambda store: store.entries(), id="list"),
        pytest.param(lambda store: store.exists("a"), id="exists"),
        pytest.param(lambda store: store.delete("a"), id="delete"),
        pytest.param(lambda store: store.unfinished(), id="unfinished"),
    ],
)
def test_a_missing_bucket_is_named_whatever_was_asked(
    s3: LoopbackS3, patience: Patience, use: Callable[[S3Store], object]
) -> None:
    store = S3Store("no-such-bucket", "runs/one", s3.client(), patience)

    with pytest.raises(StoreError, match=r"there is no bucket no-such-bucket .*aws s3 mb") as gone:
        use(store)
    assert not isinstance(gone.value, NotStoredError)


def test_an_endpoint_at_which_nothing_listens_is_an_error_after_the_limit(
    s3: LoopbackS3, patience: Patience, clock: Clock
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # and does not listen
        client = s3.client(f"http://127.0.0.1:{silent.getsockname()[1]}")
        store = S3Store("bucket", "", client, patience)

        with pytest.raises(StoreUnreachableError, match="look at the network and at AWS_ENDPOINT"):
            store.exists("done.json")
    assert 80 <= clock.now <= 90


def test_without_credentials_nothing_is_sent_and_it_is_said(
    s3: LoopbackS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = connect("bucket", "", {"AWS_ENDPOINT_URL": s3.url})

    with pytest.raises(StoreError, match=r"Unable to locate credentials.*get-caller-identity"):
        store.exists("done.json")
    assert s3.requests == []


class Role(ThreadingHTTPServer):
    """A machine's metadata service, which does not answer every time."""

    def __init__(self) -> None:
        service = self
        self.fails = 0
        """So many requests yet."""

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                self._answer("token")

            def do_GET(self) -> None:
                until = datetime.now(UTC) + timedelta(hours=6)
                keys = {"AccessKeyId": "id", "SecretAccessKey": "secret", "Token": "token"}
                keys |= {"Code": "Success", "Expiration": until.strftime("%Y-%m-%dT%H:%M:%SZ")}
                of_role = self.path.endswith("/node")
                self._answer(json.dumps(keys) if of_role else "node")

            def _answer(self, text: str) -> None:
                service.fails -= 1
                self.send_response(200 if service.fails < 0 else 503)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_args: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def role(s3: LoopbackS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Role]:
    """This machine has keys by its role alone."""
    for name, value in s3.environ().items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    with Role() as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{service.server_port}"
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", address)
        yield service
        service.shutdown()


def test_on_a_rented_machine_the_keys_of_its_role_are_waited_for(
    s3: LoopbackS3, role: Role, clock: Clock, patience: Patience
) -> None:
    role.fails = 5
    environ = {"AWS_ENDPOINT_URL": s3.url, "STILLHOUSE_CLOUD": "aws"}

    store = connect(s3.bucket(), "", environ, patience)

    assert not store.exists("done.json")
    assert len(clock.pauses) >= 2


def test_a_rented_machine_without_a_role_is_told_in_the_end(
    s3: LoopbackS3, role: Role, clock: Clock, patience: Patience
) -> None:
    role.fails = 10_000

    with pytest.raises(StoreUnreachableError, match="this machine's role gives no keys"):
        connect("bucket", "", {"AWS_ENDPOINT_URL": s3.url, "STILLHOUSE_CLOUD": "aws"}, patience)
    assert 80 <= clock.now <= 90


@pytest.mark.parametrize(("provider", "passes"), [("iam-role", True), ("custom-process", False)])
def test_keys_that_are_not_renewed_are_waited_for_where_they_are_of_a_role(
    s3: LoopbackS3,
    clock: Clock,
    patience: Patience,
    request: pytest.FixtureRequest,
    provider: str,
    passes: bool,
) -> None:
    store = S3Store(s3.bucket(), "", s3.client(), patience)
    errors = [CredentialRetrievalError(provider=provider, error_msg="later")] * 3

    def fail_at_first(**_request: object) -> None:
        if errors:
            raise errors.pop()

    events = s3.client().meta.events
    events.register("before-sign.s3", fail_at_first)
    request.addfinalizer(lambda: events.unregister("before-sign.s3", fail_at_first))

    if passes:
        assert not store.exists("done.json")
        assert clock.pauses == [0.5, 1, 2]
    else:
        with pytest.raises(StoreError, match="get-caller-identity"):
            store.exists("done.json")


# ---- files of several parts ------------------------------------------------------------------


def test_a_large_file_goes_in_parts_with_checksums(
    s3: LoopbackS3, store: S3Store, large: Path
) -> None:
    store.put_file(large, "state.pt")

    parts = [request for request in s3.requests if "partNumber" in request]
    assert len(parts) == 3
    assert all(s3.checksums[part] for part in parts)
    assert store.unfinished() == []


@pytest.mark.parametrize("kind", ["503", "reset", "lost"])
def test_a_part_that_fails_once_does_not_spoil_the_file(
    s3: LoopbackS3, store: S3Store, large: Path, tmp_path: Path, kind: str
) -> None:
    s3.add("partNumber=2", kind=kind, times=1)

    store.put_file(large, "state.pt")
    store.get_file("state.pt", tmp_path / "back")

    assert (tmp_path / "back").read_bytes() == large.read_bytes()
    assert store.unfinished() == []


def test_a_large_file_that_cannot_be_sent_leaves_what_was_there(
    s3: LoopbackS3, store: S3Store, large: Path
) -> None:
    store.put_bytes("state.pt", b"before")
    s3.add("partNumber=3", kind="reset")

    with pytest.raises(StoreUnreachableError):
        store.put_file(large, "state.pt")

    assert store.get_bytes("state.pt") == b"before"
    assert store.unfinished() == []


def test_a_download_that_breaks_off_is_begun_anew(
    s3: LoopbackS3, store: S3Store, large: Path, tmp_path: Path
) -> None:
    store.put_file(large, "state.pt")
    s3.add("GET", "state.pt", kind="reset", times=2)

    store.get_file("state.pt", tmp_path / "back")

    assert (tmp_path / "back").read_bytes() == large.read_bytes()


def test_a_download_that_cannot_be_ended_leaves_no_half_file(
    s3: LoopbackS3, store: S3Store, large: Path, tmp_path: Path
) -> None:
    store.put_file(large, "state.pt")
    s3.add("GET", "state.pt", kind="503")
    (tmp_path / "new").mkdir()

    with pytest.raises(StoreUnreachableError):
        store.get_file("state.pt", tmp_path / "new" / "state.pt")

    assert list((tmp_path / "new").iterdir()) == []


def test_a_lost_answer_does_not_make_something_new_twice(s3: LoopbackS3, store: S3Store) -> None:
    s3.add("PUT", "attempts", kind="lost", times=1)

    assert not store.put_bytes("attempts/1", b"mine", only_if_new=True)
    assert store.get_bytes("attempts/1") == b"mine"


def test_an_endpoint_that_knows_no_conditions_is_asked_first(
    s3: LoopbackS3, store: S3Store
) -> None:
    s3.add("PUT", "attempts", kind="501", times=1)
    assert store.put_bytes("attempts/1", b"mine", only_if_new=True)

    s3.add("PUT", "attempts", kind="501", times=1)
    assert not store.put_bytes("attempts/1", b"other", only_if_new=True)

    assert store.get_bytes("attempts/1") == b"mine"


# ---- kill -9 ---------------------------------------------------------------------------------

UPLOAD = """
import sys
from pathlib import Path
from recipes.store import open_store
from recipes.store_checkpoints import push_checkpoint
push_checkpoint(open_store(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_kill_9_in_the_middle_of_a_checkpoint_loses_neither_the_one_before_nor_the_next(
    s3: LoopbackS3, store: S3Store, large: Path, tmp_path: Path
) -> None:
    for step in (100, 200):
        folder = tmp_path / f"step-{step:08d}"
        folder.mkdir()
        (folder / "state.pt").write_bytes(large.read_bytes() + b"%d" % step)
        (folder / "complete").write_bytes(b"%d" % step)
    push_checkpoint(store, tmp_path / "step-00000100")
    stuck = s3.add("PUT", "step-00000200", "partNumber=2", kind="hang", times=1)

    with subprocess.Popen(
        [sys.executable, "-c", UPLOAD, store.url, str(tmp_path / "step-00000200")],
        env=s3.environ(),
    ) as uploader:
        assert stuck.met.wait(60)
        uploader.kill()
    s3.take_away(stuck)

    newest = newest_checkpoint(store)
    assert newest is not None
    assert newest.step == 100
    (left,) = store.unfinished()
    store.abort(left)
    push_checkpoint(store, tmp_path / "step-00000200")
    home = pull_checkpoint(store, tmp_path / "home", pytest.fail)
    assert home is not None
    assert home.name == "step-00000200"
    assert (home / "state.pt").read_bytes() == (
        tmp_path / "step-00000200" / "state.pt"
    ).read_bytes()
    assert store.unfinished() == []
