"""Offers of 8 H100, for tests of plans."""

from decimal import Decimal

from launcher.market.offers import Offer

NOW = 1_800_000_000.0


def offer(usd: str | Decimal = "40", **fields: object) -> Offer:
    known = {
        "cloud": "aws",
        "region": "us-east-2",
        "zone": "us-east-2a",
        "instance_type": "p5.48xlarge",
        "accelerator": "H100",
        "accelerators": 8,
        "nodes": 2,
        "spot": True,
        "usd_per_hour": usd,
        "source": "test",
        "as_of": NOW,
    }
    return Offer.model_validate(known | fields)
