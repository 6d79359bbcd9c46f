"""An offer and a run -> the task that SkyPilot carries out.

Pure: the text of `sky/task.yaml` comes in, and goes out with what depends on the run in its place.
Scripts are named and not copied: they travel in the bundle, which is the task's workdir.

What SkyPilot 0.14.1 makes of `max_hourly_cost`: it is the price of one machine, by its own catalog,
above which it does not choose an instance type. Where the type is given, as here, it is not looked
at, so it is a note and no guard; the guard is ours (`launcher.plans.plan`).
"""

import re
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

import yaml

from launcher.market.cloud_limits import NO_AUTODOWN
from launcher.market.offers import Offer
from recipes.errors import InvalidInputError

PRICE_TOLERANCE = Decimal("1.1")
"""A machine may cost a tenth more than the offer says."""

LINGER_MINUTES = 1
"""What a machine has left when its worker has ended: for the launcher to give it back itself."""

_ZONE_ID = re.compile(r"[a-z]+\d(-[a-z0-9]+)*-az\d+")
"""AWS's id of a zone (`use1-az1`), which SkyPilot does not take for a name."""


def node_folder() -> Path:
    """The folder `sky/`: the task and the scripts of a node.

    Raises:
        InvalidInputError: it is not beside the packages.
    """
    folder = Path(__file__).parents[2] / "sky"
    if not (folder / "task.yaml").is_file():
        raise InvalidInputError(
            f"{folder} with the scripts for rented machines is missing: run stillhouse from a "
            "clone of its repository"
        )
    return folder


def task_yaml(
    template: str,
    offer: Offer,
    *,
    bundle: Path,
    labels: Mapping[str, str],
    limit_minutes: int,
    limit_at: int,
    linger_minutes: int = LINGER_MINUTES,
    disk_gib: int | None = None,
) -> str:
    """The task of a run on an offer, as YAML.

    Args:
        template: the text of `sky/task.yaml`.
        offer: where; on a rented machine.
        bundle: the folder that is copied to each node: `recipes/`, `distill/`, `sky/`,
            `constraints.txt` and the run's folder as `run/`.
        labels: see `launcher.machines.labels`.
        limit_minutes: the machine switches itself off so long after its setup began, and SkyPilot
            gives it back so long after the job began, whatever happens; at least 1.
        limit_at: it switches itself off then at the latest [unix s].
        linger_minutes: the same, after the worker has ended.
        disk_gib: size of each node's disk [GiB]; `None`: SkyPilot's choice.
    """
    if limit_minutes < 1:
        raise ValueError(f"a machine needs a minute at least, not {limit_minutes}")
    task: dict[str, Any] = yaml.safe_load(template)
    task["num_nodes"] = offer.nodes
    task["workdir"] = str(bundle)
    task["resources"] = _resources(task["resources"], offer, labels, limit_minutes, disk_gib)
    task["envs"] = {
        **task["envs"],
        "STILLHOUSE_CLOUD": offer.cloud,
        "STILLHOUSE_SPOT": "true" if offer.spot else "false",
        "STILLHOUSE_LIMIT_MINUTES": str(limit_minutes),
        "STILLHOUSE_LIMIT_AT": str(limit_at),
        "STILLHOUSE_LINGER_MINUTES": str(linger_minutes),
    }
    return yaml.dump(task, Dumper=_Dumper, sort_keys=False, width=100)


def _resources(
    standing: Mapping[str, Any],
    offer: Offer,
    labels: Mapping[str, str],
    limit_minutes: int,
    disk_gib: int | None,
) -> dict[str, Any]:
    """One machine, pinned to the offer; what a cloud cannot do is left out."""
    zone = None if offer.zone and _ZONE_ID.fullmatch(offer.zone) else offer.zone
    place = [offer.cloud, offer.region, zone]
    resources: dict[str, Any] = {
        "infra": "/".join(part for part in place if part),
        "instance_type": offer.instance_type,
        "accelerators": f"{offer.accelerator}:{offer.accelerators}" if offer.accelerators else None,
        "use_spot": offer.spot,
        "max_hourly_cost": (offer.usd_per_node_hour * PRICE_TOLERANCE).quantize(
            Decimal("0.01"), ROUND_CEILING
        ),
        "disk_size": disk_gib,
        "labels": dict(labels),
    }
    if offer.cloud not in NO_AUTODOWN:  # SkyPilot would refuse the launch
        resources["autostop"] = {**standing["autostop"], "idle_minutes": limit_minutes}
    return {key: value for key, value in resources.items() if value is not None}


class _Dumper(yaml.SafeDumper):
    """Writes decimals as they are."""


_Dumper.add_representer(
    Decimal, lambda dumper, usd: dumper.represent_scalar("tag:yaml.org,2002:float", f"{usd:f}")
)
