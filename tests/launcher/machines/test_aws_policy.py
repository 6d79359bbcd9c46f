"""What AWS has to allow: all that our code asks, and nothing of others."""

import ast
import json
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from launcher.machines.aws_policy import LONGEST, aws_policy
from launcher.outside import Outside
from recipes.errors import InvalidInputError

Golden = Callable[[str, str], None]

ROOT = Path(__file__).parents[3]

OURS = {"aws:ResourceTag/stillhouse-run": "s1-261122-0341-k7q2"}
INSTANCE = "arn:aws:ec2:eu-west-1:123456789012:instance/i-0123"
VOLUME = "arn:aws:ec2:eu-west-1:123456789012:volume/vol-0123"

# ---- a small reader of policies: allow statements, and the two conditions that are used


def allows(policy: Any, action: str, resource: str, facts: Mapping[str, str] = {}) -> bool:
    return any(
        any(fnmatchcase(action, pattern) for pattern in _listed(statement["Action"]))
        and any(fnmatchcase(resource, pattern) for pattern in _listed(statement["Resource"]))
        and _holds(statement.get("Condition", {}), facts)
        for statement in policy["Statement"]
    )


def _holds(conditions: Mapping[str, Any], facts: Mapping[str, str]) -> bool:
    assert set(conditions) <= {"StringLike", "StringEquals"}
    return all(
        key in facts and any(fnmatchcase(facts[key], pattern) for pattern in _listed(patterns))
        for tests in conditions.values()
        for key, patterns in tests.items()
    )


def _listed(one_or_many: str | list[str]) -> list[str]:
    return [one_or_many] if isinstance(one_or_many, str) else one_or_many


# ---- what our code asks of AWS

SERVICES = ("ec2", "s3", "ce", "sts", "service-quotas")

NEEDS_NOTHING = {"sts:GetCallerIdentity"}

OTHER_NAMES = {
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "s3:DeleteObjects": "s3:DeleteObject",
    "s3:HeadObject": "s3:GetObject",
    "s3:CreateMultipartUpload": "s3:PutObject",
    "s3:UploadPart": "s3:PutObject",
    "s3:CompleteMultipartUpload": "s3:PutObject",
}
"""S3's actions are not called as its operations are."""

TRANSFERS = {
    "s3:CreateMultipartUpload",
    "s3:UploadPart",
    "s3:CompleteMultipartUpload",
    "s3:AbortMultipartUpload",
    "s3:HeadObject",
}
"""What boto3's transfer manager calls for `upload` and `download`."""


@cache
def operations() -> dict[str, str]:
    """Methods of boto3's clients, as botocore names them -> the operation."""
    import botocore.session
    from botocore import xform_name

    session = botocore.session.get_session()
    found = {}
    for service in SERVICES:
        prefix = "servicequotas" if service == "service-quotas" else service
        for name in session.get_service_model(service).operation_names:
            found[xform_name(name)] = f"{prefix}:{name}"
    return found


def asked_in(path: Path) -> Iterator[str]:
    """Operations that a module calls, or names to a paginator or a helper."""
    for node in ast.walk(ast.parse(path.read_text())):
        name = None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = node.func.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value
        if name in operations():
            yield operations()[name]


def asked(*paths: Path) -> set[str]:
    found = {operation for path in paths for operation in asked_in(path)}
    return found | TRANSFERS if any(path.name == "store_s3.py" for path in paths) else found


def actions(operations: set[str]) -> set[str]:
    return {OTHER_NAMES.get(one, one) for one in operations} - NEEDS_NOTHING


def example_of(action: str) -> str:
    """Something of ours that the action can be asked of."""
    name = action.partition(":")[2]
    for sign, resource in (
        ("ListBucket", "arn:aws:s3:::my-runs"),
        ("Object", "arn:aws:s3:::my-runs/team/s1/events"),
        ("Multipart", "arn:aws:s3:::my-runs/team/s1/events"),
        ("Volume", VOLUME),
        ("Address", "arn:aws:ec2:eu-west-1:123456789012:elastic-ip/eipalloc-0123"),
        ("Interface", "arn:aws:ec2:eu-west-1:123456789012:network-interface/eni-0123"),
        ("Describe", "*"),
        ("Instance", INSTANCE),
    ):
        if sign in name:
            return resource
    return "*"


def test_everything_that_the_launchers_code_asks_is_allowed_it() -> None:
    policy = aws_policy("launcher", "my-runs", "team")
    wanted = actions(
        asked(*sorted((ROOT / "launcher").rglob("*.py")), ROOT / "recipes" / "store_s3.py")
    )

    # The walk finds what is known to be there: a walk that found nothing would prove nothing.
    assert {
        "ec2:TerminateInstances",
        "ec2:DescribeInstances",
        "ec2:DescribeSpotPriceHistory",
        "ec2:ModifyInstanceAttribute",
        "s3:ListBucketMultipartUploads",
        "s3:PutObject",
        "servicequotas:GetServiceQuota",
    } <= wanted
    facts = {**OURS, "s3:prefix": "team/s1"}
    refused = {one for one in wanted if not allows(policy, one, example_of(one), facts)}
    assert refused == set()


def test_everything_that_a_nodes_run_store_asks_is_allowed_it() -> None:
    policy = aws_policy("node", "my-runs", "team")
    wanted = actions(asked(ROOT / "recipes" / "store_s3.py"))

    assert len(wanted) >= 6
    facts = {"s3:prefix": "team/"}
    assert {one for one in wanted if not allows(policy, one, example_of(one), facts)} == set()


@pytest.mark.parametrize(
    ("action", "resource", "facts"),
    [
        ("ec2:RunInstances", "arn:aws:ec2:eu-west-1::image/ami-0123", {}),
        ("ec2:RunInstances", INSTANCE, {"aws:RequestTag/stillhouse-run": "s1"}),
        ("ec2:RunInstances", VOLUME, {"aws:RequestTag/stillhouse-run": "s1"}),
        ("ec2:RunInstances", "arn:aws:ec2:eu-west-1:123456789012:subnet/subnet-1", {}),
        ("ec2:CreateTags", INSTANCE, {"ec2:CreateAction": "RunInstances"}),
        ("ec2:CreateTags", INSTANCE, OURS),
        ("ec2:CreateSecurityGroup", "arn:aws:ec2:eu-west-1:123456789012:vpc/vpc-1", {}),
        ("ec2:DescribeRouteTables", "*", {}),
        (
            "ec2:AuthorizeSecurityGroupIngress",
            "arn:aws:ec2:eu-west-1:123456789012:security-group/sg-1",
            {"aws:ResourceTag/skypilot": "true"},
        ),
        ("iam:GetInstanceProfile", "arn:aws:iam::123456789012:instance-profile/skypilot-v1", {}),
        (
            "iam:PassRole",
            "arn:aws:iam::123456789012:role/skypilot-v1",
            {"iam:PassedToService": "ec2.amazonaws.com"},
        ),
    ],
)
def test_what_skypilot_asks_to_provision_is_allowed(
    action: str, resource: str, facts: dict[str, str]
) -> None:
    assert allows(aws_policy("launcher", "my-runs", "team"), action, resource, facts)


@pytest.mark.parametrize(
    ("action", "resource", "facts"),
    [
        ("ec2:TerminateInstances", INSTANCE, {}),
        ("ec2:TerminateInstances", INSTANCE, {"aws:ResourceTag/Name": "production"}),
        ("ec2:TerminateInstances", INSTANCE, {"aws:ResourceTag/stillhouse-run": ""}),
        ("ec2:DeleteVolume", VOLUME, {}),
        ("ec2:ModifyInstanceAttribute", INSTANCE, {}),
        ("ec2:RunInstances", INSTANCE, {}),  # a machine that no sweep would find
        ("ec2:RunInstances", VOLUME, {}),
        # Somebody's machine cannot be given our tag, and be ended then.
        ("ec2:CreateTags", INSTANCE, {"aws:RequestTag/stillhouse-run": "s1"}),
        ("ec2:StopInstances", INSTANCE, OURS),  # a machine that is stopped still has its disk
        ("iam:PassRole", "arn:aws:iam::123456789012:role/admin", {}),
        ("iam:CreateRole", "arn:aws:iam::123456789012:role/skypilot-v1", {}),
        ("s3:GetObject", "arn:aws:s3:::my-runs/other/file", {}),
        ("s3:GetObject", "arn:aws:s3:::my-runs/teammates/file", {}),
        ("s3:PutObject", "arn:aws:s3:::other-bucket/team/file", {}),
        ("s3:ListBucket", "arn:aws:s3:::my-runs", {"s3:prefix": ""}),
        ("s3:ListBucket", "arn:aws:s3:::my-runs", {}),
        ("s3:DeleteBucket", "arn:aws:s3:::my-runs", {}),
    ],
)
def test_what_is_not_ours_is_not_allowed(action: str, resource: str, facts: dict[str, str]) -> None:
    for role in ("launcher", "node"):
        policy = aws_policy(role, "my-runs", "team", autodown=role == "node")
        assert not allows(policy, action, resource, facts)


def test_a_node_may_use_the_store_and_nothing_else_unless_it_is_to_end_itself() -> None:
    plain, ending = (aws_policy("node", "b-1", "", autodown=autodown) for autodown in (False, True))

    assert all(
        action.startswith("s3:")
        for statement in plain["Statement"]
        for action in _listed(statement["Action"])
    )
    assert allows(ending, "ec2:TerminateInstances", INSTANCE, OURS)
    assert not allows(ending, "ec2:TerminateInstances", INSTANCE)
    assert not allows(ending, "ec2:RunInstances", INSTANCE, OURS)


@pytest.mark.parametrize("role", ["launcher", "node"])
@pytest.mark.parametrize("bucket", ["my-runs", 63 * "b"])
def test_a_policy_is_json_that_aws_takes(role: Any, bucket: str) -> None:
    policy = aws_policy(role, bucket, "a/rather/long/prefix/of/a/large/team", autodown=True)

    text = json.dumps(policy)
    assert json.loads(text) == policy
    assert len("".join(text.split())) <= LONGEST == 6144
    names = [statement["Sid"] for statement in policy["Statement"]]
    assert len(names) == len(set(names))
    assert all(name.isalnum() for name in names)  # AWS allows nothing else
    assert all(statement["Effect"] == "Allow" for statement in policy["Statement"])


@pytest.mark.parametrize(
    ("bucket", "prefix"),
    [("*", ""), ("my runs", ""), ("b", ""), ("my-runs", "*"), ("my-runs", "a/${aws:username}")],
)
def test_what_would_mean_something_else_in_a_policy_is_refused(bucket: str, prefix: str) -> None:
    with pytest.raises(InvalidInputError):
        aws_policy("node", bucket, prefix)


@pytest.mark.golden
@pytest.mark.parametrize("role", ["launcher", "node"])
def test_the_printed_policy_stays_as_it_was_reviewed(still: Any, golden: Golden, role: str) -> None:
    result = still("policy", "aws", "--for", role, "--bucket", "my-runs", "--prefix", "team")

    assert result.exit_code == 0, result.stderr
    golden(f"policy-aws-{role}.json", result.stdout)


def test_the_bucket_may_come_from_the_run_store(still: Any, outside: Outside) -> None:
    without = still("policy", "aws")
    outside.environ = {**outside.environ, "STILLHOUSE_STORE": "s3://my-runs/team/"}
    named = still("policy", "aws", "--for", "node")

    assert without.exit_code == 2
    assert "--bucket" in without.stderr
    assert json.loads(named.stdout) == aws_policy("node", "my-runs", "team")
    assert "--autodown" in named.stderr


def test_flags_that_would_do_nothing_are_refused(still: Any) -> None:
    assert still("policy", "aws", "--autodown", "--bucket", "my-runs").exit_code == 2
    assert still("policy", "aws", "--prefix", "team").exit_code == 2


def test_skypilot_still_calls_its_role_what_the_policy_says() -> None:
    from importlib.util import find_spec

    from launcher.machines.aws_policy import SKYPILOT_ROLE

    # Read, since importing it takes seconds.
    sky = find_spec("sky")
    assert sky is not None
    assert sky.origin is not None
    source = (Path(sky.origin).parent / "provision" / "aws" / "config.py").read_text()
    values = {
        target.id: ast.unparse(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    prefix = ast.literal_eval(values["SKYPILOT"])
    for name in ("DEFAULT_SKYPILOT_IAM_ROLE", "DEFAULT_SKYPILOT_INSTANCE_PROFILE"):
        assert values[name].replace("SKYPILOT + ", repr(prefix) + " ") == f"'{prefix}' '-v1'"
    assert f"{prefix}-v1" == SKYPILOT_ROLE
    assert prefix == "skypilot"  # its security groups carry this as a tag
