"""Whether this machine's clock can be trusted with other machines' ends.

A rented machine's timer goes by its own clock, and its end is reckoned by ours: where the two
differ by a minute, it may live and cost a minute longer. Clouds keep their machines' clocks, and
the run store's with them, right to less than a second.
"""

from collections.abc import Callable

from recipes.errors import RefusedError
from recipes.store import Store

MOST_S = 5.0
"""By so much clocks may differ [s]; within it what is promised of money and ends holds in the
simulated worlds."""


def clock_error_s(store: Store, clock: Callable[[], float]) -> float | None:
    """By how much `clock` is certainly ahead of the store's (behind it: below 0) [s].

    `None` where the store does not tell its time. 0 where the answer took long enough to explain
    the difference.
    """
    before = clock()
    there = store.clock()
    after = clock()
    if there is None:
        return None
    return max(before - (there + 1), 0.0) or min(after - there, 0.0)


def described(error_s: float) -> str:
    """
    >>> described(-90.4)
    "90 s behind the run store's"
    """
    side = "ahead of" if error_s > 0 else "behind"
    return f"{abs(error_s):.0f} s {side} the run store's"


def require_right_clock(store: Store, clock: Callable[[], float]) -> None:
    """
    Raises:
        RefusedError: this machine's clock is wrong.
        StoreError: the store did not answer.
    """
    error_s = clock_error_s(store, clock)
    if error_s is not None and abs(error_s) > MOST_S:
        raise RefusedError(
            f"this machine's clock is {described(error_s)}, and rented machines would end at the "
            "wrong time. Set it (`timedatectl set-ntp true`)"
        )
