"""What the rows of a SkyPilot catalog say: which machine, where, with which GPUs, for how much.

GCP's rows of GPUs are joined with the machines they hang on (`launcher.market.gcp_hosts`).
"""

import csv
from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, NamedTuple

from launcher.market.gcp_hosts import Hosts, Machine

if TYPE_CHECKING:
    from _csv import Reader

_NOT_NVIDIA = ("'AMD'", "'Habana'", "'AWS'")
"""Makers in a catalog's GpuInfo. The worker's environment is made for NVIDIA's GPUs."""


class Listing(NamedTuple):
    """One machine with GPUs in one place, as a catalog lists it."""

    cloud: str
    region: str
    zone: str | None
    instance_type: str
    accelerator: str
    accelerators: int
    usd_per_hour: Decimal | None
    """On demand [USD/h]; `None` where it is not sold so."""
    spot_usd_per_hour: Decimal | None
    """As spot [USD/h]; `None` where it is not sold so."""


class BadRowError(Exception):
    """Says `LINE: what is wrong`."""


def read_listings(cloud: str, lines: Iterable[str]) -> Iterator[Listing]:
    """NVIDIA's GPUs, whole ones only, that have a price.

    Raises:
        BadRowError: a column is missing, a row is cut short, or what should be a number is none.
    """
    rows = _Rows(csv.reader(lines))
    apart = cloud == "gcp"
    machines: list[Machine] = []
    gpus: list[Listing] = []
    for row in rows:
        gpu = row[rows.gpu]
        if not gpu:
            if apart:
                machines.append(_machine(rows, row))
            continue
        info = row[rows.info]
        if not info or gpu.startswith("tpu-") or any(maker in info for maker in _NOT_NVIDIA):
            continue
        count = rows.number(row, rows.count)
        if count < 1 or not count.is_integer():
            continue
        listing = Listing(
            cloud=cloud,
            region=row[rows.region],
            zone=rows.text(row, rows.zone) or None,
            instance_type=row[rows.instance_type],
            accelerator=gpu,
            accelerators=int(count),
            usd_per_hour=rows.usd(row, rows.price),
            spot_usd_per_hour=rows.usd(row, rows.spot_price),
        )
        if listing.usd_per_hour is not None or listing.spot_usd_per_hour is not None:
            gpus.append(listing)
    return _on_hosts(gpus, Hosts(machines)) if apart else iter(gpus)


class _Rows:
    """The rows of a catalog with the values that are wanted, by the names in the first line."""

    def __init__(self, lines: "Reader") -> None:
        self._lines = lines
        self._header = next(lines, [])
        self.gpu = self._place("AcceleratorName")
        self.count = self._place("AcceleratorCount")
        self.info = self._place("GpuInfo")
        self.instance_type = self._place("InstanceType")
        self.region = self._place("Region")
        self.price = self._place("Price")
        # Not every cloud has these.
        self.spot_price = self._place_if_any("SpotPrice")
        self.zone = self._place_if_any("AvailabilityZone")
        self.vcpus = self._place_if_any("vCPUs")
        self.memory_gib = self._place_if_any("MemoryGiB")

    def _place(self, column: str) -> int:
        try:
            return self._header.index(column)
        except ValueError:
            raise BadRowError(f"1: there is no column {column}") from None

    def _place_if_any(self, column: str) -> int | None:
        return self._header.index(column) if column in self._header else None

    def __iter__(self) -> Iterator[list[str]]:
        width = len(self._header)
        for row in self._lines:
            if len(row) != width:
                raise self._bad(f"has {len(row)} values and should have {width}")
            yield row

    def text(self, row: list[str], place: int | None) -> str:
        return "" if place is None else row[place]

    def usd(self, row: list[str], place: int | None) -> Decimal | None:
        """A price [USD/h]; `None` where there is none. Nothing that is sold costs nothing."""
        text = self.text(row, place)
        if not text:
            return None
        try:
            price = Decimal(text)
        except InvalidOperation:
            raise self._bad(f"{text} is no price") from None
        return price if price.is_finite() and price > 0 else None

    def number(self, row: list[str], place: int | None) -> float:
        text = self.text(row, place)
        try:
            return float(text or "nan")
        except ValueError:
            raise self._bad(f"{text} is no number") from None

    def _bad(self, what: str) -> BadRowError:
        return BadRowError(f"{self._lines.line_num}: {what}")


def _machine(rows: _Rows, row: list[str]) -> Machine:
    return Machine(
        instance_type=row[rows.instance_type],
        zone=rows.text(row, rows.zone),
        vcpus=rows.number(row, rows.vcpus),
        memory_gib=rows.number(row, rows.memory_gib),
        usd_per_hour=rows.usd(row, rows.price),
        spot_usd_per_hour=rows.usd(row, rows.spot_price),
    )


def _on_hosts(gpus: Iterable[Listing], hosts: Hosts) -> Iterator[Listing]:
    """GPUs with the machines they hang on, priced together. Without a machine it is no offer."""
    for gpu in gpus:
        host = hosts.cheapest(gpu.accelerator, gpu.accelerators, gpu.zone or "")
        if host is not None:
            yield gpu._replace(
                instance_type=host.instance_type,
                usd_per_hour=_sum(gpu.usd_per_hour, host.usd_per_hour),
                spot_usd_per_hour=_sum(gpu.spot_usd_per_hour, host.spot_usd_per_hour),
            )


def _sum(a: Decimal | None, b: Decimal | None) -> Decimal | None:
    return None if a is None or b is None else a + b
