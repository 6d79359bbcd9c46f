"""Dollars. Prices are `Decimal`, amounts in the books are whole micro-dollars; never float.

One micro-dollar is $0.000001. An H100 at $3 an hour costs 833 of them a second, so a second's
rounding is about a tenth of a per cent of a cent.
"""

from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal, InvalidOperation
from fractions import Fraction

MICRO = 1_000_000
SECONDS_PER_HOUR = 3600


MOST_USD = 10_000_000
"""The largest amount that anybody may name [USD]."""


def named_usd(text: str) -> Decimal:
    """An amount that a person has typed [USD].

    Raises:
        ValueError: it is no amount, not above 0, or above `MOST_USD`.

    >>> named_usd("2.50")
    Decimal('2.50')
    """
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal(0)
    if not (amount.is_finite() and Decimal("0.000001") <= amount <= MOST_USD):
        raise ValueError(f"must be an amount in USD above 0, {MOST_USD:,} at most")
    return amount


def to_micro_usd(usd: Decimal) -> int:
    """Dollars as whole micro-dollars, to the nearest.

    >>> to_micro_usd(Decimal("0.0000015"))
    2
    """
    return int((usd * MICRO).to_integral_value(ROUND_HALF_EVEN))


def from_micro_usd(micro_usd: int) -> Decimal:
    """Whole micro-dollars as dollars, exactly.

    >>> from_micro_usd(1_500_000)
    Decimal('1.500000')
    """
    return Decimal(micro_usd).scaleb(-6)


def machine_micro_usd(usd_per_hour: Decimal, seconds: float) -> int:
    """What a machine costs for so many seconds, rounded up to a micro-dollar.

    >>> machine_micro_usd(Decimal("3.60"), 10)
    10000
    """
    exact = usd_per_hour * Decimal(repr(seconds)) * MICRO / SECONDS_PER_HOUR
    return int(exact.to_integral_value(ROUND_CEILING))


def split_micro_usd(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """`total` over the keys in proportion to their weights; the parts sum to `total` exactly.

    Largest remainder first, ties by the order given. Weights are at least 0; if all are 0 the
    whole goes to the first key.

    >>> split_micro_usd(10, {"train": 2.0, "evaluate": 1.0})
    {'train': 7, 'evaluate': 3}
    """
    if not weights:
        raise ValueError("cannot split an amount over nothing")
    keys: Sequence[str] = list(weights)
    whole = sum(Fraction(weight) for weight in weights.values())
    if whole == 0:
        return {key: total if key == keys[0] else 0 for key in keys}
    exact = {key: total * Fraction(weights[key]) / whole for key in keys}
    parts = {key: int(exact[key]) for key in keys}
    short = total - sum(parts.values())
    by_remainder = sorted(keys, key=lambda key: parts[key] - exact[key])
    for key in by_remainder[:short]:
        parts[key] += 1
    return parts


def format_usd(usd: Decimal | None) -> str:
    """Dollars for people: cents from $1 up, more digits below. `None` is unknown.

    >>> [format_usd(Decimal(x)) for x in ("23.917", "0.00123", "0", "1000")]
    ['$23.92', '$0.0012', '$0.00', '$1,000.00']
    >>> format_usd(None)
    'unknown'
    """
    if usd is None:
        return "unknown"
    if usd == 0 or abs(usd) >= 1:
        return f"${usd:,.2f}"
    return f"${usd:.4f}" if abs(usd) >= Decimal("0.0001") else f"${usd:.6f}"
