"""What AWS asks for spot machines at this moment.

A catalog's spot price is hours old; EC2 tells today's for the asking, free of charge. Regions are
asked at the same time, each for a few seconds at most. Nothing here can fail a plan: where AWS does
not answer, or says what cannot be, the catalog's price stays and a warning says so.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from launcher.market.offers import Offer
from recipes.privacy import redacted

SOURCE = "AWS"

ANSWER_S = 8.0
"""All regions have so long to answer [s]."""

BELIEVED_FACTOR = 10
"""A price that is so many times the catalog's, or a catalog's so many times it, is a mistake."""

THREADS = 16

Ec2 = Any
"""boto3's EC2 client of one region, or what a test puts in its place."""


@dataclass(frozen=True)
class SpotPrices:
    """What AWS said."""

    usd_per_hour: dict[tuple[str, str], tuple[Decimal, float]] = field(default_factory=dict)
    """(instance type, name of the zone) -> price of one machine [USD/h], when it was seen
    [unix s]."""
    zone_names: dict[str, str] = field(default_factory=dict)
    """Id of a zone -> its name in this account."""
    warnings: tuple[str, ...] = ()

    def applied(self, offer: Offer) -> Offer:
        """The offer at AWS's price, its zone by name; unchanged where AWS said nothing of it."""
        if offer.cloud != "aws" or not offer.spot or offer.zone is None:
            return offer
        zone = self.zone_names.get(offer.zone, offer.zone)
        said = self.usd_per_hour.get((offer.instance_type or "", zone))
        changed: dict[str, Any] = {"zone": zone}
        if said is not None:
            usd, seen_at = said
            changed |= {"usd_per_hour": usd * offer.nodes, "source": SOURCE, "as_of": seen_at}
        return offer.model_copy(update=changed)


def ask_aws(
    offers: Sequence[Offer],
    connect: Callable[[str], Ec2] | None = None,
    clock: Callable[[], float] = time.time,
    answer_s: float = ANSWER_S,
) -> SpotPrices:
    """Today's prices of spot offers on AWS.

    Args:
        offers: which machines in which regions; others than AWS's spot offers are passed over.
        connect: makes the EC2 client of a region; `None`: boto3 by this machine's credentials.
        clock: unix seconds.
        answer_s: how long to wait for all regions together [s].
    """
    types_of: dict[str, set[str]] = defaultdict(set)
    for offer in offers:
        if offer.cloud == "aws" and offer.spot and offer.region and offer.instance_type:
            types_of[offer.region].add(offer.instance_type)
    if not types_of:
        return SpotPrices()
    try:
        connect = connect or boto3_clients()
        clients = {region: connect(region) for region in sorted(types_of)} if connect else {}
    except Exception as error:  # noqa: BLE001 - whatever it is, the catalog's prices are left
        return SpotPrices(warnings=(_warning({str(error): sorted(types_of)}),))
    answers: dict[str, Future[_Answer]] = {}
    executor = ThreadPoolExecutor(THREADS, thread_name_prefix="spot-prices")
    for region, client in clients.items():
        answers[region] = executor.submit(_ask, client, sorted(types_of[region]), clock)
    wait(answers.values(), timeout=answer_s)
    executor.shutdown(wait=False, cancel_futures=True)
    return _believable(_together(answers), offers)


def boto3_clients() -> Callable[[str], Ec2] | None:
    """Makes EC2 clients that give up soon; `None` where this machine has no AWS credentials."""
    import boto3
    from botocore.config import Config

    session = boto3.Session()
    if session.get_credentials() is None:
        return None
    config = Config(
        connect_timeout=2, read_timeout=4, retries={"total_max_attempts": 2, "mode": "standard"}
    )
    return lambda region: session.client("ec2", region_name=region, config=config)


@dataclass(frozen=True)
class _Answer:
    """What one region said."""

    usd_per_hour: dict[tuple[str, str], tuple[Decimal, float]]
    zone_names: dict[str, str]


def _ask(client: Ec2, instance_types: list[str], clock: Callable[[], float]) -> _Answer:
    now = clock()
    newest: dict[tuple[str, str], datetime] = {}
    prices: dict[tuple[str, str], tuple[Decimal, float]] = {}
    for said in _history(client, instance_types, now):
        key = (said["InstanceType"], said["AvailabilityZone"])
        if key not in newest or said["Timestamp"] > newest[key]:
            newest[key] = said["Timestamp"]
            # A price holds until the next one, so it was seen now, whenever it began.
            prices[key] = (Decimal(said["SpotPrice"]), now)
    zones = client.describe_availability_zones()["AvailabilityZones"]
    return _Answer(prices, {zone["ZoneId"]: zone["ZoneName"] for zone in zones})


def _history(client: Ec2, instance_types: list[str], now: float) -> Iterator[Mapping[str, Any]]:
    """Prices that hold now: a history that starts now begins with them."""
    asked: dict[str, Any] = {
        "InstanceTypes": instance_types,
        "ProductDescriptions": ["Linux/UNIX"],
        "StartTime": datetime.fromtimestamp(now, UTC),
    }
    while True:
        page = client.describe_spot_price_history(**asked)
        yield from page["SpotPriceHistory"]
        if not page.get("NextToken"):
            return
        asked["NextToken"] = page["NextToken"]


def _together(answers: Mapping[str, "Future[_Answer]"]) -> SpotPrices:
    prices: dict[tuple[str, str], tuple[Decimal, float]] = {}
    names: dict[str, str] = {}
    silent: dict[str, list[str]] = defaultdict(list)
    for region, future in answers.items():
        if not future.done():
            silent["it took too long"].append(region)
        elif error := future.exception():
            silent[str(error)].append(region)
        else:
            prices |= future.result().usd_per_hour
            names |= future.result().zone_names
    return SpotPrices(prices, names, (_warning(silent),) if silent else ())


def _believable(said: SpotPrices, offers: Sequence[Offer]) -> SpotPrices:
    """What AWS said, without prices that are far away from the catalog's."""
    doubted: dict[tuple[str, str], str] = {}
    for offer in offers:
        key = (offer.instance_type or "", said.zone_names.get(offer.zone or "", offer.zone or ""))
        if not offer.spot or key not in said.usd_per_hour:
            continue
        usd, catalogs = said.usd_per_hour[key][0], offer.usd_per_node_hour
        if not catalogs / BELIEVED_FACTOR <= usd <= catalogs * BELIEVED_FACTOR:
            doubted[key] = f"{key[0]} in {key[1]}: ${usd:f}/h, by the catalog ${catalogs:.2f}/h"
    if not doubted:
        return said
    kept = {key: price for key, price in said.usd_per_hour.items() if key not in doubted}
    warning = (
        f"AWS's spot price is not believed, the catalog's is shown ({'; '.join(doubted.values())})"
    )
    return replace(said, usd_per_hour=kept, warnings=(*said.warnings, warning))


def _warning(silent: Mapping[str, Sequence[str]]) -> str:
    """One sentence, whatever went wrong in however many regions."""
    why = "; ".join(
        f"{', '.join(regions)}: {' '.join(redacted(reason).split())[:200]}"
        for reason, regions in silent.items()
    )
    return f"AWS did not tell today's spot prices, so the catalog's are shown ({why})"
