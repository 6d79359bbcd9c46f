"""Offers: what could be rented now, and for how much.

An `Offer` is one way to get the machines of a run. It says nothing about how long the run would
take on them; that is the planner's.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Self

from pydantic import Field

from recipes.recipe import Part

LOCAL = "local"
"""The cloud of this machine."""


_ON_A_CARD = {"A100-80GB": "A100-PCIe-80GB", "H100": "H100-PCIe"}
"""GPUs that are sold as an SXM module and, slower, on a PCIe card; catalogs call both the same."""

_ON_AZURES_NC = {"A100-80GB": "A100-PCIe-80GB", "H100": "H100-NVL"}
"""Azure's NC machines have cards, and its ND machines have modules."""

_PLAIN_IS_A_CARD = ("runpod", "fluidstack")
"""Clouds that call a module so, and a card by the plain name."""


def gpu_of(cloud: str, accelerator: str, instance_type: str) -> str:
    """Which GPU a catalog means, by the name that `launcher.estimate.gpus` knows.

    Where a name stands for modules and cards, the machine's name tells which, or else the cloud. On
    Vast, where anybody offers anything, it is the card unless the name says otherwise.

    >>> gpu_of("aws", "H100", "p5.48xlarge"), gpu_of("runpod", "H100", "8x_H100_SECURE")
    ('H100', 'H100-PCIe')
    >>> gpu_of("runpod", "A100-80GB-SXM", ""), gpu_of("lambda", "H100", "gpu_1x_h100_pcie")
    ('A100-80GB', 'H100-PCIe')
    >>> gpu_of("azure", "H100", "Standard_NC40ads_H100_v5"), gpu_of("vast", "H100", "1x-H100_NVL")
    ('H100-NVL', 'H100-NVL')
    """
    machine = instance_type.lower()
    if accelerator.endswith("-SXM"):
        return accelerator.removesuffix("-SXM")
    if cloud == "azure" and machine.startswith("standard_nc"):
        return _ON_AZURES_NC.get(accelerator, accelerator)
    if cloud == "vast" and accelerator == "H100" and "nvl" in machine:
        return "H100-NVL"
    on_a_card = cloud in _PLAIN_IS_A_CARD or (cloud == "vast" and "sxm" not in machine)
    if on_a_card or "pcie" in machine:
        return _ON_A_CARD.get(accelerator, accelerator)
    return accelerator


class Offer(Part):
    """Machines that can be had now, all of them alike."""

    cloud: str
    """As SkyPilot calls it (`aws`, `gcp`, `lambda`, `runpod`, …), or `local`."""

    region: str | None = None

    zone: str | None = None
    """`None`: any of the region. AWS's id of a zone (`use1-az1`) where its name is not known."""

    instance_type: str | None = None

    accelerator: str | None = None
    """The GPU, by its name in the cloud's catalog; `gpu` says which one that is."""

    accelerators: int = Field(default=0, ge=0)
    """GPUs of one node."""

    nodes: int = Field(default=1, ge=1)

    spot: bool = False
    """May be taken away at any time."""

    usd_per_hour: Decimal = Field(ge=0)
    """Of all nodes together [USD/h]."""

    on_demand_usd_per_hour: Decimal | None = None
    """Of the same machines on demand, where they are spot [USD/h]: what AWS never asks more than.
    `None` is unknown."""

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
    def moves(self) -> bool:
        """Whether the price may change while they run, and can be asked for then."""
        return self.cloud == "aws" and self.spot

    @property
    def highest_usd_per_hour(self) -> Decimal:
        """What the price may rise to, where that is known; else what it is [USD/h]."""
        return max(self.usd_per_hour, self.on_demand_usd_per_hour or self.usd_per_hour)

    @property
    def gpu(self) -> str | None:
        """The GPU, by the name that `launcher.estimate.gpus` knows; `None` where there is none."""
        if self.accelerator is None:
            return None
        return gpu_of(self.cloud, self.accelerator, self.instance_type or "")

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

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """What `as_json` has written."""
        return cls.model_validate({name: each for name, each in fields.items() if name != "name"})

    def as_json(self) -> dict[str, Any]:
        """For programs and for the books: all fields, and `name` for people."""
        return {"name": self.name, **self.model_dump(mode="json")}
