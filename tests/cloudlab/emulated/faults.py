"""What can go wrong with the cloud's API on purpose: faults, and which request meets which.

Pure but for the lock: a request comes in as a `Call`, and the book says what to do about it.
"""

import html
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, Self
from urllib.parse import parse_qsl

Effect = Literal["refuse", "lose_answer", "delay", "leave_volumes"]
"""refuse: nothing happens but the error. lose_answer: it takes effect and the error comes all the
same. delay: it takes effect, later. leave_volumes: RunInstances as moto has it, disks outlive."""

_SCOPE = re.compile(r"Credential=([^/]*)/\d+/([^/]+)/([^/]+)/aws4_request")
_READING = ("Describe", "Get", "List", "Head", "GET ", "HEAD ")


@dataclass(frozen=True)
class Call:
    """One request to the API, as far as faults and tests want to know."""

    service: str
    """`ec2`, `s3`, `iam`, …; empty where the request is not signed."""
    region: str
    action: str
    """`RunInstances`; for S3 the method and path: `PUT /bucket/key`."""
    form: tuple[tuple[str, str], ...] = ()
    """Parameters by name, in order; of S3 the keys that a deletion names."""
    query: str = ""
    """What came after the path, of S3."""
    key: str = ""
    """Who asks: the id of the access key."""
    at: float = 0.0
    """When it came [unix s]."""

    @classmethod
    def read(
        cls,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        at: float,
        query: str = "",
    ) -> Self:
        """Read a request. `headers` by lower-case name."""
        scope = _SCOPE.search(headers.get("authorization", ""))
        key, region, service = scope.groups() if scope else ("", "", "")
        target = headers.get("x-amz-target", "")
        if target:
            return cls(service, region, target.rpartition(".")[2], key=key, at=at)
        if headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            form = parse_qsl(body.decode(errors="replace"), keep_blank_values=True)
            action = dict(form).get("Action", "")
            return cls(service, region, action, tuple(form), key=key, at=at)
        named = re.findall(rb"<Key>([^<]*)</Key>", body) if method == "POST" else []
        form = tuple(("Key", html.unescape(name.decode(errors="replace"))) for name in named)
        return cls(service, region, f"{method} {path}", form, query, key, at)

    @property
    def values(self) -> tuple[str, ...]:
        """Values of all parameters."""
        return tuple(value for _, value in self.form)

    @property
    def instances(self) -> tuple[str, ...]:
        """Instances it names, in order."""
        return tuple(value for name, value in self.form if name.startswith("InstanceId"))

    @property
    def changes_something(self) -> bool:
        return not self.action.startswith(_READING)


@dataclass(frozen=True)
class Fault:
    """Something to do to requests. A field that is empty matches every request."""

    effect: Effect
    service: str = ""
    action: str = "*"
    """Shell pattern over the action: `RunInstances`, `PUT /bucket/*`."""
    region: str = ""
    values: tuple[str, ...] = ()
    """One of the parameters has one of these values, for example a subnet."""
    status: int = 500
    code: str = "InternalError"
    message: str = "An internal error has occurred"
    delay_s: float = 0.0
    times: int | None = None
    """How many requests it meets; `None` is all."""
    for_s: float | None = None
    """How long it stands [s]; `None` is until it is taken away."""

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        given: dict[str, Any] = json.loads(text)
        return cls(**given | {"values": tuple(given.get("values", ()))})

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    def matches(self, call: Call) -> bool:
        """Whether it is meant for this request."""
        return (
            self.service in ("", call.service)
            and self.region in ("", call.region)
            and fnmatchcase(call.action, self.action)
            and (not self.values or not set(self.values).isdisjoint(call.values))
        )

    def body(self, service: str) -> bytes:
        """The error as the service's clients read it."""
        error = f"<Code>{self.code}</Code><Message>{self.message}</Message>"
        if service == "s3":
            return f"<Error>{error}<RequestId>lab</RequestId></Error>".encode()
        if service == "ec2":
            listed = f"<Errors><Error>{error}</Error></Errors><RequestID>lab</RequestID>"
            return f"<Response>{listed}</Response>".encode()
        if service in ("iam", "sts"):
            return f"<ErrorResponse><Error>{error}</Error></ErrorResponse>".encode()
        return json.dumps({"__type": self.code, "message": self.message}).encode()


@dataclass
class _Standing:
    fault: Fault
    since: float
    met: int = 0

    def holds(self, now: float) -> bool:
        fresh = self.fault.times is None or self.met < self.fault.times
        return fresh and (self.fault.for_s is None or now < self.since + self.fault.for_s)


@dataclass
class FaultBook:
    """The faults that stand, and the changing calls that came."""

    _standing: dict[int, _Standing] = field(default_factory=dict)
    _calls: list[Call] = field(default_factory=list)
    _next: int = 1
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, fault: Fault, now: float) -> int:
        """Let a fault stand from now on; returns its number."""
        with self._lock:
            number, self._next = self._next, self._next + 1
            self._standing[number] = _Standing(fault, now)
            return number

    def take_away(self, number: int | None = None) -> None:
        """Take one fault away, or all of them. One that is gone already is fine."""
        with self._lock:
            if number is None:
                self._standing.clear()
            else:
                self._standing.pop(number, None)

    def meet(self, call: Call) -> Fault | None:
        """Write a call down; the fault that it meets, the oldest first."""
        with self._lock:
            if call.changes_something:
                self._calls.append(call)
            for standing in self._standing.values():
                if standing.holds(call.at) and standing.fault.matches(call):
                    standing.met += 1
                    return standing.fault
        return None

    def calls(self) -> list[Call]:
        """Every call that would change something, in order."""
        with self._lock:
            return list(self._calls)


def with_disks_that_go(body: bytes) -> bytes:
    """A RunInstances request whose disks are deleted with the instance, where it does not say.

    EC2 takes the image's word for its root disk, which is to delete it; moto keeps every disk.

    >>> with_disks_that_go(b"Action=RunInstances&BlockDeviceMapping.1.Ebs.VolumeSize=8")
    b'Action=RunInstances&BlockDeviceMapping.1.Ebs.VolumeSize=8&BlockDeviceMapping.1.Ebs.DeleteOnTermination=true'
    """
    mappings = set(re.findall(rb"BlockDeviceMapping\.\d+\.Ebs", body))
    said = set(re.findall(rb"(BlockDeviceMapping\.\d+\.Ebs)\.DeleteOnTermination", body))
    added = (b"&" + mapping + b".DeleteOnTermination=true" for mapping in sorted(mappings - said))
    return body + b"".join(added)
