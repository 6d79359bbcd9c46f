"""The task that SkyPilot is given."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from launcher.machines.labels import EXPIRES, OWNER, RUN, labels, read_expires
from launcher.machines.task import node_folder, task_yaml
from launcher.market.cloud_limits import NO_AUTODOWN
from launcher.market.look import Wanted, look_for_offers
from launcher.market.offers import Offer

NOW = 1_800_000_000.0
RUN_ID = "s1-261122-0341-k7q2"
SKY = Path(__file__).parents[3] / "sky"
CATALOGS = Path(__file__).parents[2] / "catalogs"

S1 = Offer(
    cloud="aws",
    region="us-east-2",
    zone="us-east-2a",
    instance_type="p5.48xlarge",
    accelerator="H100",
    accelerators=8,
    nodes=2,
    spot=True,
    usd_per_hour=Decimal("39.7432"),
    source="SkyPilot",
    as_of=NOW,
)

TEMPLATE = (SKY / "task.yaml").read_text()


def task_for(offer: Offer, bundle: Path = Path("/bundles/s1"), **changes: Any) -> str:
    marks = labels(offer.cloud, run_id=RUN_ID, owner="ada@lab", expires_at=NOW + 3600)
    wishes: dict[str, Any] = {
        "labels": marks,
        "limit_minutes": 75,
        "limit_at": 1_800_004_500,
        **changes,
    }
    return task_yaml(TEMPLATE, offer, bundle=bundle, **(wishes | changes))


def resources(offer: Offer, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(task_for(offer, **changes))["resources"]
    return found


@pytest.mark.golden
def test_the_task_of_two_nodes_of_spot_h100s(golden: Callable[[str, str], None]) -> None:
    golden("task-s1.yaml", task_for(S1))


def test_a_machine_is_pinned_to_the_offer() -> None:
    pinned = resources(S1)

    assert pinned["infra"] == "aws/us-east-2/us-east-2a"
    assert pinned["instance_type"] == "p5.48xlarge"
    assert pinned["accelerators"] == "H100:8"
    assert pinned["use_spot"] is True


def test_a_zone_that_is_known_only_by_its_id_is_left_to_skypilot() -> None:
    for zone_id in ("use2-az1", "use1-lax1-az1"):
        offer = S1.model_copy(update={"zone": zone_id})
        assert resources(offer)["infra"] == "aws/us-east-2"
    assert resources(S1.model_copy(update={"zone": None}))["infra"] == "aws/us-east-2"


def test_the_hourly_cost_is_that_of_one_machine_and_a_tenth_more_to_the_cent_above() -> None:
    text = task_for(S1)  # 19.8716 x 1.1 = 21.85876

    assert "max_hourly_cost: 21.86\n" in text
    assert yaml.safe_load(text)["resources"]["max_hourly_cost"] == 21.86


def test_every_machine_is_given_back_by_itself_even_if_its_job_hangs() -> None:
    assert resources(S1)["autostop"] == {"idle_minutes": 75, "down": True, "wait_for": "none"}
    assert yaml.safe_load(task_for(S1))["envs"]["STILLHOUSE_LIMIT_MINUTES"] == "75"


@pytest.mark.parametrize("cloud", sorted(NO_AUTODOWN))
def test_skypilot_is_not_asked_for_what_it_cannot_do_on_a_cloud(cloud: str) -> None:
    assert "autostop" not in resources(S1.model_copy(update={"cloud": cloud}))


def test_the_scripts_are_told_cloud_terms_and_limits_and_nothing_of_the_recipe() -> None:
    task = yaml.safe_load(task_for(S1, linger_minutes=7))

    assert task["setup"] == "bash sky/setup.sh"
    assert task["run"] == "bash sky/run.sh"
    assert task["envs"] == {
        "STILLHOUSE_CLOUD": "aws",
        "STILLHOUSE_SPOT": "true",
        "STILLHOUSE_LIMIT_MINUTES": "75",
        "STILLHOUSE_LIMIT_AT": "1800004500",
        "STILLHOUSE_LINGER_MINUTES": "7",
    }


def test_the_disk_is_skypilots_choice_unless_it_is_ours() -> None:
    assert "disk_size" not in resources(S1)
    assert resources(S1, disk_gib=800)["disk_size"] == 800


def test_a_machine_without_any_time_is_a_fault_of_ours() -> None:
    with pytest.raises(ValueError, match="needs a minute at least, not 0"):
        task_for(S1, limit_minutes=0)


def test_the_folder_of_scripts_is_found() -> None:
    assert node_folder() == SKY


# ---- labels ----------------------------------------------------------------------------------


def test_on_aws_labels_are_tags_with_times_as_rfc_3339_writes_them() -> None:
    assert resources(S1)["labels"] == {
        RUN: RUN_ID,
        OWNER: "ada@lab",
        EXPIRES: "2027-01-15T09:00:00Z",
    }


def test_on_gcp_labels_have_no_capitals_and_no_colons() -> None:
    assert labels("gcp", run_id=RUN_ID, owner="Ada Løve@lab", expires_at=NOW) == {
        RUN: RUN_ID,
        OWNER: "ada-l-ve-lab",
        EXPIRES: "2027-01-15t08-00-00z",
    }


def test_an_owner_without_any_usable_character_is_unknown() -> None:
    assert labels("gcp", run_id=RUN_ID, owner="@", expires_at=NOW)[OWNER] == "unknown"


@given(
    cloud=st.sampled_from(["aws", "azure", "gcp", "lambda"]),
    owner=st.text(),
    expires_at=st.floats(0, 4e9),
)
def test_when_a_machine_expires_can_be_read_from_any_cloud(
    cloud: str, owner: str, expires_at: float
) -> None:
    marks = labels(cloud, run_id=RUN_ID, owner=owner, expires_at=expires_at)

    read = read_expires(marks[EXPIRES])
    assert read is not None
    assert 0 <= read - expires_at <= 1


@pytest.mark.parametrize("text", ["", "tomorrow", "2027-13-15T08:00:00Z", "2027-01-15T08:00:00"])
def test_what_says_no_time_is_unknown(text: str) -> None:
    assert read_expires(text) is None


# ---- SkyPilot itself -------------------------------------------------------------------------

ASK_SKYPILOT = """
import json, sys, sky
from sky.clouds import AWS

def told(text):
    task = sky.Task.from_yaml_str(text)
    task.validate()
    (machine,) = task.resources
    stop = machine.autostop_config
    return {
        "nodes": task.num_nodes, "cloud": str(machine.cloud).lower(), "region": machine.region,
        "zone": machine.zone, "instance_type": machine.instance_type,
        "accelerators": machine.accelerators, "spot": machine.use_spot, "labels": machine.labels,
        "autostop": stop and [stop.enabled, stop.idle_minutes, stop.down, stop.wait_for.value],
        "envs": task.envs,
    }

tasks = json.load(sys.stdin)
cheap = sky.Task.from_yaml_str(tasks[0])
(machine,) = cheap.resources
machine = machine.copy(max_hourly_cost=0.01)
launchable = AWS()._get_feasible_launchable_resources(machine).resources_list
print(json.dumps({"told": [told(text) for text in tasks], "at a cent": len(launchable)}))
"""


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Offer], dict[str, Any]]:
    """One offer of each cloud and terms, and what SkyPilot reads of their tasks."""
    home = tmp_path_factory.mktemp("skypilot")
    shutil.copytree(CATALOGS, home / ".sky/catalogs/v8")
    bundle = home / "bundle of $HOME"
    bundle.mkdir()
    kinds: dict[tuple[str, bool], Offer] = {("aws", True): S1}
    for offer in look_for_offers(Wanted.parse("any"), environ={"HOME": str(home)}).offers:
        kinds.setdefault((offer.cloud, offer.spot), offer)
    offers = list(kinds.values())
    written = [path.read_text() for path in sorted(SKY.glob("*.yaml"))]
    tasks = [*(task_for(offer, bundle, disk_gib=300) for offer in offers), *written]
    answer = subprocess.run(
        [sys.executable, "-c", ASK_SKYPILOT],
        input=json.dumps(tasks),
        capture_output=True,
        text=True,
        check=True,
        cwd=bundle,
        env={
            "HOME": str(home),
            "PATH": os.environ["PATH"],
            "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
        },
    )
    said: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return offers, said


@pytest.mark.slow
def test_skypilot_reads_of_every_clouds_task_what_the_offer_says(
    asked: tuple[list[Offer], dict[str, Any]],
) -> None:
    offers, said = asked

    assert {offer.cloud for offer in offers} == {"aws", "gcp", "lambda", "runpod"}
    for offer, told in zip(offers, said["told"], strict=False):
        assert told["cloud"] == offer.cloud
        assert told["instance_type"] == offer.instance_type
        assert told["accelerators"] == {offer.accelerator: offer.accelerators}
        assert (told["region"], told["zone"]) == (offer.region, offer.zone)
        assert (told["nodes"], told["spot"]) == (offer.nodes, offer.spot)
        assert told["labels"][RUN] == RUN_ID
        assert told["autostop"] == [True, 75, True, "none"]
        assert told["envs"]["STILLHOUSE_CLOUD"] == offer.cloud


@pytest.mark.slow
def test_skypilot_reads_every_task_in_the_sky_folder(
    asked: tuple[list[Offer], dict[str, Any]],
) -> None:
    offers, said = asked
    own = said["told"][len(offers) :]

    assert len(own) == len(list(SKY.glob("*.yaml"))) > 0
    assert all(told["autostop"][1:] == [60, True, "none"] for told in own)


@pytest.mark.slow
def test_skypilots_hourly_cost_is_no_guard_where_the_machine_is_named(
    asked: tuple[list[Offer], dict[str, Any]],
) -> None:
    # The day it is one, launcher/machines/task.py should say so and lean on it.
    assert asked[1]["at a cent"] == 1
