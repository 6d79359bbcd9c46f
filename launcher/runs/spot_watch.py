"""Watches the spot price of an attempt's machines: where it rises, they go before their money does.

AWS changes a spot price while a machine runs, up to the price on demand and never beyond. It is
asked each minute. A rise moves the end of the money: the worker is told its new last moment and
stops there in good order, and where it does not, its machines are given back.

What is paid already is reckoned at the prices of then, but as if none had ever fallen; what AWS has
not told yet, because it is silent or was asked a moment ago, at the price on demand.
"""

from launcher.machines.least import PRICE_EVERY_S, closing_micro_usd
from launcher.market.offers import Offer
from launcher.runs.house import House
from recipes.errors import StoppedError
from recipes.money import SECONDS_PER_HOUR, from_micro_usd, machine_micro_usd
from recipes.rundir import Limits, RunDir, read_model
from recipes.store import StoreError
from tracking.books import Attempt
from tracking.entries import Repriced
from tracking.prices import Price, Prices

SOURCE = "aws spot price history"


def priced_now(house: House, offer: Offer) -> Offer:
    """The offer at the price of this moment; as it is where nobody tells."""
    told = house.backend.prices(offer, house.clock()) if offer.moves else None
    if told is None:
        return offer
    usd = told.newest.usd_per_hour
    return offer.model_copy(update={"usd_per_hour": usd, "source": SOURCE, "as_of": house.clock()})


class SpotWatch:
    """Of one attempt, by the process that drives it."""

    def __init__(self, house: House, run: RunDir, attempt: Attempt) -> None:
        self._house = house
        self._run = run
        self._attempt = attempt
        self._offer = Offer.from_json(attempt.offer)
        self._repriced = attempt.repriced
        if not self._offer.moves:
            return
        reservations = house.ledger.books(run.path.name).reservations
        self._micro_usd = sum(r.micro_usd for r in reservations if r.id == attempt.reservation)
        self._stop_at, _ = read_model(run.limits, Limits).stop_at() or (0.0, "budget")
        self._prices = attempt.prices
        self._told_at = house.clock()
        """Until when the prices are known."""
        self._asked_at = 0.0

    def look(self) -> tuple[Price, ...]:
        """See whether the price has changed, once in a while, and act on it.

        Returns:
            All changes in this attempt.

        Raises:
            StoppedError: the machines have to go now.
        """
        if not self._offer.moves:
            return ()
        now = self._house.clock()
        if now - self._asked_at >= PRICE_EVERY_S:
            self._asked_at = now
            told = self._house.backend.prices(self._offer, self._attempt.started_at)
            if told is not None:
                self._learn(told, now)
        unsure_s = self._house.clock() - self._told_at
        if self._left() <= machine_micro_usd(self._offer.highest_usd_per_hour, unsure_s):
            usd = self._prices.newest.usd_per_hour
            raise StoppedError(
                f"{self._run.path.name} stopped at its budget: its machines cost "
                f"${self._attempt.usd_per_hour:.2f} an hour at first and ${usd:.2f} now, and were "
                f"given back. What was saved stays. `still budget {self._run.path.name} --raise "
                "USD` lets it go on."
            )
        return self._repriced

    def _learn(self, told: Prices, now: float) -> None:
        run_id, usd = self._run.path.name, told.newest.usd_per_hour
        if usd != self._prices.newest.usd_per_hour:
            self._house.ledger.append(
                run_id,
                Repriced(attempt=self._attempt.number, at=now, usd_per_hour=usd, source=SOURCE),
            )
            self._repriced = (*self._repriced, Price(now, usd))
            self._house.view.say(f"the spot price is ${usd:.2f} an hour now")
        self._prices, self._told_at = told, now
        per_s = told.highest / SECONDS_PER_HOUR
        stop_at = now + float(from_micro_usd(max(0, self._left())) / per_s)
        if stop_at < self._stop_at - 1.0:
            try:
                self._house.backend.ask_to_save(self._run, by=stop_at)
            except StoreError as error:  # the run store is away: at the next look again
                self._house.view.say(str(error))
                return
            self._stop_at = stop_at

    def _left(self) -> int:
        """For work, when the prices were told, with what giving back takes set aside
        [micro-dollars]."""
        paid = self._prices.never_falling().micro_usd(self._attempt.started_at, self._told_at)
        house = self._house
        closing = closing_micro_usd(self._offer, house.backend.closing_s, house.poll_s)
        return self._micro_usd - paid - closing
