"""The frozen catalogues are whole, always the same, and SkyPilot reads them."""

import csv
import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from emulated.catalog import ZONES, catalog_folder, write_catalogs


def rows(home: Path, name: str) -> list[dict[str, str]]:
    with (catalog_folder(home) / name).open() as file:
        return list(csv.DictReader(file))


def test_they_are_the_same_every_time(tmp_path: Path) -> None:
    first, second = (write_catalogs(tmp_path / name) for name in ("first", "second"))

    names = sorted(path.relative_to(first) for path in first.rglob("*.csv"))
    assert len(names) == 11
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


@pytest.mark.parametrize("provider", ["aws", "gcp", "lambda", "runpod"])
def test_every_price_is_above_zero_and_spot_is_below_on_demand(
    tmp_path: Path, provider: str
) -> None:
    write_catalogs(tmp_path)

    for row in rows(tmp_path, f"{provider}/vms.csv"):
        assert Decimal(row["Price"]) > 0
        if row["SpotPrice"]:
            assert 0 < Decimal(row["SpotPrice"]) < Decimal(row["Price"])


@pytest.mark.parametrize("provider", ["aws", "gcp", "lambda", "runpod"])
def test_a_row_with_a_gpu_says_how_many_and_which(tmp_path: Path, provider: str) -> None:
    write_catalogs(tmp_path)

    with_gpu = [row for row in rows(tmp_path, f"{provider}/vms.csv") if row["AcceleratorName"]]
    assert with_gpu
    assert all(float(row["AcceleratorCount"]) >= 1 and row["GpuInfo"] for row in with_gpu)


def test_the_cheapest_spot_h100_of_aws_has_one_zone(tmp_path: Path) -> None:
    write_catalogs(tmp_path)

    h100 = [row for row in rows(tmp_path, "aws/vms.csv") if row["AcceleratorName"] == "H100"]
    prices = sorted((Decimal(row["SpotPrice"]), row["AvailabilityZone"]) for row in h100)
    assert prices[0] == (Decimal("21.5"), ZONES["us-east-1"]["us-east-1b"])
    assert len({price for price, _ in prices}) == 3


@pytest.mark.slow
def test_skypilot_reads_them_and_asks_nobody(tmp_path: Path) -> None:
    write_catalogs(tmp_path)
    script = (
        "import json; from sky import catalog\n"
        "found = catalog.list_accelerators(gpus_only=True, name_filter='H100', "
        "clouds=['aws', 'gcp', 'lambda', 'runpod'], all_regions=True)\n"
        "print(json.dumps(sorted({(o.cloud, o.spot_price) for o in found['H100']}, key=str)))"
    )
    # A proxy that is not there: a catalogue that had to be fetched would be an error.
    nowhere = {"HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:9", "PATH": "/usr/bin:/bin"}

    done = subprocess.run(
        [sys.executable, "-c", script], env=nowhere, capture_output=True, text=True
    )

    found = [tuple(pair) for pair in json.loads(done.stdout)]
    assert ("AWS", 21.5) in found
    assert {cloud for cloud, _ in found} == {"AWS", "GCP", "Lambda", "RunPod"}
