"""A small catalogue in the form that SkyPilot reads (v8), written by us and always the same.

SkyPilot takes a catalogue without a checksum beside it as the user's own and never fetches another.
Prices are of the right size and not of today: nobody should read them as an offer.

One fact differs by cloud. AWS rows carry the zone's *id* (`use1-az1`), which SkyPilot maps to the
account's names; GCP prices the accelerator apart from the machine it hangs on.
"""

import csv
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path

SCHEMA = "v8"
"""Version of the catalogue that SkyPilot 0.14 reads."""

AMI = "ami-057111005e000001"
"""The one image in the emulated account."""

ZONES = {
    "us-east-1": {"us-east-1b": "use1-az1", "us-east-1c": "use1-az2"},
    "us-west-2": {"us-west-2b": "usw2-az1"},
}
"""Zones of the lab, name to id. The cheapest is us-east-1b."""

MEMORY_MIB = {"H100": 81920, "A100": 40960, "L4": 24576}

Row = Mapping[str, object]

_SHAPE = ["InstanceType", "AcceleratorName", "AcceleratorCount", "vCPUs", "MemoryGiB", "GpuInfo"]
_PRICE = ["Price", "SpotPrice", "Region"]
_DISKS = ["LocalDiskType", "NVMeSupported", "LocalDiskSize", "LocalDiskCount"]
_IMAGE = ["Tag", "Region", "OS", "OSVersion", "ImageId", "CreationDate", "BaseImageId"]


def catalog_folder(home: Path) -> Path:
    """Where SkyPilot looks when `home` is its HOME (or SKY_RUNTIME_DIR)."""
    return home / ".sky" / "catalogs" / SCHEMA


def write_catalogs(home: Path) -> Path:
    """Write every catalogue below `home`; returns the folder they lie in."""
    folder = catalog_folder(home)
    for name, (header, rows) in _tables().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, header, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return folder


def _tables() -> dict[str, tuple[list[str], list[Row]]]:
    images = ("custom-cpu-ubuntu", "custom-gpu-ubuntu", "custom-gpu-ubuntu-cuda13")
    gcp_images = (
        "custom-cpu-ubuntu-2204",
        "custom-gpu-ubuntu-2204",
        "custom-gpu-ubuntu-2204-cuda13",
    )
    return {
        "aws/vms.csv": (
            [*_SHAPE, *_PRICE, "AvailabilityZone", "Arch", *_DISKS],
            list(_aws_rows()),
        ),
        "aws/images.csv": (
            _IMAGE,
            [_image(tag, AMI, region) for region in ZONES for tag in images],
        ),
        "aws/instance_quota_mapping.csv": (
            ["InstanceType", "OnDemandInstanceCode", "SpotInstanceCode"],
            [
                {
                    "InstanceType": "p5.48xlarge",
                    "OnDemandInstanceCode": "L-417A185B",
                    "SpotInstanceCode": "L-C4BD4855",
                }
            ],
        ),
        "gcp/vms.csv": ([*_SHAPE, *_PRICE, "AvailabilityZone", "Arch"], list(_gcp_rows())),
        "gcp/images.csv": (_IMAGE, [_image(tag, "projects/lab/images/1") for tag in gcp_images]),
        "gcp/accelerator_quota_mapping.csv": (["Accelerator", "OnDemandQuota", "SpotQuota"], []),
        "lambda/vms.csv": ([*_SHAPE, *_PRICE], list(_lambda_rows())),
        "runpod/vms.csv": ([*_SHAPE, *_PRICE, "AvailabilityZone"], list(_runpod_rows())),
        "kubernetes/images.csv": (_IMAGE, [_image("skypilot:custom-cpu-ubuntu-2004", "none")]),
        "common/accelerators.csv": (
            ["AcceleratorName", "Clouds"],
            [
                {"AcceleratorName": "H100", "Clouds": "['AWS', 'GCP', 'Lambda', 'RunPod']"},
                {"AcceleratorName": "A100", "Clouds": "['AWS']"},
                {"AcceleratorName": "L4", "Clouds": "['AWS', 'GCP']"},
            ],
        ),
        "common/metadata.csv": (
            ["GPU", "MemoryGB", "Manufacturer"],
            [
                {"GPU": gpu, "MemoryGB": mib // 1024, "Manufacturer": "NVIDIA"}
                for gpu, mib in MEMORY_MIB.items()
            ],
        ),
    }


def _machine(
    name: str, gpu: str, count: int, cpus: int, memory_gib: int, price: str, spot: str = ""
) -> dict[str, object]:
    """One machine with its prices [USD/h]; without a spot price it is not sold as spot."""
    row: dict[str, object] = {
        "InstanceType": name,
        "vCPUs": float(cpus),
        "MemoryGiB": float(memory_gib),
        "Price": price,
        "SpotPrice": spot,
    }
    if gpu:
        row |= {"AcceleratorName": gpu, "AcceleratorCount": float(count)}
        row["GpuInfo"] = _gpu_info(gpu, count)
    return row


def _gpu_info(gpu: str, count: int) -> str:
    one = {
        "Name": gpu,
        "Manufacturer": "NVIDIA",
        "Count": float(count),
        "MemoryInfo": {"SizeInMiB": MEMORY_MIB[gpu]},
    }
    return repr({"Gpus": [one], "TotalGpuMemoryInMiB": MEMORY_MIB[gpu] * count})


def _image(tag: str, image: str, region: str = "") -> Row:
    tag = tag if ":" in tag else f"skypilot:{tag}"
    named = {"Tag": tag, "Region": region, "ImageId": image, "CreationDate": "20261101"}
    return named | {"OS": "ubuntu", "OSVersion": "22.04"}


def _aws_rows() -> Iterable[Row]:
    machines = [
        _machine("p5.48xlarge", "H100", 8, 192, 2048, "55.04", "21.50"),
        _machine("p4d.24xlarge", "A100", 8, 96, 1152, "21.96", "9.10"),
        _machine("g6.xlarge", "L4", 1, 4, 16, "0.805", "0.31"),
        _machine("m6i.large", "", 0, 2, 8, "0.096", "0.035"),
        _machine("m6i.2xlarge", "", 0, 8, 32, "0.384", "0.14"),
    ]
    # Spot differs by zone, so that "the cheapest" has one answer.
    dearer = {"use1-az1": Decimal(1), "use1-az2": Decimal("1.02"), "usw2-az1": Decimal("1.05")}
    for machine in machines:
        for region, zones in ZONES.items():
            for zone in zones.values():
                spot = (Decimal(str(machine["SpotPrice"])) * dearer[zone]).quantize(Decimal("1e-4"))
                place = {"Region": region, "AvailabilityZone": zone, "Arch": "x86_64"}
                yield machine | place | {"SpotPrice": spot}


def _gcp_rows() -> Iterable[Row]:
    place = {"Region": "us-central1", "AvailabilityZone": "us-central1-a"}
    for machine in (
        _machine("a3-highgpu-8g", "", 0, 208, 1872, "9.50", "3.10"),
        _machine("g2-standard-4", "", 0, 4, 16, "0.15", "0.06"),
        _machine("n2-standard-2", "", 0, 2, 8, "0.097", "0.024"),
        _machine("n2-standard-8", "", 0, 8, 32, "0.388", "0.094"),
    ):
        yield machine | place | {"Arch": "x86_64"}
    for gpu, count, price, spot in (("H100", 8, "78.70", "20.30"), ("L4", 1, "0.56", "0.22")):
        shape = {"AcceleratorName": gpu, "AcceleratorCount": float(count), "GpuInfo": gpu}
        yield shape | {"Price": price, "SpotPrice": spot} | place


def _lambda_rows() -> Iterable[Row]:
    place = {"Region": "us-east-1"}
    yield _machine("gpu_8x_h100_sxm5", "H100", 8, 208, 1800, "23.92") | place
    yield _machine("cpu_4x_general", "", 0, 4, 16, "0.20") | place


def _runpod_rows() -> Iterable[Row]:
    place = {"Region": "US", "AvailabilityZone": "US-KS-2"}
    yield _machine("8x_H100_SECURE", "H100", 8, 128, 1500, "21.52", "14.00") | place
    yield _machine("cpu3c-2-4", "", 0, 2, 4, "0.06") | place
