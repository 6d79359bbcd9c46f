"""The lab's IAM refuses what a policy does not say, as the real one would."""

from emulated.faults import Call
from emulated.permits import Policies, first_refused
from launcher.machines.aws_policy import aws_policy
from launcher.machines.labels import RUN

LAUNCHER = aws_policy("launcher", "bucket", "runs")
NODE = aws_policy("node", "bucket", "runs")
OURS, THEIRS = "i-0a", "i-0b"
TAGS = {OURS: {RUN: "tiny-1"}, THEIRS: {"Name": "somebody else's"}}


def ec2(action: str, **form: str) -> Call:
    named = tuple((name.replace("__", "."), value) for name, value in form.items())
    return Call("ec2", "us-east-1", action, named, key="lab")


def s3(request: str, query: str = "") -> Call:
    return Call("s3", "us-east-1", request, query=query, key="lab")


def deleting(*keys: str) -> Call:
    named = "".join(f"<Object><Key>{key}</Key></Object>" for key in keys)
    signed = "AWS4-HMAC-SHA256 Credential=lab/20261122/us-east-1/s3/aws4_request"
    body = f"<Delete>{named}</Delete>".encode()
    return Call.read("POST", "/bucket", {"authorization": signed}, body, 0.0, "delete")


def may(call: Call, policy: dict[str, object] = LAUNCHER) -> bool:
    return first_refused(call, policy, lambda name: TAGS.get(name, {})) is None


def renting(**tags: str) -> Call:
    form = {}
    for number, kind in enumerate(("instance", "volume"), start=1):
        specification = f"TagSpecification__{number}"
        form[f"{specification}__ResourceType"] = kind
        for place, (key, value) in enumerate(tags.items(), start=1):
            form[f"{specification}__Tag__{place}__Key"] = key.replace("_", "-")
            form[f"{specification}__Tag__{place}__Value"] = value
    return ec2("RunInstances", **form)


def test_a_machine_can_be_rented_only_if_it_is_born_with_our_tag() -> None:
    assert may(renting(stillhouse_run="tiny-1"))
    assert not may(renting(Name="anything"))
    assert not may(ec2("RunInstances"))
    assert not may(renting(stillhouse_run="tiny-1"), NODE)


def test_only_a_role_of_skypilots_can_be_given_to_a_machine() -> None:
    def with_role(name: str) -> Call:
        tagged = renting(stillhouse_run="tiny-1")
        return ec2(
            "RunInstances",
            **dict(tagged.form),
            IamInstanceProfile__Arn=f"arn:aws:iam::1:instance-profile/{name}",
        )

    assert may(with_role("skypilot-v1"))
    assert not may(with_role("administrator"))


def test_only_what_has_our_tag_can_be_ended_or_tagged() -> None:
    assert may(ec2("TerminateInstances", InstanceId__1=OURS))
    assert not may(ec2("TerminateInstances", InstanceId__1=THEIRS))
    assert not may(ec2("TerminateInstances", InstanceId__1=OURS, InstanceId__2=THEIRS))
    assert may(ec2("CreateTags", ResourceId__1=OURS))
    assert not may(ec2("CreateTags", ResourceId__1=THEIRS))


def test_the_run_store_is_open_and_what_lies_beside_it_is_not() -> None:
    assert may(s3("PUT /bucket/runs/tiny-1/events"), NODE)
    assert may(s3("GET /bucket", "list-type=2&prefix=runs%2Ftiny-1%2F"), NODE)
    assert may(s3("DELETE /bucket/runs/tiny-1/part", "uploadId=1"), NODE)
    assert may(deleting("runs/tiny-1/a", "runs/tiny-1/b"), NODE)
    assert not may(deleting("runs/tiny-1/a", "secrets"), NODE)
    assert not may(s3("GET /bucket/secrets"), NODE)
    assert not may(s3("GET /bucket", "list-type=2"), NODE)
    assert not may(s3("GET /another/runs/tiny-1/events"), NODE)


def test_everybody_may_ask_who_they_are_and_nobody_may_make_users() -> None:
    assert may(Call("sts", "us-east-1", "GetCallerIdentity"), NODE)
    assert not may(Call("iam", "us-east-1", "CreateUser", (("UserName", "me"),)))


def test_a_key_without_a_policy_may_do_everything_and_one_with_it_is_told_what_is_missing() -> None:
    policies = Policies(lambda _region, name: TAGS.get(name, {}))
    call = ec2("TerminateInstances", InstanceId__1=THEIRS)
    assert policies.meet(call) is None

    policies.set("lab", LAUNCHER)
    fault = policies.meet(call)

    assert fault is not None
    assert fault.code == "UnauthorizedOperation"
    assert "ec2:TerminateInstances" in fault.message
    assert len(policies.refused()) == 1
    policies.clear()
    assert policies.meet(call) is None
