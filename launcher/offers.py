"""Offers: what could be rented now, and for how much.

An `Offer` is one way to get the machines of a run. It says nothing about how long the run would
take on them; that is the planner's.
"""

from decimal import Decimal
from typing import Any

from pydantic import Field

from recipes.recipe import Part

LOCAL = "local"
"""The cloud of this machine."""


class Offer(Part):
    """Machines that can be had now, all of them alike."""

    cloud: str
    """As SkyPilot calls it (`aws`, `gcp`, `lambda`, `runpod`, …), or `local`."""

    region: str | None = None

    zone: str | None = None
    """`None`: any of the region. AWS's id of a zone (`use1-az1`) where its name is not known."""

    instance_type: str | None = None

    accelerator: str | None = None
    """The GPU, by its name in the cloud's catalog."""

    accelerators: int = Field(default=0, ge=0)
    """GPUs of one node."""

    nodes: int = Field(default=1, ge=1)

    spot: bool = False
    """May be taken away at any time."""

    usd_per_hour: Decimal = Field(ge=0)
    """Of all nodes together [USD/h]."""

    source: str
    """Who says the price."""

    as_of: float | None = None
    """When that price was seen [unix s]; `None` is unknown."""

    @property
    def name(self) -> str:
        """What it is, for people.

        >>> Offer(cloud="aws", region="us-east-1", zone="us-east-1b", instance_type="p5.48xlarge",
        ...     nodes=2, spot=True, usd_per_hour=Decimal(43), source="catalog").name
        'aws p5.48xlarge us-east-1b spot x2'
        """
        if self.cloud == LOCAL:
            return "this machine"
        words = [self.cloud, self.instance_type, self.zone or self.region]
        words += ["spot" if self.spot else None, f"x{self.nodes}" if self.nodes > 1 else None]
        return " ".join(word for word in words if word)

    @property
    def usd_per_node_hour(self) -> Decimal:
        """Of one node [USD/h]."""
        return self.usd_per_hour / self.nodes

    @property
    def usd_per_gpu_hour(self) -> Decimal | None:
        """Of one GPU [USD/h]; `None` where there is none."""
        if not self.accelerators:
            return None
        return self.usd_per_hour / (self.nodes * self.accelerators)

    def as_json(self) -> dict[str, Any]:
        """For programs and for the books: all fields, and `name` for people."""
        return {"name": self.name, **self.model_dump(mode="json")}
