"""GCP sells a GPU and the machine it hangs on apart: which machine carries which GPU.

SkyPilot's catalog of GCP has rows of GPUs without a machine and rows of machines without a GPU; the
price of an offer is the sum of two rows of one zone. Which go together is stated by GCP
(https://cloud.google.com/compute/docs/gpus) and, beside that, in SkyPilot's code; a test compares.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import NamedTuple


class Machine(NamedTuple):
    """A machine without GPUs, in one zone."""

    instance_type: str
    zone: str
    vcpus: float
    memory_gib: float
    usd_per_hour: Decimal | None
    spot_usd_per_hour: Decimal | None


MADE_FOR: dict[str, dict[int, tuple[str, ...]]] = {
    "A100": {**{n: (f"a2-highgpu-{n}g",) for n in (1, 2, 4, 8)}, 16: ("a2-megagpu-16g",)},
    "A100-80GB": {n: (f"a2-ultragpu-{n}g",) for n in (1, 2, 4, 8)},
    "H100": {n: (f"a3-highgpu-{n}g",) for n in (1, 2, 4, 8)},
    "H100-MEGA": {8: ("a3-megagpu-8g",)},
    "H200": {8: ("a3-ultragpu-8g",)},
    "B200": {8: ("a4-highgpu-8g",)},
    "L4": {
        1: tuple(f"g2-standard-{cpus}" for cpus in (4, 8, 12, 16, 32)),
        2: ("g2-standard-24",),
        4: ("g2-standard-48",),
        8: ("g2-standard-96",),
    },
    "RTXPRO6000": {n: (f"g4-standard-{48 * n}",) for n in (1, 2, 4, 8)},
}
"""GPU -> how many -> machines that carry so many. Other GPUs hang on a machine of the N1 family."""

_N1 = ("n1-standard-", "n1-highmem-", "n1-highcpu-")
_N1_VCPUS = {1: 8, 2: 16, 4: 32, 8: 64}
_N1_VCPUS_T4 = {1: 4, 2: 8, 4: 48}
_N1_GIB_PER_VCPU = 4
"""What SkyPilot gives such a GPU: so many processors at least, and 4 GiB for each."""


class Hosts:
    """The machines of a catalog, to find the cheapest that carries a GPU in a zone."""

    def __init__(self, machines: Iterable[Machine]) -> None:
        self._in_zone: dict[str, list[Machine]] = defaultdict(list)
        for machine in machines:
            if machine.usd_per_hour is not None:
                self._in_zone[machine.zone].append(machine)

    def cheapest(self, gpu: str, count: int, zone: str) -> Machine | None:
        """The cheapest machine on demand that carries so many of a GPU; `None` if none does."""
        fitting = self._fitting(gpu, count, self._in_zone.get(zone, ()))
        return min(fitting, key=lambda machine: machine.usd_per_hour or Decimal(0), default=None)

    def _fitting(self, gpu: str, count: int, machines: Iterable[Machine]) -> Iterator[Machine]:
        if gpu in MADE_FOR:
            names = MADE_FOR[gpu].get(count, ())
            yield from (machine for machine in machines if machine.instance_type in names)
            return
        vcpus = (_N1_VCPUS_T4 if gpu == "T4" else _N1_VCPUS).get(count)
        if vcpus is None:
            return
        for machine in machines:
            if (
                machine.instance_type.startswith(_N1)
                and machine.vcpus >= vcpus
                and machine.memory_gib >= vcpus * _N1_GIB_PER_VCPU
            ):
                yield machine
