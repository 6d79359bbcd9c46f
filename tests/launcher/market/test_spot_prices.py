"""AWS's prices of this moment, asked of a client of ours."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from launcher.market.offers import Offer
from launcher.market.spot_prices import SpotPrices, ask_aws, boto3_clients

NOW = 1_800_000_000.0
BEGAN = datetime.fromtimestamp(NOW, UTC)


def price(zone: str, usd: str, hours_ago: float = 1.0, instance_type: str = "p5.48xlarge") -> Any:
    return {
        "AvailabilityZone": zone,
        "InstanceType": instance_type,
        "ProductDescription": "Linux/UNIX",
        "SpotPrice": usd,
        "Timestamp": BEGAN - timedelta(hours=hours_ago),
    }


class Region:
    """EC2 in one region, answering page by page."""

    def __init__(self, *pages: list[Any], zones: dict[str, str] | None = None) -> None:
        self.pages = pages or ([],)
        self.zones = zones or {}
        self.asked: list[dict[str, Any]] = []

    def describe_spot_price_history(self, **asked: Any) -> dict[str, Any]:
        self.asked.append(asked)
        number = int(asked.get("NextToken", 0))
        more = {"NextToken": str(number + 1)} if number + 1 < len(self.pages) else {"NextToken": ""}
        return {"SpotPriceHistory": self.pages[number], **more}

    def describe_availability_zones(self) -> dict[str, Any]:
        return {
            "AvailabilityZones": [
                {"ZoneId": zone_id, "ZoneName": name} for zone_id, name in self.zones.items()
            ]
        }


class Refusing(Region):
    def describe_spot_price_history(self, **asked: Any) -> dict[str, Any]:
        raise PermissionError("not authorized to perform ec2:DescribeSpotPriceHistory")


class Silent(Region):
    """Does not answer until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def describe_spot_price_history(self, **asked: Any) -> dict[str, Any]:
        self.let_go.wait(30)
        return super().describe_spot_price_history(**asked)


def offer(region: str, zone: str, instance_type: str = "p5.48xlarge", **changes: Any) -> Offer:
    fields = {
        "cloud": "aws",
        "region": region,
        "zone": zone,
        "instance_type": instance_type,
        "accelerator": "H100",
        "accelerators": 8,
        "spot": True,
        "usd_per_hour": Decimal("21.5"),
        "source": "SkyPilot",
        "as_of": NOW - 7200,
    }
    return Offer.model_validate({**fields, **changes})


def ask(offers: list[Offer], regions: dict[str, Region], answer_s: float = 5.0) -> SpotPrices:
    return ask_aws(offers, connect=regions.__getitem__, clock=lambda: NOW, answer_s=answer_s)


def test_each_region_is_asked_once_for_its_machines_as_linux_from_now_on() -> None:
    east, west = Region(), Region()

    ask(
        [
            offer("us-east-1", "us-east-1a"),
            offer("us-east-1", "us-east-1b"),
            offer("us-east-1", "us-east-1b", "p5.4xlarge"),
            offer("us-west-2", "us-west-2a"),
        ],
        {"us-east-1": east, "us-west-2": west},
    )

    assert east.asked == [
        {
            "InstanceTypes": ["p5.48xlarge", "p5.4xlarge"],
            "ProductDescriptions": ["Linux/UNIX"],
            "StartTime": BEGAN,
        }
    ]
    assert len(west.asked) == 1


def test_the_newest_price_of_a_zone_counts_over_all_pages_and_was_seen_now() -> None:
    east = Region(
        [price("us-east-1a", "20.1", hours_ago=9), price("us-east-1b", "23.25")],
        [price("us-east-1a", "19.75", hours_ago=2)],
        [price("us-east-1a", "30", hours_ago=30)],
    )

    prices = ask([offer("us-east-1", "us-east-1a")], {"us-east-1": east})

    assert prices.usd_per_hour == {
        ("p5.48xlarge", "us-east-1a"): (Decimal("19.75"), NOW),
        ("p5.48xlarge", "us-east-1b"): (Decimal("23.25"), NOW),
    }
    assert prices.warnings == ()


def test_an_offer_takes_the_price_for_all_its_nodes_and_the_zones_name() -> None:
    east = Region([price("us-east-1b", "19.75")], zones={"use1-az1": "us-east-1b"})
    catalogs = offer("us-east-1", "use1-az1", nodes=2, usd_per_hour=Decimal(43))

    now = ask([catalogs], {"us-east-1": east}).applied(catalogs)

    assert (now.zone, now.usd_per_hour) == ("us-east-1b", Decimal("39.50"))
    assert (now.source, now.as_of) == ("AWS", NOW)


@pytest.mark.parametrize(
    "other",
    [
        offer("us-east-1", "us-east-1z"),
        offer("us-east-1", "us-east-1b", "p4d.24xlarge"),
        offer("us-east-1", "us-east-1b", spot=False),
        offer("us-central1", "us-central1-a", cloud="gcp"),
    ],
)
def test_an_offer_that_aws_said_nothing_of_stays_as_it_was(other: Offer) -> None:
    prices = SpotPrices({("p5.48xlarge", "us-east-1b"): (Decimal(1), NOW)})

    assert prices.applied(other) == other


@pytest.mark.parametrize(("usd", "believed"), [("0.00001", False), ("2.16", True), ("216", False)])
def test_a_price_ten_times_off_the_catalogs_is_passed_over_with_a_warning(
    usd: str, believed: bool
) -> None:
    east = Region(
        [price("us-east-1b", usd), price("us-east-1c", "20")],
        zones={"use1-az1": "us-east-1b", "use1-az2": "us-east-1c"},
    )
    catalogs = offer("us-east-1", "use1-az1", nodes=2, usd_per_hour=Decimal(43))
    beside = offer("us-east-1", "use1-az2")

    prices = ask([catalogs, beside], {"us-east-1": east})

    now = prices.applied(catalogs)
    assert now.zone == "us-east-1b"
    assert now.usd_per_hour == (2 * Decimal(usd) if believed else Decimal(43))
    assert prices.applied(beside).usd_per_hour == Decimal(20)
    assert prices.warnings == (
        ()
        if believed
        else (
            "AWS's spot price is not believed, the catalog's is shown "
            f"(p5.48xlarge in us-east-1b: ${usd}/h, by the catalog $21.50/h)",
        )
    )


def test_a_region_that_refuses_costs_a_warning_and_the_others_still_count() -> None:
    regions = {
        "us-east-1": Region([price("us-east-1a", "20")]),
        "eu-west-1": Refusing(),
        "eu-west-2": Refusing(),
    }

    prices = ask([offer(region, f"{region}a") for region in regions], regions)

    assert list(prices.usd_per_hour) == [("p5.48xlarge", "us-east-1a")]
    assert prices.warnings == (
        "AWS did not tell today's spot prices, so the catalog's are shown (eu-west-1, eu-west-2: "
        "not authorized to perform ec2:DescribeSpotPriceHistory)",
    )


def test_a_region_that_does_not_answer_is_not_waited_for() -> None:
    silent = Silent()

    prices = ask(
        [offer("us-east-1", "us-east-1a"), offer("us-west-2", "us-west-2a")],
        {"us-east-1": silent, "us-west-2": Region([price("us-west-2a", "20")])},
        answer_s=0.2,
    )
    silent.let_go.set()

    assert list(prices.usd_per_hour) == [("p5.48xlarge", "us-west-2a")]
    assert "us-east-1: it took too long" in prices.warnings[0]


@pytest.mark.parametrize("answer", [[{"nonsense": 1}], [price("us-east-1a", "free")]])
def test_an_answer_that_makes_no_sense_is_a_warning(answer: list[Any]) -> None:
    prices = ask([offer("us-east-1", "us-east-1a")], {"us-east-1": Region(answer)})

    assert prices.usd_per_hour == {}
    assert len(prices.warnings) == 1


def test_a_client_that_cannot_be_made_is_a_warning() -> None:
    def broken(_region: str) -> Any:
        raise LookupError("the config profile (work) could not be found")

    prices = ask_aws([offer("us-east-1", "us-east-1a")], connect=broken)

    assert prices.usd_per_hour == {}
    assert "profile (work) could not be found" in prices.warnings[0]


def test_nobody_is_asked_where_no_offer_is_spot_on_aws() -> None:
    def broken(_region: str) -> Any:
        raise AssertionError("nobody should be asked")

    assert ask_aws([offer("r", "z", spot=False)], connect=broken) == SpotPrices()
    assert ask_aws([], connect=broken) == SpotPrices()


@pytest.fixture
def aws_environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """An environment without anything of AWS, but for what is set."""

    def setting(**variables: str) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            monkeypatch.setenv(name, "/dev/null")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return setting


def test_without_credentials_aws_is_not_asked(aws_environment: Callable[..., None]) -> None:
    aws_environment()

    assert boto3_clients() is None
    assert ask_aws([offer("us-east-1", "us-east-1a")]) == SpotPrices()


def test_with_credentials_there_is_a_client_of_each_region_that_gives_up_soon(
    aws_environment: Callable[..., None],
) -> None:
    aws_environment(AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="testing")

    connect = boto3_clients()

    assert connect is not None
    client = connect("eu-north-1")
    assert client.meta.region_name == "eu-north-1"
    assert client.meta.config.connect_timeout + client.meta.config.read_timeout < 10
