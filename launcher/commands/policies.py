"""The command that says what a cloud has to allow."""

from typing import TYPE_CHECKING

import click

from launcher.commands.options import pass_outside

if TYPE_CHECKING:
    from launcher.machines.aws_policy import Role
    from launcher.outside import Outside


@click.command()
@click.argument("cloud", type=click.Choice(["aws"]), expose_value=False)
@click.option(
    "--for",
    "role",
    type=click.Choice(["launcher", "node"]),
    default="launcher",
    help="Who is allowed: the launcher, or a rented node.",
)
@click.option("--bucket", metavar="NAME", help="Of the run store; else that of STILLHOUSE_STORE.")
@click.option("--prefix", metavar="PATH", help="Below which the runs are; else the whole bucket.")
@click.option(
    "--autodown",
    is_flag=True,
    help="For a node: also what SkyPilot's own timer needs to end the machine it is on.",
)
@pass_outside
def policy(
    outside: "Outside",
    /,
    role: "Role",
    bucket: str | None,
    prefix: str | None,
    autodown: bool,
) -> None:
    """Print the least that CLOUD has to allow, as JSON: an IAM policy for AWS.

    \b
    Example:
      still policy aws --bucket my-runs --prefix team > launcher.json
      still policy aws --for node --autodown --bucket my-runs --prefix team > node.json
      aws iam create-policy --policy-name still-node --policy-document file://node.json
    """
    from launcher.machines.aws_policy import SKYPILOT_ROLE, aws_policy
    from recipes.errors import InvalidInputError

    if autodown and role != "node":
        raise click.UsageError("--autodown is for a node: give --for node too")
    if bucket is None:
        if prefix is not None:
            raise click.UsageError("--prefix is below a bucket: give --bucket too")
        named = outside.environ.get("STILLHOUSE_STORE", "")
        if not named.startswith("s3://"):
            raise InvalidInputError(
                "a policy needs the run store's bucket: give --bucket NAME, or set "
                "STILLHOUSE_STORE=s3://bucket/prefix"
            )
        bucket, _, prefix = named.removeprefix("s3://").partition("/")
    outside.print_json(aws_policy(role, bucket, (prefix or "").strip("/"), autodown=autodown))
    if role == "launcher":
        click.echo(
            f"The role and instance profile {SKYPILOT_ROLE} have to exist, with `--for node` as "
            "their policy: what SkyPilot makes by itself may do everything in EC2 and S3.",
            err=True,
        )
    elif not autodown:
        click.echo(
            "With this policy SkyPilot's timer on a node cannot end its machine (the node's own "
            "timer can, and so can the launcher): --autodown allows that, too.",
            err=True,
        )
