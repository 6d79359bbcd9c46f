"""Which request meets which fault, and what becomes of it; without a cloud."""

import io
from collections.abc import Iterable
from typing import Any

import pytest

from emulated.faults import Call, Fault, FaultBook, with_disks_that_go
from emulated.gateway import Gateway
from emulated.permits import Policies

SIGNED = "AWS4-HMAC-SHA256 Credential=lab/20261122/us-west-2/{}/aws4_request, SignedHeaders=host"
FORM = "application/x-www-form-urlencoded; charset=utf-8"


def ec2(action: str, *parameters: str) -> Call:
    body = "&".join([f"Action={action}", *parameters]).encode()
    return Call.read(
        "POST", "/", {"authorization": SIGNED.format("ec2"), "content-type": FORM}, body, 0
    )


def s3(method: str, path: str) -> Call:
    return Call.read(method, path, {"authorization": SIGNED.format("s3")}, b"", 0)


def test_a_call_knows_its_service_region_action_and_instances() -> None:
    call = ec2("TerminateInstances", "InstanceId.1=i-1", "InstanceId.2=i-2")

    assert (call.service, call.region, call.action) == ("ec2", "us-west-2", "TerminateInstances")
    assert call.instances == ("i-1", "i-2")


def test_a_call_of_a_json_service_has_its_action_in_a_header() -> None:
    headers = {"authorization": SIGNED.format("ce"), "x-amz-target": "Insights.GetCostAndUsage"}

    assert Call.read("POST", "/", headers, b"{}", 0).action == "GetCostAndUsage"


@pytest.mark.parametrize(
    ("call", "changes"),
    [
        (ec2("RunInstances"), True),
        (ec2("DescribeInstances"), False),
        (s3("PUT", "/b/k"), True),
        (s3("GET", "/b/k"), False),
        (s3("HEAD", "/b/k"), False),
    ],
)
def test_only_calls_that_change_something_are_kept(call: Call, changes: bool) -> None:
    book = FaultBook()

    book.meet(call)

    assert book.calls() == ([call] if changes else [])


@pytest.mark.parametrize(
    ("fault", "meets"),
    [
        (Fault("refuse"), True),
        (Fault("refuse", action="RunInstances"), True),
        (Fault("refuse", action="Run*"), True),
        (Fault("refuse", action="run*"), False),
        (Fault("refuse", service="s3"), False),
        (Fault("refuse", region="us-east-1"), False),
        (Fault("refuse", values=("subnet-1", "subnet-2")), True),
        (Fault("refuse", values=("subnet-2",)), False),
    ],
)
def test_a_fault_meets_the_calls_it_names(fault: Fault, meets: bool) -> None:
    call = ec2("RunInstances", "NetworkInterface.1.SubnetId=subnet-1")

    assert fault.matches(call) is meets


def test_a_fault_wears_out_by_number_and_by_time() -> None:
    book = FaultBook()
    book.add(Fault("refuse", times=1, code="first"), now=0.0)
    book.add(Fault("refuse", for_s=10.0, code="second"), now=0.0)

    def met(at: float) -> str | None:
        fault = book.meet(Call("ec2", "us-east-1", "RunInstances", at=at))
        return fault.code if fault else None

    assert [met(0.0), met(9.9), met(10.0)] == ["first", "second", None]


def test_a_fault_survives_being_sent() -> None:
    fault = Fault("delay", values=("subnet-1",), delay_s=1.5, times=3)

    assert Fault.from_json(fault.to_json()) == fault


def test_a_disk_of_which_nothing_is_said_is_deleted_and_one_that_is_to_stay_stays() -> None:
    first, second = b"BlockDeviceMapping.1.Ebs", b"BlockDeviceMapping.2.Ebs"
    body = first + b".VolumeSize=8&" + second + b".DeleteOnTermination=false"

    assert with_disks_that_go(body) == body + b"&" + first + b".DeleteOnTermination=true"


class Cloud:
    """A cloud that counts what reaches it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.bodies.append(environ["wsgi.input"].read())
        start_response("200 OK", [])
        return [b"done"]


def asked(fault: Fault | None) -> tuple[Cloud, str, bytes]:
    """RunInstances through a gateway with this fault: the cloud, the status, the answer."""
    cloud, book, statuses = Cloud(), FaultBook(), []
    if fault:
        book.add(fault, now=0.0)
    policies = Policies(lambda *_: {})
    gateway = Gateway(cloud, book, policies, lambda call: None, list, lambda *_: None)
    body = b"Action=RunInstances"
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "HTTP_AUTHORIZATION": SIGNED.format("ec2"),
        "CONTENT_TYPE": FORM,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
    }
    answer = gateway(environ, lambda status, headers: statuses.append(status))
    return cloud, statuses[-1], b"".join(answer)


def test_without_a_fault_the_cloud_answers() -> None:
    cloud, status, answer = asked(None)

    assert (cloud.bodies, status, answer) == ([b"Action=RunInstances"], "200 OK", b"done")


def test_a_refused_request_never_reaches_the_cloud() -> None:
    cloud, status, answer = asked(Fault("refuse", status=500, code="InsufficientInstanceCapacity"))

    assert cloud.bodies == []
    assert status.startswith("500")
    assert b"<Code>InsufficientInstanceCapacity</Code>" in answer


def test_a_request_whose_answer_is_lost_has_taken_effect() -> None:
    cloud, status, answer = asked(Fault("lose_answer", status=500))

    assert cloud.bodies == [b"Action=RunInstances"]
    assert status.startswith("500")
    assert answer != b"done"
