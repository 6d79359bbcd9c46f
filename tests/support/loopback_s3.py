"""S3 on loopback: moto's, over real http, with a network between that can be made to fail.

Also fixtures; the root conftest names this module as a plugin.
"""

import os
import socket
import struct
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import pytest

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}

CODES = {"403": "AccessDenied", "501": "NotImplemented", "503": "SlowDown"}

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]


@dataclass
class Fault:
    """What happens to requests whose method, path and query contain all of `words`."""

    words: tuple[str, ...]
    kind: str
    """`403`, `501`, `503` answer that; `reset` breaks the connection; `lost` breaks it when the
    work is done; `hang` waits until the fault is taken away."""
    times: int = 10**9
    over: threading.Event = field(default_factory=threading.Event)
    met: threading.Event = field(default_factory=threading.Event)
    """Set when a request has met it."""

    def meets(self, request: str) -> bool:
        if self.times <= 0 or not all(word in request for word in self.words):
            return False
        self.times -= 1
        self.met.set()
        return True


class LoopbackS3:
    """A server until `close`. Buckets are made by `bucket`."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Silent(WSGIRequestHandler):
            def log(self, type: str, message: str, *args: Any) -> None:
                pass

        self._moto: Wsgi = DomainDispatcherApplication(create_backend_app)
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        """Method, path and query of each so far."""
        self.checksums: dict[str, str | None] = {}
        """Of a request's body, as it was named with it."""
        self._server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=Silent)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self._clients: dict[str, Any] = {}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def environ(self) -> dict[str, str]:
        """Of a process that uses this S3."""
        return {
            **CREDENTIALS,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self, url: str | None = None) -> Any:
        """A boto3 client that asks once: all patience is ours. Of another endpoint, if named."""
        import boto3
        from botocore.config import Config

        url = url or self.url
        if url not in self._clients:
            session = boto3.session.Session(
                aws_access_key_id="nobody", aws_secret_access_key="nothing", region_name="us-east-1"
            )
            config = Config(retries={"mode": "standard", "total_max_attempts": 1})
            self._clients[url] = session.client("s3", endpoint_url=url, config=config)
        return self._clients[url]

    def bucket(self) -> str:
        """A new one."""
        name = f"lab-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name

    def fill(self, bucket: str, keys: Iterable[str]) -> None:
        """Empty objects, without a request for each."""
        from moto.core import DEFAULT_ACCOUNT_ID
        from moto.s3.models import s3_backends

        for key in keys:
            s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(bucket, key, b"")

    def add(self, *words: str, kind: str, times: int = 10**9) -> Fault:
        fault = Fault(words, kind, times)
        self.faults.append(fault)
        return fault

    def take_away(self, fault: Fault) -> None:
        self.faults.remove(fault)
        fault.over.set()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        query = environ["QUERY_STRING"]
        path = unquote(environ["PATH_INFO"])
        request = f"{environ['REQUEST_METHOD']} {path}" + (f"?{query}" if query else "")
        self.requests.append(request)
        self.checksums[request] = environ.get("HTTP_X_AMZ_CHECKSUM_CRC32")
        fault = next((fault for fault in list(self.faults) if fault.meets(request)), None)
        match fault.kind if fault else None:
            case "403" | "501" | "503" as status:
                _read(environ, 1.0)
                code = CODES[status]
                start_response(f"{status} {code}", [("Content-Type", "application/xml")])
                return [f"<Error><Code>{code}</Code><Message>lab</Message></Error>".encode()]
            case "reset":
                _read(environ, 0.5)
                _reset(environ["werkzeug.socket"])
            case "lost":
                for _ in self._moto(environ, lambda *_: None):
                    pass
                _reset(environ["werkzeug.socket"])
            case "hang":
                assert fault is not None
                fault.over.wait(60)
        return self._moto(environ, start_response)


def _read(environ: dict[str, Any], share: float) -> None:
    """Take in a share of what is sent."""
    environ["wsgi.input"].read(int(share * int(environ.get("CONTENT_LENGTH") or 0)))


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.shutdown(socket.SHUT_RDWR)
    raise ConnectionResetError("the lab broke this connection")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[LoopbackS3]:
    server = LoopbackS3()
    yield server
    server.close()


@pytest.fixture
def s3(s3_server: LoopbackS3) -> Iterator[LoopbackS3]:
    """S3 without faults, and without any when the test is over."""
    s3_server.requests.clear()
    yield s3_server
    for fault in list(s3_server.faults):
        s3_server.take_away(fault)
