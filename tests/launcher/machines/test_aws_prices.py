"""What AWS charged for a spot machine, from its price history."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from launcher.machines.aws import Aws
from tracking.prices import Price

PLACE = "us-east-1", "us-east-1b", "p5.48xlarge"


class History:
    """EC2's client and its paginator in one: newest first, and more than was asked for."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def get_paginator(self, operation: str) -> "History":
        assert operation == "describe_spot_price_history"
        return self

    def paginate(self, **asked: Any) -> Iterator[dict[str, Any]]:
        self.asked = asked
        yield {"SpotPriceHistory": [_said(2000, "30.5"), _said(1500, "1", zone="us-east-1a")]}
        yield {"SpotPriceHistory": [_said(900, "21.5"), _said(950, "2", kind="p4d.24xlarge")]}


def _said(at: int, usd: str, zone: str = "us-east-1b", kind: str = "p5.48xlarge") -> dict[str, Any]:
    return {
        "Timestamp": datetime.fromtimestamp(at, UTC),
        "SpotPrice": usd,
        "AvailabilityZone": zone,
        "InstanceType": kind,
    }


def test_prices_are_those_of_the_machine_and_zone_oldest_first() -> None:
    history = History()

    prices = Aws(["us-east-1"], lambda _service, _region: history).spot_prices(*PLACE, 1000, 3000)

    assert prices == [Price(900.0, Decimal("21.5")), Price(2000.0, Decimal("30.5"))]
    assert history.asked["StartTime"] == datetime.fromtimestamp(1000, UTC)
    assert history.asked["EndTime"] == datetime.fromtimestamp(3000, UTC)
    assert history.asked["ProductDescriptions"] == ["Linux/UNIX"]
