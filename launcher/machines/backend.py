"""What a run needs of the place where its worker runs, be it this machine or a cluster far away."""

from dataclasses import dataclass
from typing import Literal, Protocol

from launcher.market.offers import Offer
from recipes.rundir import RunDir
from tracking.prices import Prices

Sight = Literal["alive", "ended", "lost"]
"""`ended`: the worker is over, whatever it says of how. `lost`: its machine was taken away."""


@dataclass(frozen=True)
class Paid:
    """One machine's paid time, by the provider's clock where it has one [unix s]."""

    started_at: float
    ended_at: float
    nodes: int = 1
    """How many machines of the attempt it stands for."""
    prices: Prices | None = None
    """Of one of them, as its provider tells later; `None`: it does not, or they never move."""
    guessed: bool = False
    """Something of this the provider did not tell: it is the most that it can have been."""


@dataclass(frozen=True)
class Released:
    """What came of giving everything back."""

    proved: bool | None
    """`True`: the provider has nothing more of the run. `None`: that is not known."""
    detail: str
    paid: tuple[Paid, ...] | None = None
    """Paid time of the attempt's machines, as the provider tells it; `None` is unknown."""


class Backend(Protocol):
    """A place where workers run. Nothing of it is remembered in the process: after a kill, another
    process asks the same questions and gets the same answers."""

    rented: bool
    """Whether its machines can be taken away: then another attempt follows one that lost its
    machine, and one that does not move is ended."""

    closing_s: float
    """How long its machines go on costing after the worker's last word [s]: kept free of work, so
    that giving back does not pass the budget."""

    def start(self, run: RunDir, offer: Offer) -> None:
        """Start a worker on the run's folder and its limits; returns when it is on its way.

        Raises:
            RefusedError: one is running already.
            ProvisionError: no machine came of this offer. One may exist all the same: `release`.
        """

    def withdraw(self, run: RunDir) -> None:
        """Have what a run stopped with not come back to its folder, nor to its next machine.

        Raises:
            StoreError: it lies somewhere that does not answer.
        """

    def look(self, run: RunDir) -> Sight:
        """Bring the folder up to date with what the worker has written, and say how it is."""

    def prices(self, offer: Offer, since: float) -> Prices | None:
        """What machines like these cost by the hour from then until now, all of them together;
        `None`: nobody tells."""

    def ask_to_save(self, run: RunDir, by: float | None = None) -> None:
        """Have the worker save and end: now, or so that all is saved by then [unix s].

        Raises:
            StoreError: it cannot be reached now.
        """

    def kill(self, run: RunDir) -> None:
        """End the worker at once."""

    def release(self, run: RunDir, attempt: int) -> Released:
        """Give back everything that costs, and ask the provider for proof. May be repeated.

        Args:
            attempt: whose paid time is wanted.
        """
