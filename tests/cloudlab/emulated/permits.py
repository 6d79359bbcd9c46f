"""IAM for the lab: who has a policy may do what it allows, and nothing else. Pure but for a lock.

As IAM does it: a request asks for an action on each resource it touches, and each of these demands
has to be met by one statement, its conditions included. moto asks for actions only. Known is what
our policies use: Allow, StringLike and StringEquals.

Source: "Policy evaluation logic" of the IAM guide; the service authorization reference for EC2, S3.
"""

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qs

from emulated.faults import Call, Fault

Tags = Mapping[str, str]

_KINDS = {
    "i": "instance",
    "vol": "volume",
    "eni": "network-interface",
    "eipalloc": "elastic-ip",
    "sg": "security-group",
    "vpc": "vpc",
    "subnet": "subnet",
}
_ID = re.compile(rf"({'|'.join(_KINDS)})-[0-9a-f]+")
_RENTED = ("instance", "volume", "network-interface", "security-group", "subnet")
"""What a RunInstances touches, beside its image."""


@dataclass(frozen=True)
class Demand:
    """One action on one resource."""

    action: str
    """`ec2:RunInstances`."""
    resource: str
    """Its ARN; `*` where the action knows none."""
    context: Mapping[str, str] = field(default_factory=dict)
    """What conditions can ask for."""

    def __str__(self) -> str:
        return f"{self.action} on {self.resource} ({dict(self.context)})"


class Policies:
    """What each access key may do; one without a policy may do everything.

    Args:
        tags_of: the tags of an EC2 resource, by region and id.
    """

    def __init__(self, tags_of: Callable[[str, str], Tags]) -> None:
        self._tags_of = tags_of
        self._policies: dict[str, Mapping[str, Any]] = {}
        self._refused: dict[str, None] = {}
        self._lock = threading.Lock()

    def set(self, key: str, policy: Mapping[str, Any]) -> None:
        """Let a key do what a policy allows, from now on."""
        with self._lock:
            self._policies[key] = policy

    def clear(self) -> None:
        """Let everybody do everything."""
        with self._lock:
            self._policies.clear()
            self._refused.clear()

    def refused(self) -> list[str]:
        """What was not allowed, each thing once, in order."""
        with self._lock:
            return list(self._refused)

    def meet(self, call: Call) -> Fault | None:
        """The error for a request that is not allowed."""
        policy = self._policies.get(call.key)
        if policy is None:
            return None
        missing = first_refused(call, policy, lambda name: self._tags_of(call.region, name))
        if missing is None:
            return None
        with self._lock:
            self._refused[f"{call.key}: {missing}"] = None
        code = "UnauthorizedOperation" if call.service == "ec2" else "AccessDenied"
        return Fault("refuse", status=403, code=code, message=f"not allowed: {missing}")


def first_refused(
    call: Call, policy: Mapping[str, Any], tags_of: Callable[[str], Tags]
) -> Demand | None:
    """The first thing a request needs that a policy does not allow; `None`: it may go on.

    Args:
        tags_of: the tags of an EC2 resource, by its id.
    """
    for demand in demands(call, tags_of):
        if not any(_allows(statement, demand) for statement in policy["Statement"]):
            return demand
    return None


def demands(call: Call, tags_of: Callable[[str], Tags]) -> Iterator[Demand]:
    """What IAM asks of a policy for one request."""
    if call.service == "s3":
        yield from _of_s3(call)
    elif call.service == "iam":
        yield from _of_iam(call)
    elif call.service == "ec2" and call.action == "RunInstances":
        yield from _of_renting(call)
    elif call.service == "ec2" and call.changes_something:
        yield from _of_changing(call, tags_of)
    elif call.service != "sts":  # who one is, everybody may ask
        yield Demand(f"{call.service}:{call.action}", "*")


def _of_renting(call: Call) -> Iterator[Demand]:
    given = _tags_given(call)
    yield Demand("ec2:RunInstances", f"arn:aws:ec2:{call.region}::image/ami-1")
    for kind in _RENTED:
        born_with = {f"aws:RequestTag/{key}": value for key, value in given.get(kind, {}).items()}
        yield Demand("ec2:RunInstances", _arn(call.region, kind, "new"), born_with)
    for kind, tags in given.items():
        born_with = {f"aws:RequestTag/{key}": value for key, value in tags.items()}
        context = {**born_with, "ec2:CreateAction": "RunInstances"}
        yield Demand("ec2:CreateTags", _arn(call.region, kind, "new"), context)
    form = dict(call.form)
    role = form.get("IamInstanceProfile.Name") or form.get("IamInstanceProfile.Arn")
    if role:
        arn = f"arn:aws:iam::123456789012:role/{role.rpartition('/')[2]}"
        yield Demand("iam:PassRole", arn, {"iam:PassedToService": "ec2.amazonaws.com"})


def _of_changing(call: Call, tags_of: Callable[[str], Tags]) -> Iterator[Demand]:
    action = f"ec2:{call.action}"
    named = [value for value in call.values if _ID.fullmatch(value)]
    if not named or call.action == "CreateSecurityGroup":
        kind = "security-group" if call.action == "CreateSecurityGroup" else "new"
        yield Demand(action, _arn(call.region, kind, "new"))
    for name in named:
        tags = {f"aws:ResourceTag/{key}": value for key, value in tags_of(name).items()}
        yield Demand(action, _arn(call.region, _KINDS[name.partition("-")[0]], name), tags)


def _of_iam(call: Call) -> Iterator[Demand]:
    form = dict(call.form)
    if "InstanceProfileName" in form:
        resource = f"arn:aws:iam::123456789012:instance-profile/{form['InstanceProfileName']}"
    elif "RoleName" in form:
        resource = f"arn:aws:iam::123456789012:role/{form['RoleName']}"
    else:
        resource = "*"
    yield Demand(f"iam:{call.action}", resource)


def _of_s3(call: Call) -> Iterator[Demand]:
    method, _, path = call.action.partition(" ")
    bucket, _, key = path.lstrip("/").partition("/")
    query = parse_qs(call.query, keep_blank_values=True)
    arn = f"arn:aws:s3:::{bucket}"
    if not bucket:
        yield Demand("s3:ListAllMyBuckets", "*")
    elif not key:
        context = {"s3:prefix": query["prefix"][0]} if "prefix" in query else {}
        verb = "ListBucketMultipartUploads" if "uploads" in query else "ListBucket"
        if method == "POST" and "delete" in query:
            yield from (Demand("s3:DeleteObject", f"{arn}/{name}") for name in call.values)
            return
        if method in ("PUT", "DELETE"):
            verb = "CreateBucket" if method == "PUT" else "DeleteBucket"
        yield Demand(f"s3:{verb}", arn, context)
    else:
        verb = {"GET": "GetObject", "HEAD": "GetObject", "DELETE": "DeleteObject"}.get(method)
        if method == "DELETE" and "uploadId" in query:
            verb = "AbortMultipartUpload"
        yield Demand(f"s3:{verb or 'PutObject'}", f"{arn}/{key}")


def _tags_given(call: Call) -> dict[str, dict[str, str]]:
    """Tags of a request by the kind of resource that is born with them."""
    form = dict(call.form)
    given: dict[str, dict[str, str]] = {}
    for name, value in call.form:
        found = re.fullmatch(r"(TagSpecification\.\d+)\.Tag\.(\d+)\.Key", name)
        if found:
            kind = form[f"{found[1]}.ResourceType"]
            given.setdefault(kind, {})[value] = form.get(f"{found[1]}.Tag.{found[2]}.Value", "")
    return given


def _arn(region: str, kind: str, name: str) -> str:
    return f"arn:aws:ec2:{region}:123456789012:{kind}/{name}"


def _allows(statement: Mapping[str, Any], demand: Demand) -> bool:
    return (
        any(fnmatchcase(demand.action, one) for one in _listed(statement["Action"]))
        and any(fnmatchcase(demand.resource, one) for one in _listed(statement["Resource"]))
        and all(
            _holds(operator, demand.context.get(key), _listed(wanted))
            for operator, asked in statement.get("Condition", {}).items()
            for key, wanted in asked.items()
        )
    )


def _holds(operator: str, found: str | None, wanted: list[str]) -> bool:
    if found is None:
        return False
    if operator == "StringEquals":
        return found in wanted
    if operator == "StringLike":
        return any(fnmatchcase(found, one) for one in wanted)
    raise ValueError(f"no condition known here: {operator}")


def _listed(one_or_more: str | list[str]) -> list[str]:
    return [one_or_more] if isinstance(one_or_more, str) else one_or_more
