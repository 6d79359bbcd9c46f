"""What AWS charges by the hour for a machine whose price moves, as its price history tells."""

from collections.abc import Callable, Sequence

from launcher.machines.aws import Aws
from launcher.market.offers import Offer
from launcher.market.spot_prices import BELIEVED_FACTOR
from tracking.prices import Prices


def node_prices(
    aws: Callable[[Sequence[str]], Aws], offer: Offer, since: float, until: float
) -> Prices | None:
    """Of one machine of an offer, in its zone; `None` where the price does not move, or nobody
    tells.

    Args:
        aws: `regions -> Aws`.
        since, until: the time that is asked for [unix s].
    """
    if not (offer.moves and offer.region and offer.zone and offer.instance_type):
        return None
    place = offer.region, offer.zone, offer.instance_type
    try:
        told = aws([offer.region]).spot_prices(*place, since, until)
    except Exception:  # noqa: BLE001 - whatever it is, nobody tells
        return None
    likely = offer.usd_per_node_hour
    highest = max(likely * BELIEVED_FACTOR, offer.highest_usd_per_hour / offer.nodes)
    believed = [
        price for price in told if likely / BELIEVED_FACTOR <= price.usd_per_hour <= highest
    ]
    if not believed:  # AWS says nothing of them: the price of the offer is all there is
        return Prices.fixed(likely)
    return Prices(tuple(believed))
