"""What is offered, in which order, and what is said where nothing is."""

import io
import json
import pickle
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.console import Console

from launcher.estimate.gpus import find_gpu
from launcher.market.catalog_rows import Listing, read_listings
from launcher.market.catalogs import Catalog, CouldNotLookError
from launcher.market.look import (
    Found,
    NoOfferError,
    Terms,
    Wanted,
    find_offers,
    look_for_offers,
    on_nodes,
    ranked,
)
from launcher.market.offers import LOCAL, Offer
from launcher.market.show_offers import offers_json, render_offers
from launcher.market.spot_prices import SpotPrices
from recipes.errors import InvalidInputError

NOW = 1_800_000_000.0

Golden = Callable[[str, str], None]


def look(home: Path, accelerators: str, nodes: int = 1, terms: Terms = "any") -> Found:
    return look_for_offers(
        Wanted.parse(accelerators, nodes, terms), environ={"HOME": str(home)}, clock=lambda: NOW
    )


def enable(home: Path, *clouds: str) -> None:
    """As after a `sky check`."""
    import sqlite3

    with sqlite3.connect(home / ".sky/state.db") as connection:
        connection.execute("CREATE TABLE config (key TEXT, value TEXT)")
        connection.execute(
            "INSERT INTO config VALUES ('enabled_clouds_default_compute', ?)", [json.dumps(clouds)]
        )
    connection.close()


def printed(found: Found, limit: int | None = 20) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(render_offers(found, NOW, limit))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


# ---- an offer --------------------------------------------------------------------------------


def test_an_offer_is_named_by_what_a_person_would_say() -> None:
    here = Offer(cloud=LOCAL, usd_per_hour=Decimal(1), source="recipe")
    away = Offer(
        cloud="lambda",
        region="us-west-3",
        instance_type="gpu_8x_h100_sxm5",
        accelerator="H100",
        accelerators=8,
        usd_per_hour=Decimal("23.92"),
        source="SkyPilot",
    )

    assert here.name == "this machine"
    assert away.name == "lambda gpu_8x_h100_sxm5 us-west-3"
    assert away.model_copy(update={"nodes": 2, "spot": True}).name.endswith("us-west-3 spot x2")


def test_the_price_of_an_offer_is_that_of_all_nodes_together() -> None:
    offer = Offer(
        cloud="aws", accelerators=8, nodes=2, usd_per_hour=Decimal("39.7432"), source="SkyPilot"
    )

    assert offer.usd_per_node_hour == Decimal("19.8716")
    assert offer.usd_per_gpu_hour == Decimal("2.48395")
    assert offer.model_copy(update={"accelerators": 0}).usd_per_gpu_hour is None


def test_an_offer_survives_its_file_and_its_json_has_a_name() -> None:
    offer = Offer(cloud="aws", nodes=3, usd_per_hour=Decimal("0.30"), source="SkyPilot", as_of=1.5)

    assert Offer.model_validate_json(offer.model_dump_json()) == offer
    assert offer.as_json()["name"] == "aws x3"


@pytest.mark.parametrize("wrong", [{"usd_per_hour": "-1"}, {"nodes": 0}, {"color": "red"}])
def test_an_offer_that_makes_no_sense_is_none(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Offer.model_validate({"cloud": "aws", "usd_per_hour": "1", "source": "x", **wrong})


# ---- what is asked ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "gpu", "count"), [("any", None, None), ("H100", "H100", 1), ("H100:8", "H100", 8)]
)
def test_wishes_are_read(text: str, gpu: str | None, count: int | None) -> None:
    wanted = Wanted.parse(text, nodes=2)

    assert (wanted.gpu, wanted.count, wanted.nodes) == (gpu, count, 2)


@pytest.mark.parametrize(
    "text", ["", ":8", "H100:", "H100:0", "H100:-1", "H100:x", "H100:8:8", "H100:²"]
)
def test_a_wish_that_names_no_gpu_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="write a name and a count such as H100:8"):
        Wanted.parse(text)


def test_no_nodes_at_all_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least 1 node, not 0"):
        Wanted.parse("H100:8", nodes=0)


# ---- what is found ---------------------------------------------------------------------------


@pytest.mark.golden
def test_the_cheapest_spot_h100_comes_first_by_name_region_and_price(
    sky_home: Path, golden: Golden
) -> None:
    enable(sky_home, "AWS", "GCP", "Lambda", "RunPod")

    found = look(sky_home, "H100:8")

    assert found.offers[0].name == "aws p5.48xlarge us-east-2a spot"
    assert found.offers[0].region == "us-east-2"
    assert found.offers[0].usd_per_hour == Decimal("19.8716")
    assert found.warnings == ()
    golden("offers-h100-8.txt", printed(found))


@pytest.mark.golden
def test_two_nodes_cost_twice_as_much_on_clouds_that_can_join_them(
    sky_home: Path, golden: Golden
) -> None:
    enable(sky_home, "AWS", "GCP", "Lambda", "RunPod")

    found = look(sky_home, "H100:8", nodes=2, terms="spot")

    assert found.offers[0].usd_per_hour == 2 * Decimal("19.8716")
    assert "runpod" not in {offer.cloud for offer in found.offers}
    golden("offers-h100-8-x2-spot.txt", printed(found))


@pytest.mark.parametrize("nodes", [1, 2, 8])
def test_machines_that_are_joined_are_what_a_look_for_so_many_finds(
    sky_home: Path, nodes: int
) -> None:
    enable(sky_home, "AWS", "GCP", "Lambda", "RunPod")

    assert ranked(on_nodes(look(sky_home, "any").offers, nodes)) == list(
        look(sky_home, "any", nodes).offers
    )


@pytest.mark.golden
def test_any_gpu_is_any_whose_speed_is_known(sky_home: Path, golden: Golden) -> None:
    enable(sky_home, "AWS", "GCP", "Lambda", "RunPod")

    golden("offers-any.txt", printed(look(sky_home, "any"), limit=10))


@pytest.mark.golden
def test_offers_for_programs_have_stable_keys(sky_home: Path, golden: Golden) -> None:
    enable(sky_home, "Lambda")

    golden("offers-lambda.json", json.dumps(offers_json(look(sky_home, "H100:8")), indent=2) + "\n")


def test_offers_are_ranked_by_price_and_cost_what_their_rows_say(sky_home: Path) -> None:
    offers = look(sky_home, "any", nodes=3).offers

    prices = [offer.usd_per_hour for offer in offers]
    assert prices == sorted(prices)
    assert all(offer.nodes == 3 for offer in offers)


def test_the_same_gpu_on_a_card_is_another_gpu(sky_home: Path) -> None:
    modules, cards = look(sky_home, "H100:8"), look(sky_home, "H100-PCIe:8")

    assert {offer.gpu for offer in modules.offers} == {"H100"}
    assert {offer.accelerator for offer in modules.offers} == {"H100", "H100-SXM"}
    assert [offer.instance_type for offer in cards.offers] == ["8x_H100_SECURE"] * 2
    assert look(sky_home, "H100-PCIe").offers[0].instance_type == "gpu_1x_h100_pcie"


AZURE = """\
InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Price,SpotPrice,Region
Standard_NC24ads_A100_v4,A100-80GB,1.0,24.0,220.0,x,3.67,0.9,eastus
Standard_NC40ads_H100_v5,H100,1.0,40.0,320.0,x,6.98,2.1,eastus
Standard_NC80adis_H100_v5,H100,2.0,80.0,640.0,x,13.96,4.2,eastus
Standard_ND96amsr_A100_v4,A100-80GB,8.0,96.0,1900.0,x,32.77,8.2,eastus
Standard_ND96isr_H100_v5,H100,8.0,96.0,1900.0,x,98.32,29.5,eastus
"""

VAST = """\
InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Price,SpotPrice,Region
1x-H100_SXM-32-131072,H100,1.0,32.0,128.0,x,2.1,1.2,US
1x-H100_PCIE-32-131072,H100,1.0,32.0,128.0,x,1.9,1.1,US
1x-H100_NVL-32-131072,H100,1.0,32.0,128.0,x,2.0,1.1,US
1x-H100-32-131072,H100,1.0,32.0,128.0,x,1.8,1.0,US
1x-RTX_4090-16-65536,RTX4090,1.0,16.0,64.0,x,0.4,0.2,US
"""


@pytest.mark.parametrize(
    ("cloud", "rows", "cards"),
    [
        (
            "azure",
            AZURE,
            {
                "Standard_NC24ads_A100_v4": "A100-PCIe-80GB",
                "Standard_NC40ads_H100_v5": "H100-NVL",
                "Standard_NC80adis_H100_v5": "H100-NVL",
                "Standard_ND96amsr_A100_v4": "A100-80GB",
                "Standard_ND96isr_H100_v5": "H100",
            },
        ),
        (
            "vast",
            VAST,
            {
                "1x-H100_SXM-32-131072": "H100",
                "1x-H100_PCIE-32-131072": "H100-PCIe",
                "1x-H100_NVL-32-131072": "H100-NVL",
                "1x-H100-32-131072": "H100-PCIe",
                "1x-RTX_4090-16-65536": "RTX4090",
            },
        ),
    ],
)
def test_a_card_under_the_name_of_the_module_is_known_by_its_machine(
    cloud: str, rows: str, cards: dict[str, str]
) -> None:
    """As SkyPilot's own fetchers of Azure's and Vast's catalogs name them."""
    catalog = Catalog(cloud, NOW, True, tuple(read_listings(cloud, rows.splitlines())))

    offers = find_offers(Wanted(), [catalog])

    assert {offer.instance_type: offer.gpu for offer in offers} == cards
    assert all(find_gpu(offer.gpu or "") for offer in offers)


def test_every_name_that_is_printed_can_be_asked_for(sky_home: Path) -> None:
    found = look(sky_home, "any")
    shown = printed(found, limit=None)

    for name in {f"{offer.gpu}:{offer.accelerators}" for offer in found.offers}:
        assert name in shown
        assert any(offer in found.offers for offer in look(sky_home, name).offers)


def test_a_catalogs_own_name_of_a_module_can_be_asked_for() -> None:
    rows = (
        "InstanceType,AcceleratorName,AcceleratorCount,GpuInfo,Price,Region\n"
        "8x_A100-80GB-SXM_SECURE,A100-80GB-SXM,8.0,x,13.9,US\n"
    )
    catalog = Catalog("runpod", NOW, True, tuple(read_listings("runpod", rows.splitlines())))

    for name in ("A100-80GB-SXM:8", "A100-80GB:8"):
        assert [offer.gpu for offer in find_offers(Wanted.parse(name), [catalog])] == ["A100-80GB"]


def test_names_of_gpus_may_be_written_in_any_case(sky_home: Path) -> None:
    assert look(sky_home, "h100:8").offers == look(sky_home, "H100:8").offers


def test_on_demand_a_zone_does_not_matter_and_as_spot_each_has_its_price(sky_home: Path) -> None:
    on_demand = look(sky_home, "H100:8", terms="on_demand").offers
    spot = look(sky_home, "H100:8", terms="spot").offers

    assert {offer.zone for offer in on_demand} == {None}
    assert not any(offer.spot for offer in on_demand)
    assert all(offer.spot for offer in spot)
    assert len({offer.zone for offer in spot if offer.region == "us-east-1"}) == 2
    prices = {(o.cloud, o.region, o.instance_type): o.usd_per_hour for o in on_demand}
    assert all(
        offer.on_demand_usd_per_hour == prices.get((offer.cloud, offer.region, offer.instance_type))
        for offer in spot
    )
    assert any(offer.highest_usd_per_hour > offer.usd_per_hour for offer in spot)


def test_spot_that_is_no_cheaper_than_on_demand_is_offered_only_to_those_who_ask_for_spot(
    sky_home: Path,
) -> None:
    def zones(terms: Terms) -> set[str | None]:
        offers = look(sky_home, "A100-80GB:8", terms=terms).offers
        return {offer.zone for offer in offers if offer.spot}

    assert "us-east-1d" not in zones("any")
    assert "us-east-1d" in zones("spot")


def test_zones_that_are_not_in_the_account_are_left_out(sky_home: Path) -> None:
    names = sky_home / ".sky/catalogs/v8/aws/az_mappings-frozen.csv"
    names.write_text("AvailabilityZone,AvailabilityZoneName\nuse1-az1,us-east-1b\n")

    offers = look(sky_home, "H100:8").offers

    assert {offer.region for offer in offers if offer.cloud == "aws"} == {"us-east-1"}


def test_zones_keep_their_ids_where_the_accounts_names_are_unknown(sky_home: Path) -> None:
    (sky_home / ".sky/catalogs/v8/aws/az_mappings-frozen.csv").unlink()

    assert look(sky_home, "H100:8").offers[0].zone == "use2-az1"


@given(
    st.lists(
        st.builds(
            Listing,
            cloud=st.just("aws"),
            region=st.sampled_from(["r1", "r2"]),
            zone=st.sampled_from(["a", "b", None]),
            instance_type=st.sampled_from(["p5", "p4"]),
            accelerator=st.just("H100"),
            accelerators=st.sampled_from([1, 8]),
            usd_per_hour=st.none() | st.decimals("0.01", "100", places=2),
            spot_usd_per_hour=st.none() | st.decimals("0.01", "100", places=2),
        ),
        min_size=1,
    )
)
def test_no_offer_is_cheaper_than_the_cheapest_row_and_the_first_is_as_cheap(
    listings: list[Listing],
) -> None:
    prices = [
        usd for x in listings for usd in (x.usd_per_hour, x.spot_usd_per_hour) if usd is not None
    ]
    try:
        offers = find_offers(Wanted(nodes=2), [Catalog("aws", NOW, True, tuple(listings))])
    except NoOfferError:
        assert prices == []
        return
    assert offers[0].usd_per_hour == 2 * min(prices)
    assert offers == ranked(offers)
    places = {(o.region, o.zone, o.instance_type, o.accelerators, o.spot) for o in offers}
    assert len(places) == len(offers)


# ---- prices of this moment -------------------------------------------------------------------


def test_todays_spot_prices_replace_the_catalogs_and_rank_anew(sky_home: Path) -> None:
    asked: list[Sequence[Offer]] = []

    def today(offers: Sequence[Offer]) -> SpotPrices:
        asked.append(offers)
        return SpotPrices({("p5.48xlarge", "us-east-1b"): (Decimal("11.5"), NOW)}, warnings=("w",))

    found = look_for_offers(
        Wanted.parse("H100:8", nodes=2),
        environ={"HOME": str(sky_home)},
        clock=lambda: NOW,
        spot_prices=today,
    )

    first, second = found.offers[:2]
    assert (first.zone, first.usd_per_hour) == ("us-east-1b", Decimal("23.0"))
    assert (first.source, first.as_of) == ("AWS", NOW)
    assert (second.zone, second.source) == ("us-east-2a", "SkyPilot")
    assert found.warnings[-1] == "w"
    assert all(offer.cloud == "aws" and offer.spot for offer in asked[0])


def test_aws_is_not_asked_where_none_of_its_spot_machines_is_in_question(sky_home: Path) -> None:
    def today(offers: Sequence[Offer]) -> SpotPrices:
        raise AssertionError("nobody should be asked")

    wanted = Wanted.parse("H100:8", terms="on_demand")
    look_for_offers(wanted, environ={"HOME": str(sky_home)}, spot_prices=today)


# ---- nothing found, or not looked ------------------------------------------------------------


def test_no_offer_names_what_was_looked_at_and_the_nearest(sky_home: Path) -> None:
    with pytest.raises(NoOfferError) as refused:
        look(sky_home, "H100:4")

    message = str(refused.value)
    assert refused.value.exit_code == 3
    assert "no offer of H100:4 on aws, gcp, lambda, runpod." in message
    assert "H100:1 at $2.64/h (aws p5.4xlarge us-east-2a spot)" in message
    assert "H100:8 at $19.87/h (aws p5.48xlarge us-east-2a spot)" in message
    assert "could not look" not in message


def test_no_offer_of_a_name_that_nobody_has_names_the_like(sky_home: Path) -> None:
    with pytest.raises(NoOfferError, match=r"The nearest: H100:1 at"):
        look(sky_home, "H1000")
    with pytest.raises(NoOfferError, match="No GPU there has a name like it"):
        look(sky_home, "MI300X:8")


def test_no_offer_on_these_terms_names_the_others(sky_home: Path) -> None:
    enable(sky_home, "Lambda")

    with pytest.raises(
        NoOfferError, match=r"no offer of H100:8 as spot on lambda\. The nearest: H100:8"
    ):
        look(sky_home, "H100:8", terms="spot")


def test_where_no_cloud_is_enabled_nobody_looked(sky_home: Path) -> None:
    enable(sky_home)

    with pytest.raises(CouldNotLookError, match=r"no cloud is enabled.*then `sky check`"):
        look(sky_home, "H100:8")


def test_where_skypilot_was_never_used_nobody_looked(tmp_path: Path) -> None:
    with pytest.raises(CouldNotLookError, match=r"never been used here.*`sky check`"):
        look(tmp_path, "H100:8")


def test_clusters_without_prices_are_left_out_and_that_is_said(sky_home: Path) -> None:
    enable(sky_home, "Lambda", "Kubernetes")

    assert look(sky_home, "H100:8").warnings == (
        "kubernetes is left out: nobody lists what an hour of it costs",
    )


def test_where_only_clusters_without_prices_are_enabled_nobody_looked(sky_home: Path) -> None:
    enable(sky_home, "Kubernetes")

    with pytest.raises(CouldNotLookError, match="only kubernetes is enabled"):
        look(sky_home, "H100:8")


def test_one_catalog_that_is_missing_does_not_hide_the_others(sky_home: Path) -> None:
    enable(sky_home, "Lambda", "Azure")

    (warning,) = look(sky_home, "H100:8").warnings

    assert "there is no price catalog of azure" in warning
    assert "`sky gpus list --infra azure` fetches it" in warning


def test_where_no_catalog_could_be_read_nobody_looked(sky_home: Path) -> None:
    enable(sky_home, "Azure")

    with pytest.raises(CouldNotLookError, match="there is no price catalog of azure"):
        look(sky_home, "H100:8")


def test_clouds_of_which_nothing_is_known_are_looked_at_with_a_warning(sky_home: Path) -> None:
    assert look(sky_home, "H100:8").warnings == (
        "which of aws, gcp, lambda, runpod you can use is unknown; `sky check` finds it out",
    )


def test_old_prices_are_shown_with_a_warning_and_their_age(sky_home: Path) -> None:
    enable(sky_home, "Lambda")
    wanted = Wanted.parse("H100:8")

    later = look_for_offers(
        wanted, environ={"HOME": str(sky_home)}, clock=lambda: NOW + 10 * 86_400
    )

    assert later.warnings == (
        "lambda: the prices are 10 days old; `sky gpus list --infra lambda` renews them",
    )
    assert "SkyPilot, 2 h old" in printed(later)


def test_only_the_clouds_that_are_named_are_looked_at(sky_home: Path) -> None:
    enable(sky_home, "AWS")

    found = look_for_offers(
        Wanted.parse("H100:8"), environ={"HOME": str(sky_home)}, clouds=["gcp"], clock=lambda: NOW
    )

    assert {offer.cloud for offer in found.offers} == {"gcp"}


@pytest.mark.parametrize(
    "error", [NoOfferError("H100:8", ("aws",), ("x",)), CouldNotLookError("what", "remedy")]
)
def test_errors_survive_pickling(error: Exception) -> None:
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_long_list_says_how_many_it_leaves_out(sky_home: Path) -> None:
    found = look(sky_home, "any")

    assert f"and {len(found.offers) - 3} dearer ones; --all shows them" in printed(found, limit=3)
    assert "dearer ones" not in printed(found, limit=None)
