"""A teacher behind an API is asked from this machine, before anything is rented.

So its key never lies on a rented machine, and no GPU waits for somebody else's answers.
"""

from decimal import Decimal

from launcher.machines.backend import Backend, Released, Sight
from launcher.market.offers import LOCAL, Offer
from recipes.rundir import Limits, RunDir, read_model
from tracking.prices import Prices

HOME = Offer(cloud=LOCAL, usd_per_hour=Decimal(0), source="asking a teacher rents nothing")


class TeacherAtHome:
    """A `Backend`: attempts that only ask the teacher run here, all others on rented machines."""

    rented = True

    def __init__(self, home: Backend, rented: Backend) -> None:
        self._home = home
        self._rented = rented
        self.closing_s = rented.closing_s

    def start(self, run: RunDir, offer: Offer) -> None:
        self._place(run).start(run, offer)

    def look(self, run: RunDir) -> Sight:
        return self._place(run).look(run)

    def prices(self, offer: Offer, since: float) -> Prices | None:
        return self._rented.prices(offer, since)

    def ask_to_save(self, run: RunDir, by: float | None = None) -> None:
        self._place(run).ask_to_save(run, by)

    def withdraw(self, run: RunDir) -> None:
        self._rented.withdraw(run)

    def kill(self, run: RunDir) -> None:
        self._place(run).kill(run)

    def release(self, run: RunDir, attempt: int) -> Released:
        place = self._place(run)
        if place is self._home:
            place.kill(run)
        return place.release(run, attempt)

    def _place(self, run: RunDir) -> Backend:
        begun = run.limits.exists()
        return self._home if begun and read_model(run.limits, Limits).only else self._rented
