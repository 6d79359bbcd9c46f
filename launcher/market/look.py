"""Every way to rent the wanted GPUs now, the cheapest first.

`find_offers` is pure: catalogs in, offers out. `look_for_offers` reads the catalogs of the clouds
that are enabled and, where there are AWS credentials, replaces its spot prices by today's. Not to
have found an offer (`NoOfferError`) and not to have been able to look (`CouldNotLookError`) are two
things, and never told as the other.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from launcher.estimate.gpus import find_gpu
from launcher.market.catalog_rows import Listing
from launcher.market.catalogs import (
    Catalog,
    CouldNotLookError,
    catalog_clouds,
    enabled_clouds,
    read_catalog,
    sky_folder,
    zone_names,
)
from launcher.market.cloud_limits import NO_PRICES, ONE_NODE_ONLY
from launcher.market.offers import Offer, gpu_of
from recipes.errors import InvalidInputError, RefusedError
from recipes.money import format_usd

if TYPE_CHECKING:
    from launcher.market.spot_prices import SpotPrices

Key = TypeVar("Key")

Terms = Literal["any", "spot", "on_demand"]
"""`any`: spot and on demand. A machine on demand stays; one on spot may be taken away."""

NEAREST = 4
"""So many of the nearest offers are named where there is none."""


class NoOfferError(RefusedError):
    """The catalogs were read, and nothing in them is what was asked for."""

    def __init__(self, wanted: str, looked_at: tuple[str, ...], nearest: tuple[str, ...]) -> None:
        self.wanted = wanted
        self.looked_at = looked_at
        self.nearest = nearest
        super().__init__(wanted, looked_at, nearest)

    def __str__(self) -> str:
        near = "; ".join(self.nearest)
        return f"no offer of {self.wanted} on {', '.join(self.looked_at)}. " + (
            f"The nearest: {near}." if near else "No GPU there has a name like it."
        )


@dataclass(frozen=True)
class Wanted:
    """What is asked of the market."""

    gpu: str | None = None
    """Name of the GPU; `None`: any whose speed is known."""
    count: int | None = None
    """GPUs of one node; `None`: any number."""
    nodes: int = 1
    terms: Terms = "any"

    @classmethod
    def parse(cls, accelerators: str, nodes: int = 1, terms: Terms = "any") -> "Wanted":
        """Read `any`, `H100` (one) or `H100:8`.

        Raises:
            InvalidInputError: it is none of these, or there are no nodes.
        """
        if nodes < 1:
            raise InvalidInputError(f"there must be at least 1 node, not {nodes}")
        if accelerators == "any":
            return cls(nodes=nodes, terms=terms)
        gpu, colon, count = accelerators.partition(":")
        if not gpu or (colon and not (count.isascii() and count.isdigit() and int(count))):
            raise InvalidInputError(
                f"{accelerators!r} names no GPU: write a name and a count such as H100:8, or any"
            )
        return cls(gpu=gpu, count=int(count or 1), nodes=nodes, terms=terms)

    def __str__(self) -> str:
        gpus = self.gpu or "any GPU"
        if self.count is not None:
            gpus += f":{self.count}"
        nodes = f" on {self.nodes} nodes" if self.nodes > 1 else ""
        return gpus + nodes + {"any": "", "spot": " as spot", "on_demand": " on demand"}[self.terms]

    def is_met_by(self, listing: Listing) -> bool:
        """Whether the machine has the GPUs that are wanted and can be had so many times."""
        return (
            (self.count is None or listing.accelerators == self.count)
            and self._is_kind(listing)
            and (self.nodes == 1 or listing.cloud not in ONE_NODE_ONLY)
        )

    def _is_kind(self, listing: Listing) -> bool:
        name = gpu_of(listing.cloud, listing.accelerator, listing.instance_type)
        known = _known_gpu(name)
        if self.gpu is None:
            return known is not None
        return name.lower() == self.gpu.lower() or (
            known is not None and known is _known_gpu(self.gpu)
        )


_known_gpu = cache(find_gpu)


@dataclass(frozen=True)
class Found:
    """What came of looking."""

    wanted: Wanted
    offers: tuple[Offer, ...]
    """At least one; the cheapest first."""
    warnings: tuple[str, ...] = ()
    """What a person should know of these prices, and the command that mends it."""


def find_offers(wanted: Wanted, catalogs: Sequence[Catalog]) -> list[Offer]:
    """Offers that meet what is wanted, the cheapest first.

    On demand a price is that of a whole region, and any of its zones will do; as spot each zone has
    its own. A spot offer that is no cheaper than the same machine on demand is left out, unless
    only spot is asked for.

    Raises:
        NoOfferError: there is none; names the nearest.
    """
    offers = _offers(wanted, catalogs)
    if not offers:
        looked_at = tuple(catalog.cloud for catalog in catalogs)
        raise NoOfferError(str(wanted), looked_at, tuple(_nearest(wanted, catalogs)))
    return offers


def look_for_offers(
    wanted: Wanted,
    *,
    environ: Mapping[str, str] = os.environ,
    clock: Callable[[], float] = time.time,
    clouds: Sequence[str] | None = None,
    spot_prices: "Callable[[Sequence[Offer]], SpotPrices] | None" = None,
) -> Found:
    """Look at what SkyPilot has on this machine, and at AWS's spot prices of this moment.

    Args:
        wanted: which GPUs, how many, on what terms.
        environ: says where SkyPilot keeps its things.
        clock: unix seconds.
        clouds: look at these; left out: those that `sky check` enabled.
        spot_prices: asks AWS what the given spot offers cost now; `None`: prices are the catalog's.

    Raises:
        NoOfferError: looked, and nothing fits.
        CouldNotLookError: no cloud is enabled, or no catalog could be read.
    """
    sky = sky_folder(environ)
    chosen, warnings = _clouds_to_look_at(sky, clouds)
    catalogs, unread = _read(sky, chosen)
    now = clock()
    old = [warning for catalog in catalogs if (warning := catalog.age_warning(now))]
    offers = find_offers(wanted, catalogs)
    said: Sequence[str] = ()
    aws_spot = [offer for offer in offers if offer.cloud == "aws" and offer.spot]
    if spot_prices is not None and aws_spot:
        live = spot_prices(aws_spot)
        offers, said = ranked(live.applied(offer) for offer in offers), live.warnings
    return Found(wanted, tuple(offers), (*warnings, *unread, *old, *said))


def ranked(offers: Iterable[Offer]) -> list[Offer]:
    """The cheapest first; at the same price those that stay before those that may be taken away."""
    return sorted(offers, key=lambda offer: (offer.usd_per_hour, offer.spot, offer.name))


def on_nodes(single: Iterable[Offer], nodes: int) -> list[Offer]:
    """So many machines together of each offer of one, where its cloud can join them."""
    return [
        offer.model_copy(
            update={
                "nodes": nodes,
                "usd_per_hour": offer.usd_per_hour * nodes,
                "on_demand_usd_per_hour": _times(offer.on_demand_usd_per_hour, nodes),
            }
        )
        for offer in single
        if nodes == 1 or offer.cloud not in ONE_NODE_ONLY
    ]


def _times(usd: Decimal | None, nodes: int) -> Decimal | None:
    return None if usd is None else usd * nodes


# ---- from listings to offers -----------------------------------------------------------------


class _Kind(NamedTuple):
    """Machines of one kind in one region of a cloud."""

    region: str
    instance_type: str
    accelerator: str
    accelerators: int


def _offers(wanted: Wanted, catalogs: Iterable[Catalog]) -> list[Offer]:
    return ranked(offer for catalog in catalogs for offer in _offers_of(wanted, catalog))


def _offers_of(wanted: Wanted, catalog: Catalog) -> Iterator[Offer]:
    on_demand: dict[_Kind, Decimal] = {}
    spot: dict[tuple[_Kind, str | None], Decimal] = {}
    for listing in filter(wanted.is_met_by, catalog.listings):
        kind = _Kind(
            listing.region, listing.instance_type, listing.accelerator, listing.accelerators
        )
        _keep_lower(on_demand, kind, listing.usd_per_hour)
        _keep_lower(spot, (kind, listing.zone), listing.spot_usd_per_hour)
    if wanted.terms != "spot":
        for kind, usd in on_demand.items():
            yield _offer(wanted, catalog, kind, None, usd, None, spot=False)
    if wanted.terms != "on_demand":
        for (kind, zone), usd in spot.items():
            if wanted.terms == "spot" or kind not in on_demand or usd < on_demand[kind]:
                yield _offer(wanted, catalog, kind, zone, usd, on_demand.get(kind), spot=True)


def _keep_lower(prices: dict[Key, Decimal], key: Key, usd: Decimal | None) -> None:
    if usd is not None and (key not in prices or usd < prices[key]):
        prices[key] = usd


def _offer(
    wanted: Wanted,
    catalog: Catalog,
    kind: _Kind,
    zone: str | None,
    usd: Decimal,
    on_demand_usd: Decimal | None,
    *,
    spot: bool,
) -> Offer:
    return Offer(
        cloud=catalog.cloud,
        zone=zone,
        **kind._asdict(),
        nodes=wanted.nodes,
        spot=spot,
        usd_per_hour=usd * wanted.nodes,
        on_demand_usd_per_hour=_times(on_demand_usd, wanted.nodes),
        source="SkyPilot",
        as_of=catalog.as_of,
    )


def _nearest(wanted: Wanted, catalogs: Sequence[Catalog]) -> Iterator[str]:
    """What comes closest: the same GPU in other numbers or on other terms, else names like it."""
    alike = _offers(replace(wanted, count=None, terms="any"), catalogs)
    if not alike and wanted.gpu is not None:
        names = {
            gpu_of(listing.cloud, listing.accelerator, listing.instance_type)
            for catalog in catalogs
            for listing in catalog.listings
        }
        for name in get_close_matches(wanted.gpu, names, n=NEAREST, cutoff=0.5):
            alike += _offers(Wanted(gpu=name, nodes=wanted.nodes), catalogs)
    cheapest: dict[tuple[str | None, int, bool], Offer] = {}
    for offer in alike:
        cheapest.setdefault((offer.gpu, offer.accelerators, offer.spot), offer)
    count = wanted.count or 1
    closest = sorted(cheapest.values(), key=lambda offer: abs(offer.accelerators - count))
    for offer in closest[:NEAREST]:
        yield (
            f"{offer.gpu}:{offer.accelerators} at {format_usd(offer.usd_per_hour)}/h ({offer.name})"
        )


# ---- what to look at -------------------------------------------------------------------------


def _clouds_to_look_at(sky: Path, asked: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Clouds, and what a person should know of the choice."""
    if asked is not None:
        return list(asked), []
    enabled = enabled_clouds(sky)
    if enabled is None:
        here = list(catalog_clouds(sky))
        if not here:
            raise CouldNotLookError(
                "SkyPilot has never been used here: no cloud is enabled and there is no catalog",
                "`sky check` finds out which clouds you can use.",
            )
        return here, [
            f"which of {', '.join(here)} you can use is unknown; `sky check` finds it out"
        ]
    if not enabled:
        raise CouldNotLookError(
            "no cloud is enabled", "Set up the credentials of one, then `sky check`."
        )
    priced = [cloud for cloud in enabled if cloud not in NO_PRICES]
    unpriced = [cloud for cloud in enabled if cloud in NO_PRICES]
    if not priced:
        raise CouldNotLookError(
            f"only {', '.join(unpriced)} is enabled, and nobody lists what an hour of it costs",
            "Set up the credentials of a cloud, then `sky check`.",
        )
    return priced, [
        f"{cloud} is left out: nobody lists what an hour of it costs" for cloud in unpriced
    ]


def _read(sky: Path, clouds: Sequence[str]) -> tuple[list[Catalog], list[str]]:
    """The catalogs that could be read, and for each of the others why not.

    Raises:
        CouldNotLookError: none could.
    """
    names, catalogs, failures = zone_names(sky), [], []
    for cloud in clouds:
        try:
            catalog = read_catalog(sky, cloud)
        except CouldNotLookError as error:
            failures.append(error)
        else:
            catalogs.append(_with_zone_names(catalog, names) if cloud == "aws" else catalog)
    if failures and not catalogs:
        raise failures[0]
    return catalogs, [f"{error.what}. {error.remedy}" for error in failures]


def _with_zone_names(catalog: Catalog, names: Mapping[str, str]) -> Catalog:
    """AWS's zones by their names in this account; those that are not in it are left out."""
    if not names:
        return catalog
    return replace(
        catalog,
        listings=tuple(
            listing._replace(zone=name)
            for listing in catalog.listings
            if (name := names.get(listing.zone or ""))
        ),
    )
