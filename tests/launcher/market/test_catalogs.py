"""SkyPilot's files are read as they are, and what cannot be read is said so."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.market.catalog_rows import BadRowError, Listing, read_listings
from launcher.market.catalogs import (
    CouldNotLookError,
    catalog_clouds,
    enabled_clouds,
    read_catalog,
    sky_folder,
    zone_names,
)
from launcher.market.cloud_limits import NO_AUTODOWN, ONE_NODE_ONLY
from launcher.market.gcp_hosts import MADE_FOR

HEADER = "InstanceType,AcceleratorName,AcceleratorCount,GpuInfo,Price,SpotPrice,Region"
DAY_S = 86_400


@pytest.fixture
def sky(sky_home: Path) -> Path:
    return sky_home / ".sky"


def write_state(sky: Path, rows: dict[str, list[str]]) -> None:
    """SkyPilot's database as `sky check` leaves it."""
    with sqlite3.connect(sky / "state.db") as connection:
        connection.execute("CREATE TABLE config (key TEXT PRIMARY KEY, value TEXT)")
        connection.executemany(
            "INSERT INTO config VALUES (?, ?)", [(k, json.dumps(v)) for k, v in rows.items()]
        )
    connection.close()


def one(catalog: tuple[Listing, ...], instance_type: str, zone: str | None) -> Listing:
    (found,) = {x for x in catalog if (x.instance_type, x.zone) == (instance_type, zone)}
    return found


# ---- where things are ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"HOME": "/home/a"}, "/home/a/.sky"),
        ({"HOME": "/home/a", "SKY_RUNTIME_DIR": "/scratch"}, "/scratch/.sky"),
        ({"HOME": "/home/a", "SKY_RUNTIME_DIR": "~/b"}, "/home/a/b/.sky"),
    ],
)
def test_sky_pilots_folder_is_found_as_it_finds_it_itself(
    environ: dict[str, str], folder: str
) -> None:
    assert sky_folder(environ) == Path(folder)


def test_clouds_with_a_catalog_are_listed(sky: Path) -> None:
    assert catalog_clouds(sky) == ("aws", "gcp", "lambda", "runpod")


def test_reading_catalogs_does_not_import_skypilot() -> None:
    script = (
        "import sys, launcher.market.look\n"
        "print(sorted({'sky', 'boto3', 'rich'} & set(sys.modules)))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True
    )

    assert loaded.stdout.strip() == "[]"


# ---- what is listed --------------------------------------------------------------------------


def test_every_price_is_above_zero_and_every_machine_has_whole_gpus(sky: Path) -> None:
    listings = [x for cloud in catalog_clouds(sky) for x in read_catalog(sky, cloud).listings]

    assert len(listings) > 30
    for listing in listings:
        prices = [listing.usd_per_hour, listing.spot_usd_per_hour]
        assert all(price is None or price > 0 for price in prices)
        assert any(prices)
        assert listing.accelerators >= 1
        assert listing.instance_type
        assert listing.region


def test_machines_without_gpus_parts_of_gpus_and_chips_of_others_are_left_out(sky: Path) -> None:
    named = {
        x.accelerator for cloud in catalog_clouds(sky) for x in read_catalog(sky, cloud).listings
    }

    assert named == {"A100", "A100-80GB", "H100", "H100-SXM", "L4", "T4"}
    assert "g6f.large" not in {x.instance_type for x in read_catalog(sky, "aws").listings}


def test_prices_are_exact_and_carry_the_time_of_the_file(sky: Path) -> None:
    aws = read_catalog(sky, "aws")

    listing = one(aws.listings, "p5.48xlarge", "use1-az1")
    assert listing.usd_per_hour == Decimal("55.04")
    assert listing.spot_usd_per_hour == Decimal("22.4012")
    assert listing.accelerators == 8
    assert aws.as_of == 1_799_992_800.0


def test_no_spot_price_is_none_and_not_zero(sky: Path) -> None:
    assert (
        one(read_catalog(sky, "aws").listings, "p5.4xlarge", "use1-az6").spot_usd_per_hour is None
    )
    assert all(x.spot_usd_per_hour is None for x in read_catalog(sky, "lambda").listings)


@pytest.mark.parametrize("price", ["", "0.0", "-1", "nan", "inf"])
def test_what_is_no_price_is_unknown(price: str) -> None:
    lines = [HEADER, f"p5,H100,8.0,x,{price},2.5,us-east-1"]

    (listing,) = read_listings("aws", lines)

    assert listing.usd_per_hour is None
    assert listing.spot_usd_per_hour == Decimal("2.5")


def test_gcps_gpus_are_priced_with_the_machine_they_hang_on(sky: Path) -> None:
    listing = one(read_catalog(sky, "gcp").listings, "a3-highgpu-8g", "us-central1-a")

    assert listing.usd_per_hour == Decimal("78.71") + Decimal("9.46006")
    assert listing.spot_usd_per_hour == Decimal("19.9408") + Decimal("2.88933")


def test_gcps_gpus_in_a_zone_without_their_machine_are_no_offer(sky: Path) -> None:
    assert "us-east4-a" not in {x.zone for x in read_catalog(sky, "gcp").listings}


def test_gcps_older_gpus_hang_on_the_cheapest_n1_with_enough_memory(sky: Path) -> None:
    (listing,) = (x for x in read_catalog(sky, "gcp").listings if x.accelerator == "T4")

    assert listing.instance_type == "n1-highmem-4"  # n1-standard-4 has 15 GiB, and 16 are needed
    assert listing.usd_per_hour == Decimal("0.35") + Decimal("0.23661")


# ---- what cannot be read ---------------------------------------------------------------------


def test_a_missing_catalog_says_how_to_fetch_it(sky: Path) -> None:
    with pytest.raises(CouldNotLookError) as refused:
        read_catalog(sky, "azure")

    assert refused.value.exit_code == 3
    assert "could not look for offers: there is no price catalog of azure" in str(refused.value)
    assert "`sky gpus list --infra azure` fetches it" in str(refused.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", ":1: there is no column AcceleratorName"),
        (HEADER.replace("Price,SpotPrice", "Cost,SpotCost"), ":1: there is no column Price"),
        (f"{HEADER}\np5,H100,8.0,x,55.04,21.5,us\np5,H100", ":3: has 2 values and should have 7"),
        (f"{HEADER}\np5,H100,8.0,x,many,21.5,us", ":2: many is no price"),
        (f"{HEADER}\np5,H100,eight,x,1,1,us", ":2: eight is no number"),
    ],
)
def test_a_catalog_that_is_no_catalog_names_line_and_fault_and_how_to_mend_it(
    sky: Path, content: str, complaint: str
) -> None:
    path = sky / "catalogs/v8/aws/vms.csv"
    path.write_text(content)

    with pytest.raises(CouldNotLookError, match=re.escape(f"{path}{complaint}")) as refused:
        read_catalog(sky, "aws")

    assert "Delete it; `sky gpus list --infra aws` fetches it." in str(refused.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b'a,"b\n' + b"x" * 200_000])
def test_a_catalog_that_is_no_text_cannot_be_looked_at(sky: Path, content: bytes) -> None:
    (sky / "catalogs/v8/aws/vms.csv").write_bytes(content)

    with pytest.raises(CouldNotLookError, match="Delete it"):
        read_catalog(sky, "aws")


@given(text=st.text())
def test_whatever_the_rows_are_they_are_read_or_refused(text: str) -> None:
    lines = [HEADER, *text.splitlines()]
    try:
        listings = list(read_listings("gcp", lines))
    except BadRowError:
        return
    assert all(listing.accelerators >= 1 for listing in listings)


def test_an_old_catalog_warns_with_the_command_that_renews_it(sky: Path) -> None:
    aws = read_catalog(sky, "aws")

    assert aws.age_warning(aws.as_of + 2 * DAY_S) is None
    assert aws.age_warning(aws.as_of + 5 * DAY_S) == (
        "aws: the prices are 5 days old; `sky gpus list --infra aws` renews them"
    )


def test_an_old_catalog_that_skypilot_did_not_fetch_has_to_be_deleted_first(sky: Path) -> None:
    (sky / "catalogs/v8/.meta/aws/vms.csv.md5").unlink()
    aws = read_catalog(sky, "aws")

    warning = aws.age_warning(aws.as_of + 5 * DAY_S)

    assert warning is not None
    assert "never renews it: delete it, then `sky gpus list --infra aws`" in warning


# ---- zones and clouds ------------------------------------------------------------------------


def test_zones_have_the_names_that_skypilot_saw_last(sky: Path) -> None:
    older = sky / "catalogs/v8/aws/az_mappings-0ther.csv"
    older.write_text("AvailabilityZone,AvailabilityZoneName\nuse1-az1,us-east-1f\n")
    os.utime(older, (1, 1))

    assert zone_names(sky)["use1-az1"] == "us-east-1b"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"a,b\n1,2\n"])
def test_zones_keep_their_ids_where_their_names_cannot_be_read(sky: Path, content: bytes) -> None:
    (sky / "catalogs/v8/aws/az_mappings-frozen.csv").write_bytes(content)

    assert zone_names(sky) == {}


def test_enabled_clouds_are_those_of_all_workspaces_that_can_run_machines(sky: Path) -> None:
    write_state(
        sky,
        {
            "enabled_clouds_default_compute": ["AWS", "Lambda"],
            "enabled_clouds_default_storage": ["GCP"],
            "enabled_clouds_team_compute": ["RunPod", "AWS"],
            "check_results_default": ["Azure"],
        },
    )

    assert enabled_clouds(sky) == ("aws", "lambda", "runpod")


def test_clouds_that_were_never_checked_are_unknown_and_not_none_at_all(sky: Path) -> None:
    assert enabled_clouds(sky) is None
    write_state(sky, {})
    assert enabled_clouds(sky) is None


def test_no_enabled_cloud_is_told_apart_from_never_checked(sky: Path) -> None:
    write_state(sky, {"enabled_clouds_default_compute": []})

    assert enabled_clouds(sky) == ()


def test_an_empty_database_was_never_checked(sky: Path) -> None:
    (sky / "state.db").touch()

    assert enabled_clouds(sky) is None


def test_a_database_that_is_none_cannot_be_looked_at_and_is_left_as_it_was(sky: Path) -> None:
    (sky / "state.db").write_bytes(b"no database" * 100)

    with pytest.raises(CouldNotLookError, match=r"state\.db cannot be read"):
        enabled_clouds(sky)
    assert (sky / "state.db").read_bytes() == b"no database" * 100


# ---- beside SkyPilot itself ------------------------------------------------------------------

ASK_SKYPILOT = """
import json, math, sky, sky.catalog
from sky import clouds, global_user_state
from sky.catalog.gcp_catalog import _ACC_INSTANCE_TYPE_DICTS
from sky.utils.registry import CLOUD_REGISTRY

global_user_state.set_enabled_clouds(["AWS", "Lambda"], clouds.CloudCapability.COMPUTE, "default")
found = sky.catalog.list_accelerators(
    gpus_only=True, clouds=["aws", "gcp", "lambda", "runpod"], all_regions=True)
price = lambda usd: None if usd is None or math.isnan(usd) else round(usd, 6)

def without(feature):
    return sorted(name for name, cloud in CLOUD_REGISTRY.items()
        if name not in ("kubernetes", "ssh", "slurm")
        and feature in cloud._unsupported_features_for_resources(sky.Resources(cloud=cloud)))

print(json.dumps({
    "gcp": _ACC_INSTANCE_TYPE_DICTS,
    "one node": without(clouds.CloudImplementationFeatures.MULTI_NODE),
    "no autodown": without(clouds.CloudImplementationFeatures.AUTODOWN),
    "listed": sorted(
        [i.cloud.lower(), i.instance_type, i.region, i.accelerator_name, i.accelerator_count,
         price(i.price), price(i.spot_price)]
        for infos in found.values() for i in infos
        if i.accelerator_count >= 1
        and not i.accelerator_name.startswith(("tpu", "Trainium", "MI300X"))),
}))
"""


@pytest.fixture(scope="module")
def skypilots_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("skypilot")
    shutil.copytree(Path(__file__).parents[2] / "catalogs", home / ".sky/catalogs/v8")
    return home


@pytest.fixture(scope="module")
def skypilot(skypilots_home: Path) -> dict[str, Any]:
    """What SkyPilot itself says, asked once, in a process of its own."""
    asked = subprocess.run(
        [sys.executable, "-c", ASK_SKYPILOT],
        capture_output=True,
        text=True,
        check=True,
        env={
            "HOME": str(skypilots_home),
            "PATH": os.environ["PATH"],
            "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
        },
    )
    said: dict[str, Any] = json.loads(asked.stdout.splitlines()[-1])
    return said


@pytest.mark.slow
def test_we_list_the_same_machines_at_the_same_prices_as_skypilot(
    sky: Path, skypilot: dict[str, Any]
) -> None:
    cheapest: dict[tuple[object, ...], tuple[Decimal | None, Decimal | None]] = {}
    for cloud in catalog_clouds(sky):
        for x in read_catalog(sky, cloud).listings:
            key = (x.cloud, x.instance_type, x.region, x.accelerator, x.accelerators)
            spot = cheapest.get(key, (None, None))[1]
            seen = [usd for usd in (spot, x.spot_usd_per_hour) if usd is not None]
            cheapest[key] = (x.usd_per_hour, min(seen, default=None))

    def price(usd: Decimal | None) -> float | None:
        return None if usd is None else round(float(usd), 6)

    ours = sorted([*key, *map(price, prices)] for key, prices in cheapest.items())
    assert len(ours) > 20
    assert ours == skypilot["listed"]


@pytest.mark.slow
def test_we_know_the_same_machines_for_gcps_gpus_as_skypilot(skypilot: dict[str, Any]) -> None:
    assert json.loads(json.dumps(MADE_FOR)) == skypilot["gcp"]


@pytest.mark.slow
def test_we_read_the_clouds_that_skypilot_has_written(
    skypilots_home: Path, skypilot: dict[str, Any]
) -> None:
    assert enabled_clouds(skypilots_home / ".sky") == ("aws", "lambda")


@pytest.mark.slow
def test_we_know_what_skypilot_cannot_do_on_which_cloud(skypilot: dict[str, Any]) -> None:
    assert sorted(ONE_NODE_ONLY) == skypilot["one node"]
    assert sorted(NO_AUTODOWN) == skypilot["no autodown"]
