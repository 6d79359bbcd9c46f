"""Six bugs, planted on purpose: each is the real code but for one thing, and has to be found."""

from dataclasses import dataclass
from unittest.mock import patch

from launcher.machines import rented
from launcher.machines.aws import Leftover
from launcher.machines.rented import RentedMachines
from launcher.machines.rented_book import remember
from launcher.market.offers import Offer
from recipes.rundir import Limits, RunDir
from simulated.cloud import AwsOneByOne
from simulated.life import Parts
from tracking.entries import Entry, Line
from tracking.ledger import Ledger
from tracking.prices import Prices

WEEK_S = 7 * 24 * 3600.0


class SettlesBeforeItReserves(Ledger):
    """What is bought is reserved only when it is paid."""

    _later: tuple[str, Line, int, str] | None = None

    def reserve(self, run_id: str, line: Line, micro_usd: int, why: str = "") -> str:
        self._later = (run_id, line, micro_usd, why)
        return f"{run_id}/{self.books(run_id).reservation_count + 1}"

    def settle(self, reservation: str, lines: dict[Line, int], *along: Entry) -> None:  # type: ignore[override]
        if self._later is not None:
            super().reserve(*self._later)
            self._later = None
        super().settle(reservation, lines, *along)


class CreatesBeforeItRecords(RentedMachines):
    """What is rented is written down only when it is there."""

    def start(self, run: RunDir, offer: Offer) -> None:
        with patch.object(rented, remember.__name__) as held_back:
            try:
                super().start(run, offer)
            finally:
                for call in held_back.call_args_list:
                    remember(*call.args)


class LooksOnce(AwsOneByOne):
    """The first "nothing is left" is taken for a proof, and nobody looks again."""

    _found_nothing = False

    def leftovers(self, run_id: str) -> list[Leftover]:
        if self._found_nothing:
            return []
        found = super().leftovers(run_id)
        self._found_nothing = not found
        return found


class SeesNoChangeOfPrice(RentedMachines):
    """Money is reckoned with the price of the launch, whatever becomes of it."""

    def prices(self, offer: Offer, since: float) -> Prices | None:
        return Prices.fixed(offer.usd_per_hour)


def _whatever_is_left(limits: Limits) -> Limits:
    """Limits that do not follow from what is left of the money."""
    return limits.model_copy(update={"machine_usd": 10 * limits.machine_usd})


@dataclass(frozen=True)
class Planted:
    parts: Parts
    found_by: str
    """What the invariant says that finds it: part of its message."""


PLANTED = {
    "settle before reserve": Planted(
        Parts(ledger=SettlesBeforeItReserves), "nothing is reserved for it"
    ),
    "create before record": Planted(
        Parts(machines=CreatesBeforeItRecords), "before its cluster is written down"
    ),
    "no look at what is left of the money": Planted(
        Parts(limits=_whatever_is_left), "lives longer than what was reserved"
    ),
    "no second look at teardown": Planted(
        Parts(aws=LooksOnce), "a teardown was called proved, and the cloud has"
    ),
    "no look at the price": Planted(Parts(machines=SeesNoChangeOfPrice), "spent or reserved of"),
    "no absolute limit": Planted(
        Parts(limit_s=lambda limits, now: WEEK_S), "lives longer than what was reserved"
    ),
}
