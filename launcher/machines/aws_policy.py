"""What AWS has to allow, and nothing beyond: IAM policies for the launcher and for a node. Pure.

The launcher's begins with what SkyPilot documents as its minimal permissions, less what is never
asked for here (stopping, starting again), and with conditions where EC2 knows them: machines and
disks can be rented only if they are born with our tag, and only what carries it can be changed or
ended. Tags are given at birth, or to what has ours already: nobody's machine can be made ours.

Sources: SkyPilot, "Minimal permissions" of AWS, and its 0.14.1 as installed; the AWS service
authorization reference for EC2, S3 and IAM.
"""

import re
from typing import Any, Literal

from launcher.machines.labels import RUN
from recipes.errors import InvalidInputError

Role = Literal["launcher", "node"]

SKYPILOT_ROLE = "skypilot-v1"
"""The role, and the instance profile of the same name, that SkyPilot gives to its machines."""

LONGEST = 6144
"""Characters that AWS allows a managed policy, white space aside."""

_MADE_WITH_OUR_TAG = {"StringLike": {f"aws:RequestTag/{RUN}": "?*"}}
_HAS_OUR_TAG = {"StringLike": {f"aws:ResourceTag/{RUN}": "?*"}}
_SKYPILOTS = {"StringEquals": {"aws:ResourceTag/skypilot": "true"}}

Statement = dict[str, Any]


def aws_policy(role: Role, bucket: str, prefix: str, *, autodown: bool = False) -> dict[str, Any]:
    """The policy as IAM reads it.

    Args:
        role: who is allowed: the `launcher` (where `still` runs), or a rented `node`.
        bucket: of the run store.
        prefix: below which each run has a folder of its own; empty: the whole bucket.
        autodown: for a node: also what SkyPilot's timer on it needs to end its machines.

    Raises:
        InvalidInputError: bucket or prefix would say something else in a policy.
    """
    _check(bucket, prefix)
    statements = _store(bucket, prefix)
    if role == "launcher":
        statements = [*_renting(), *_ending(), *_identity(), *_asking(), *statements]
    elif autodown:
        statements = [*_ending_itself(), *statements]
    return {"Version": "2012-10-17", "Statement": statements}


def _check(bucket: str, prefix: str) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket):
        raise InvalidInputError(f"{bucket!r} is no name of a bucket")
    if re.search(r"[*?$\s]|//|^/|/$", prefix):
        raise InvalidInputError(
            f"--prefix {prefix}: must be plain names with / between them. In a policy *, ? and $ "
            "have a meaning of their own"
        )


# ---- EC2 -------------------------------------------------------------------------------------


def _renting() -> list[Statement]:
    return [
        _allow("Look", "ec2:Describe*", "*"),
        _allow(
            "RentWithOurTag",
            "ec2:RunInstances",
            _ec2("instance", "volume"),
            _MADE_WITH_OUR_TAG,
        ),
        _allow(
            "RentOutOf",
            "ec2:RunInstances",
            ["arn:aws:ec2:*::image/ami-*", *_ec2("network-interface", "subnet", "security-group")],
        ),
        _allow(
            "TagAtBirth",
            "ec2:CreateTags",
            _ec2("instance", "volume", "security-group"),
            {"StringEquals": {"ec2:CreateAction": ["RunInstances", "CreateSecurityGroup"]}},
        ),
        _allow("TagOurs", "ec2:CreateTags", _ec2("instance", "volume"), _HAS_OUR_TAG),
        _allow("MakeFirewall", "ec2:CreateSecurityGroup", _ec2("security-group", "vpc")),
        _allow(
            "OpenFirewall",
            "ec2:AuthorizeSecurityGroupIngress",
            _ec2("security-group"),
            _SKYPILOTS,
        ),
    ]


def _ending() -> list[Statement]:
    return [
        _allow(
            "EndOurs",
            [
                "ec2:TerminateInstances",
                "ec2:ModifyInstanceAttribute",
                "ec2:DeleteVolume",
                "ec2:ReleaseAddress",
                "ec2:DeleteNetworkInterface",
            ],
            _ec2("instance", "volume", "elastic-ip", "network-interface"),
            _HAS_OUR_TAG,
        )
    ]


def _ending_itself() -> list[Statement]:
    looks = ["Instances", "SecurityGroups", "Vpcs"]
    return [
        _allow("Look", [f"ec2:Describe{what}" for what in looks], "*"),
        _allow("EndOurs", "ec2:TerminateInstances", _ec2("instance"), _HAS_OUR_TAG),
    ]


# ---- the account -----------------------------------------------------------------------------


def _identity() -> list[Statement]:
    role = f"arn:aws:iam::*:role/{SKYPILOT_ROLE}"
    spot = "spot.amazonaws.com"
    return [
        _allow(
            "ReadRole",
            ["iam:GetRole", "iam:GetInstanceProfile"],
            [role, f"arn:aws:iam::*:instance-profile/{SKYPILOT_ROLE}"],
        ),
        _allow(
            "GiveRole",
            "iam:PassRole",
            role,
            {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
        ),
        _allow(
            "FirstSpotMachine",  # of the account: EC2 makes a role for itself then
            "iam:CreateServiceLinkedRole",
            f"arn:aws:iam::*:role/aws-service-role/{spot}/*",
            {"StringEquals": {"iam:AWSServiceName": spot}},
        ),
    ]


def _asking() -> list[Statement]:
    return [_allow("Ask", ["servicequotas:GetServiceQuota", "ce:GetCostAndUsage"], "*")]


# ---- the run store ---------------------------------------------------------------------------


def _store(bucket: str, prefix: str) -> list[Statement]:
    arn = f"arn:aws:s3:::{bucket}"
    below = f"{prefix}/*" if prefix else "*"
    listed = {"StringLike": {"s3:prefix": below}} if prefix else None
    return [
        _allow("ListRuns", "s3:ListBucket", arn, listed),
        # S3 has no condition by which this could be kept to a prefix.
        _allow("ListUnfinished", "s3:ListBucketMultipartUploads", arn),
        _allow(
            "KeepRuns",
            ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
            f"{arn}/{below}",
        ),
    ]


def _allow(
    name: str, actions: str | list[str], resources: str | list[str], condition: Any = None
) -> Statement:
    statement = {"Sid": name, "Effect": "Allow", "Action": actions, "Resource": resources}
    return statement if condition is None else {**statement, "Condition": condition}


def _ec2(*kinds: str) -> list[str]:
    return [f"arn:aws:ec2:*:*:{kind}/*" for kind in kinds]
