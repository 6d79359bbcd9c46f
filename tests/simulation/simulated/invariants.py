"""What has to hold in every world, judged by arithmetic of its own and not by that of the books.

After each write to the ledger: spent and reserved together are within the budget, and nothing that
stands there has changed. At the birth of a machine: it is paid for and written down. While it
lives: no longer than what was reserved for it pays for, nor than the run's hours. Whenever a
teardown is called proved: nothing is left. At the end: the ledger's dollars are the cloud's.
"""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from recipes.money import machine_micro_usd
from recipes.store import Store
from recipes.store_checkpoints import newest_checkpoint
from simulated.cloud import REMEMBERED_S, Cloud, Machine
from simulated.setting import Rows
from simulated.world import SKEW_S, World

OVERSHOOT = Decimal("0.001")
"""Share of the budget that a run may pass it by."""


UNWATCHED = frozenset({"kills", "absence", "absent cloud"})
"""Troubles in which a rise of the price may not be seen, or nothing be done about it: what it costs
is not promised."""


class BrokenInvariantError(AssertionError):
    """Something that has to hold does not."""


@dataclass
class Account:
    """The money of one run, added up from the ledger's rows [micro-dollars]."""

    budget: int = 0
    reserved: dict[str, int] = field(default_factory=dict)
    settled: dict[str, dict[str, int]] = field(default_factory=dict)
    attempts: dict[int, dict[str, Any]] = field(default_factory=dict)
    ended: dict[int, float] = field(default_factory=dict)
    hours: Decimal | None = None

    def add(self, kind: str, entry: dict[str, Any]) -> None:
        match kind:
            case "opened":
                self.budget = entry["budget_micro_usd"]
                self.hours = None if entry["hours"] is None else Decimal(entry["hours"])
            case "budget_raised":
                self.budget += entry["micro_usd"]
            case "reserved":
                self.reserved[entry["reservation"]] = entry["micro_usd"]
            case "extended":
                self.reserved[entry["reservation"]] += entry["micro_usd"]
            case "settled":
                self.reserved.pop(entry["reservation"])
                self.settled[entry["reservation"]] = entry["lines"]
            case "attempt_started":
                self.attempts[entry["attempt"]] = entry
            case "attempt_ended":
                self.ended[entry["attempt"]] = entry["ended_at"]

    @property
    def spent(self) -> int:
        return sum(sum(lines.values()) for lines in self.settled.values())


class Invariants:
    """Watches over one world."""

    def __init__(self, world: World, cloud: Cloud, store: Store, book: Path) -> None:
        """
        Args:
            store: of the run.
            book: the run's `rented.jsonl`, of the home that drives it now.
        """
        self.account = Account()
        self.rows: Rows = []
        self.overshoot = Decimal(0)
        """What the cloud charged beyond the budget, as a share of it."""
        self.store = store
        self.book = book
        self._world = world
        self._cloud = cloud
        self._safe_step = 0
        # At the end the world is calm, whatever was in it before.
        self._is_watched = "moving prices" not in world.troubles or not world.troubles & UNWATCHED
        self._is_silent = bool(world.troubles & {"absent cloud", "failing cloud"})
        self._settled_at: dict[int, float] = {}
        self._reserved_for: dict[int, int] = {}

    # ---- the ledger

    def wrote(self, rows: Rows) -> None:
        """New rows stand in the ledger."""
        for seq, kind, data in rows:
            self.rows.append((seq, kind, data))
            entry = json.loads(data)
            self.account.add(kind, entry)
            if self._world.tells:
                self._world.tell(f"ledger: {kind} {_short(entry)}")
            if kind == "attempt_started":
                self._reserved_for[entry["attempt"]] = self.account.reserved.get(
                    entry["reservation"], 0
                )
            if kind == "attempt_ended":
                self._settled_at[entry["attempt"]] = self._world.now
            if kind == "teardown" and entry["proved"]:
                self._check_nothing_left("a teardown was called proved")
        account = self.account
        committed = account.spent + sum(account.reserved.values())
        if committed > account.budget * (1 + OVERSHOOT) + self._unpromised():
            self._fail(f"{committed} micro-dollars are spent or reserved of {account.budget}")

    def _unpromised(self) -> int:
        """The most that rises of the price may have cost that nobody saw [micro-dollars]."""
        if self._is_watched:
            return 0
        now = self._world.now
        return sum(
            max(0, machine.dearest(now) - self._reckoned(machine))
            for machine in self._cloud.machines
        )

    def _reckoned(self, machine: Machine) -> int:
        """What it would have cost by the price that was seen before it was rented
        [micro-dollars]."""
        attempt = self.account.attempts[machine.attempt]
        usd_per_hour = Decimal(attempt["usd_per_hour"]) / attempt["offer"]["nodes"]
        return machine_micro_usd(usd_per_hour, machine.seconds(self._world.now))

    def check_ledger(self, rows: Rows) -> None:
        """What stands there now is what was written."""
        if rows != self.rows:
            self._fail("an entry of the ledger has changed")

    # ---- machines

    def born(self, machine: Machine) -> None:
        """A machine is about to exist."""
        attempt = self.account.attempts.get(machine.attempt)
        if attempt is None or attempt["reservation"] not in self.account.reserved:
            self._fail(f"{machine.id} comes to be, and nothing is reserved for it")
        if machine.attempt in self.account.ended:
            self._fail(f"{machine.id} comes to be for attempt {machine.attempt}, which is over")
        asked_for = self.book.read_text() if self.book.exists() else ""
        if f'"attempt":{machine.attempt},' not in asked_for:
            self._fail(f"{machine.id} comes to be before its cluster is written down")
        allowed_s = min(self._paid_for_s(attempt), self._hours_left_s(attempt))
        self._world.at(allowed_s, lambda: self._check_over(machine))

    def _hours_left_s(self, attempt: dict[str, Any]) -> float:
        if self.account.hours is None:
            return float("inf")
        attempts = self.account.attempts
        used = sum(
            end - attempts[number]["started_at"] for number, end in self.account.ended.items()
        )
        begun_s = self._world.now - attempt["started_at"]
        return float(self.account.hours) * 3600 - used - begun_s + SKEW_S

    def _paid_for_s(self, attempt: dict[str, Any]) -> float:
        micro_usd = self.account.reserved[attempt["reservation"]]
        micro_usd += int(self.account.budget * OVERSHOOT)
        return float(micro_usd / Decimal(attempt["usd_per_hour"]) * 3600 / 1_000_000) + 1

    def _check_over(self, machine: Machine) -> None:
        if machine.costs:
            self._fail(f"{machine.id} lives longer than what was reserved for it, or its hours")

    # ---- checkpoints

    def stored(self, step: int) -> None:
        """A worker was told that the checkpoint of this step is safe."""
        if step > self._safe_step:
            self._safe_step = step
            self.check_checkpoint()

    def check_checkpoint(self) -> None:
        newest = newest_checkpoint(self.store) if self._safe_step else None
        if self._safe_step and (newest is None or newest.step < self._safe_step):
            self._fail(f"the checkpoint of step {self._safe_step} is lost")

    # ---- the end

    def check_end(self) -> None:
        """Everything was given back, and nothing happens any more."""
        self._check_nothing_left("all was given back")
        self.check_checkpoint()
        if self.account.reserved:
            self._fail(f"{len(self.account.reserved)} reservations are open at the end")
        bills: defaultdict[int, list[Machine]] = defaultdict(list)
        for machine in self._cloud.machines:
            bills[machine.attempt].append(machine)
        for number, attempt in self.account.attempts.items():
            lines = self.account.settled.get(attempt["reservation"], {})
            self._check_dollars(number, sum(lines.values()), bills[number])
        bill, budget = self._cloud.bill(), self.account.budget
        self.overshoot = max(Decimal(0), Decimal(bill - budget - self._unpromised()) / budget)
        if self.overshoot > OVERSHOOT:
            self._fail(f"the cloud charges {bill} micro-dollars of {budget}")

    def _check_dollars(self, attempt: int, settled: int, machines: list[Machine]) -> None:
        """The ledger's are the cloud's, to a micro-dollar a machine, where the cloud tells all.

        Where it does not say when a machine ended, ours may be more: up to the moment at which the
        end was noticed, by a launcher's clock. Where it has forgotten the machines, ours may be
        as much as was reserved. It is never less.
        """
        bill = sum(machine.bill(self._world.now) for machine in machines)
        least, most = bill - len(machines), bill + len(machines)
        settled_at = self._settled_at[attempt]
        for machine in machines:
            if not machine.tells_its_end and machine.ended_at is not None:
                unsure_s = settled_at + SKEW_S - machine.ended_at
                usd_per_hour = float(machine.market.on_demand)
                most += int(usd_per_hour * unsure_s / 3600 * 1_000_000) + 1
        begun_at = self.account.attempts[attempt]["started_at"]  # any time from then on may count
        if settled_at - begun_at > REMEMBERED_S - 600 - SKEW_S:
            most = max(most, self._reserved_for[attempt] + 1)
        if (
            bill
            > self._reserved_for[attempt] + self.account.budget * OVERSHOOT + self._unpromised()
        ):
            self._fail(f"attempt {attempt} costs {bill} micro-dollars, more than was reserved")
        if self._is_silent:  # where it has not told its prices, those on demand count
            dearest = sum(machine.dearest(self._world.now) for machine in machines)
            most += max(0, dearest - bill)
        if not self._is_watched:  # what is guessed is no more than what was reserved
            least = min(least, self._reserved_for[attempt])
        if not least <= settled <= most:
            self._fail(
                f"attempt {attempt} stands in the ledger with {settled} micro-dollars, and the "
                f"cloud charges {bill} for {len(machines)} machines (at most {most} is explained)"
            )

    def _check_nothing_left(self, when: str) -> None:
        if left := self._cloud.left():
            self._fail(f"{when}, and the cloud has {', '.join(left)}")

    def _fail(self, what: str) -> None:
        self._world.tell(f"BROKEN: {what}")
        raise BrokenInvariantError(f"world {self._world.seed}: {what}")


def _short(entry: dict[str, Any]) -> str:
    shown = {key: value for key, value in entry.items() if key not in ("recipe", "plan", "offer")}
    return ", ".join(f"{key}={value}" for key, value in shown.items() if value not in (None, ""))
