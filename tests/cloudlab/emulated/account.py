"""The account that SkyPilot finds: a private network per region, and the role its nodes carry.

SkyPilot would make the role itself and then sleep half a minute for it to spread. The two networks
are the halves of 10.77.0.0/16, so that all hosts share the lab's one bridge.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emulated.catalog import AMI, ZONES

VPC = "lab"
ROLE = "skypilot-v1"
"""The instance profile that SkyPilot looks for."""

NETWORKS = {"us-east-1": ("10.77.0.0/17", 0), "us-west-2": ("10.77.128.0/17", 128)}
"""Region to its network, and the third byte of that network's first address."""

SKYPILOT_CONFIG = """\
allowed_clouds: [aws]
aws:
  vpc_name: lab
  use_internal_ips: true
  use_ssm: false  # or SkyPilot waits for a session manager that is not there
"""


def write_images(path: Path) -> None:
    """The file of machine images that moto reads (MOTO_AMIS_PATH): ours and no other."""
    ami = {
        "ami_id": AMI,
        "name": "stillhouse-lab",
        "description": "Debian 12 with SkyPilot's runtime",
        "architecture": "x86_64",
        "virtualization_type": "hvm",
        "hypervisor": "xen",
        "public": True,
        "root_device_name": "/dev/sda1",
        "root_device_type": "ebs",
    }
    path.write_text(json.dumps([ami]))


def furnish(clouds: Mapping[str, Any], iam: Any) -> None:
    """Make networks and role.

    Args:
        clouds: region to its EC2 client.
        iam: the IAM client.
    """
    for region, ec2 in clouds.items():
        _make_network(ec2, region)
    iam.create_instance_profile(InstanceProfileName=ROLE)
    trusted = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}}
    policy = {"Version": "2012-10-17", "Statement": [trusted | {"Action": "sts:AssumeRole"}]}
    iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=json.dumps(policy))
    iam.add_role_to_instance_profile(InstanceProfileName=ROLE, RoleName=ROLE)


def _make_network(ec2: Any, region: str) -> None:
    cidr, first = NETWORKS[region]
    vpc = ec2.create_vpc(CidrBlock=cidr)["Vpc"]["VpcId"]
    ec2.create_tags(Resources=[vpc], Tags=[{"Key": "Name", "Value": VPC}])
    for number, zone in enumerate(ZONES[region], start=1):
        block = f"10.77.{first + number}.0/24"
        ec2.create_subnet(VpcId=vpc, CidrBlock=block, AvailabilityZone=zone)
