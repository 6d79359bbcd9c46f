"""Stands before moto: faults, the list of calls, and the levers of the lab.

A WSGI application around moto's. Levers lie below `/-/`, a path no bucket can have:

    GET    /-/ready                 true once hosts can be had
    GET    /-/calls                 every request that would change something
    GET    /-/hosts                 hosts that run: instance, address, pid
    POST   /-/faults                let a fault stand; answers its number
    DELETE /-/faults, /-/faults/N   take all away, or one
    POST   /-/policies/KEY          from now on an access key may do what this policy allows
    DELETE /-/policies              everybody may do everything again
    GET    /-/refused               what policies did not allow, since they were made
    POST   /-/hosts/ID/cut, mend, crash            network cable out, in; power gone, EC2 not told
    POST   /-/hosts/ID/notice?seconds=120          spot notice; nothing else happens
    POST   /-/hosts/ID/reclaim                     spot instance taken away, now
"""

import io
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any
from urllib.parse import parse_qs

from emulated.faults import Call, Fault, FaultBook, with_disks_that_go
from emulated.permits import Policies

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]
Lever = Callable[[str, str, dict[str, str]], object]
"""Pulls a lever of a host: instance, what, parameters. KeyError: no such host or lever."""

LEVERS = "/-/"


class Gateway:
    """Every request goes through here."""

    def __init__(
        self,
        cloud: Application,
        book: FaultBook,
        policies: Policies,
        changed: Callable[[Call], None],
        hosts: Callable[[], list[dict[str, object]]],
        pull: Lever,
    ) -> None:
        self._cloud = cloud
        self._book = book
        self._policies = policies
        self._changed = changed
        self._hosts = hosts
        self._pull = pull
        self.ready = False

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(_length(environ))
        if environ["PATH_INFO"].startswith(LEVERS):
            return self._lever(environ, body, start_response)
        headers = {
            name.removeprefix("HTTP_").replace("_", "-").lower(): str(value)
            for name, value in environ.items()
            if name.startswith("HTTP_") or name == "CONTENT_TYPE"
        }
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        query = environ["QUERY_STRING"]
        call = Call.read(method, path, headers, body, time.time(), query)
        fault = self._policies.meet(call) or self._book.meet(call)
        return self._serve(call, fault, environ, body, start_response)

    def _serve(
        self,
        call: Call,
        fault: Fault | None,
        environ: Environ,
        body: bytes,
        start_response: StartResponse,
    ) -> Iterable[bytes]:
        effect = fault.effect if fault else None
        if fault and effect == "refuse":
            return _refuse(fault, call, start_response)
        if fault and effect == "delay":
            time.sleep(fault.delay_s)
        if call.action == "RunInstances" and effect != "leave_volumes":
            body = with_disks_that_go(body)
        environ["wsgi.input"] = io.BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        try:
            if fault and effect == "lose_answer":
                _exhaust(self._cloud(environ, _say_nothing))
                return _refuse(fault, call, start_response)
            return self._cloud(environ, start_response)
        finally:
            if call.service == "ec2" and call.changes_something:
                self._changed(call)

    def _lever(
        self, environ: Environ, body: bytes, start_response: StartResponse
    ) -> Iterable[bytes]:
        path = environ["PATH_INFO"].removeprefix(LEVERS)
        query = {name: values[-1] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
        try:
            answer = self._pulled(environ["REQUEST_METHOD"], path.split("/"), query, body)
        except (KeyError, ValueError, TypeError) as error:
            start_response("400 Bad Request", [("Content-Type", "text/plain")])
            return [f"{type(error).__name__}: {error}".encode()]
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(answer).encode()]

    def _pulled(self, method: str, path: list[str], query: dict[str, str], body: bytes) -> object:
        match method, path:
            case "GET", ["ready"]:
                return self.ready
            case "GET", ["calls"]:
                return [asdict(call) for call in self._book.calls()]
            case "GET", ["hosts"]:
                return self._hosts()
            case "POST", ["faults"]:
                return self._book.add(Fault.from_json(body), time.time())
            case "DELETE", ["faults", *number]:
                self._book.take_away(int(number[0]) if number else None)
                return None
            case "POST", ["policies", key]:
                return self._policies.set(key, json.loads(body))
            case "DELETE", ["policies"]:
                return self._policies.clear()
            case "GET", ["refused"]:
                return self._policies.refused()
            case "POST", ["hosts", instance, what]:
                return self._pull(instance, what, query)
        raise KeyError("/".join(path))


def _length(environ: Environ) -> int:
    """Bytes to read. Chunked requests end by themselves: werkzeug takes the chunks apart."""
    return int(environ.get("CONTENT_LENGTH") or (-1 if environ.get("wsgi.input_terminated") else 0))


def _refuse(fault: Fault, call: Call, start_response: StartResponse) -> Iterable[bytes]:
    body = fault.body(call.service)
    kind = "text/xml" if body.startswith(b"<") else "application/x-amz-json-1.1"
    headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
    start_response(f"{fault.status} {fault.code}", headers)
    return [] if call.action.startswith("HEAD ") else [body]


def _say_nothing(_status: str, _headers: list[tuple[str, str]], _error: Any = None) -> Any:
    return lambda _data: None


def _exhaust(parts: Iterable[bytes]) -> None:
    for _ in parts:
        pass
    close = getattr(parts, "close", None)
    if close:
        close()
