"""What a world begins with: a recipe and its plan, an empty ledger, and nobody who looks."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from functools import cache
from pathlib import Path
from unittest.mock import patch

from launcher.market.offers import Offer
from launcher.plans.plan import Alternative, CostLine, Plan, Quantiles
from recipes.recipe import Recipe
from simulated.cloud import INSTANCE_TYPE
from simulated.world import World
from tracking import ledger as ledger_module
from tracking.ledger import Ledger

Rows = list[tuple[int, str, str]]
"""Of the ledger: number, kind, JSON."""

ON_DEMAND = Decimal(2)
"""So many times the price of the cheapest offer is that of a machine on demand, everywhere."""

RECIPE = {
    "name": "simulated",
    "teacher": {"kind": "none"},
    "student": {"kind": "pretrained", "model": "a/b"},
    "data": {"kind": "generated", "rows": 10, "prompt": "{question}", "completion": "{answer}"},
    "training": {"steps": 100, "batch_size": 2, "learning_rate": 0.001},
    "hardware": {"accelerators": "H100:8"},
    "budget": {"usd": "1.00"},
}


# ---- the ledger -------------------------------------------------------------------------------


@contextmanager
def ledger_of(
    folder: Path, kind: type[Ledger], world: World, on_written: Callable[[Rows], None]
) -> Iterator[Ledger]:
    """A ledger whose processes may be killed before and after each write."""

    class Watchful(kind):  # type: ignore[valid-type, misc]
        _last = 0

        @contextmanager
        def _writing(self) -> Iterator[None]:
            world.boundary("before it writes to the ledger")
            with super()._writing():
                yield
            new = rows_of(self, self._last)
            if new:
                self._last = new[-1][0]
                on_written(new)
            world.boundary("after it wrote to the ledger")

    path = folder / "ledger.db"
    if not _EMPTY:
        _EMPTY.append(_empty_ledger(path))
    with (
        patch.object(ledger_module, "open_database", _in_memory),
        Watchful(path, world.clock()) as ledger,
    ):
        yield ledger


def rows_of(ledger: Ledger, after: int = 0) -> Rows:
    return ledger._db.execute(
        "SELECT seq, kind, data FROM entries WHERE seq > ? ORDER BY seq", (after,)
    ).fetchall()


_EMPTY: list[bytes] = []


def _empty_ledger(path: Path) -> bytes:
    """A ledger as it is made on a disk, to be copied into memory."""
    with Ledger(path) as ledger:
        ledger._db.execute("PRAGMA journal_mode = DELETE")
        return ledger._db.serialize()


def _in_memory(path: Path, patience_s: float) -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    db.deserialize(_EMPTY[0])
    return db


# ---- what is to be done -----------------------------------------------------------------------


_RECIPE = Recipe.model_validate(RECIPE)


def recipe_of(budget_usd: Decimal, hours: Decimal | None) -> Recipe:
    """A recipe that rents, with this budget; checked once for all worlds."""
    budget = _RECIPE.budget.model_copy(update={"usd": budget_usd, "hours": hours})
    return _RECIPE.model_copy(update={"budget": budget})


@cache
def plan_of(nodes: int, usd_per_hour: Decimal) -> Plan:
    """Three ways to rent, in two regions; one of them not spot."""
    offers = [
        Offer(
            cloud="aws",
            region=zone[:-1],
            zone=zone,
            instance_type=INSTANCE_TYPE,
            accelerator="H100",
            accelerators=8,
            nodes=nodes,
            spot=spot,
            usd_per_hour=usd_per_hour * factor,
            on_demand_usd_per_hour=usd_per_hour * ON_DEMAND if spot else None,
            source="simulated",
        )
        for zone, spot, factor in (
            ("us-east-1a", True, Decimal(1)),
            ("us-west-2b", True, Decimal("1.1")),
            ("us-west-2c", False, ON_DEMAND),
        )
    ]
    hours = {"boot": Decimal("0.02"), "train": Decimal("0.03"), "evaluate": Decimal("0.005")}
    lines = tuple(
        CostLine(
            name=name,
            quantity=Quantiles(p10=each, p50=each, p90=each),
            unit="h",
            usd_per_unit=usd_per_hour,
        )
        for name, each in hours.items()
    )
    return Plan(
        recipe="simulated",
        offer=offers[0],
        lines=lines,
        assumptions=(),
        work="work",
        units={"train": 100},
        checkpoint_s=60.0,
        alternatives=tuple(Alternative(offer=offer, careful_hours=hours) for offer in offers),
    )
