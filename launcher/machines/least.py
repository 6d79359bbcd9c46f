"""With how much money machines are begun: with less they would go when they had hardly come.

A spot price moves, and nobody looks at it while a launch is under way, nor between two looks: what
those may take is reckoned at the highest price.
"""

from decimal import Decimal

from launcher.market.offers import Offer
from recipes.money import SECONDS_PER_HOUR, from_micro_usd, machine_micro_usd

LEAST_S = 600.0
"""With less than this no machine is rented [s]."""

LEAST_HOURS = (Decimal(LEAST_S) / SECONDS_PER_HOUR).quantize(Decimal("1e-9"), "ROUND_UP")
"""The same in hours, and never less [h]."""

LEAST_LAUNCH_S = 300.0
"""With less than this for it no launch is begun: it would be given up when hardly begun [s]."""

ENDING_S = 180.0
"""How long before the end of its money a machine that is not set up yet is given up [s]: it has no
timer, and a cloud that fails may have to be asked for a while."""

CLOSING_S = 90.0
"""How long rented machines go on costing after the worker's last word [s]."""

PRICE_EVERY_S = 60.0
"""How often AWS is asked for a spot price [s]."""

LOOK_EVERY_S = 2.0
"""How often a run on rented machines is looked at [s]; each look asks the run store."""


def working_micro_usd(offer: Offer) -> int:
    """The least for work with which machines of an offer are begun [micro-dollars]."""
    launch = machine_micro_usd(offer.highest_usd_per_hour, ENDING_S + LEAST_LAUNCH_S)
    return max(launch, machine_micro_usd(offer.usd_per_hour, LEAST_S))


def closing_micro_usd(offer: Offer, closing_s: float, look_every_s: float) -> int:
    """What is kept free of work, for giving machines back [micro-dollars].

    As spot at the highest price, and for the time until a rise is seen.
    """
    unseen_s = PRICE_EVERY_S + look_every_s if offer.moves else 0.0
    return machine_micro_usd(offer.highest_usd_per_hour, closing_s + unseen_s)


def beginning_usd(offer: Offer) -> Decimal:
    """The least with which machines of an offer are begun, giving them back included [USD]."""
    closing = closing_micro_usd(offer, CLOSING_S, LOOK_EVERY_S)
    return from_micro_usd(working_micro_usd(offer) + closing)
