"""What of ours is in the cloud and should not be, and what the ledger thinks is there and is not.

Pure. The cloud's own word comes in as an inventory, found by tag; the ledger is only asked whose
runs go on here, so that everything is found also by a machine that has never heard of any of it.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from launcher.machines.aws_inventory import Inventory, Thing
from tracking.books import Books

Verdict = Literal["expired", "over", "unknown", "live"]
"""`expired`: by its own tag. `over`: of a run that the ledger has closed, and rented from here.
`unknown`: of a run that this ledger has never heard of, or that somebody else goes on with. `live`:
of a run that goes on here."""

REASONS: dict[Verdict, str] = {
    "expired": "past the time that its tag says",
    "over": "its run is over",
    "unknown": "rented from elsewhere, as far as this ledger knows: perhaps somebody's",
    "live": "its run goes on",
}


@dataclass(frozen=True)
class Judged:
    """A thing, and whether somebody still wants it."""

    thing: Thing
    verdict: Verdict


@dataclass(frozen=True)
class Ghost:
    """A run that the ledger calls rented, of which the cloud has no machine."""

    run_id: str
    attempt: int


@dataclass(frozen=True)
class Swept:
    """Both kinds of mismatch between the cloud and the ledger."""

    orphans: tuple[Judged, ...]
    live: tuple[Judged, ...]
    ghosts: tuple[Ghost, ...]
    unasked: tuple[tuple[str, str], ...]
    """Places that could not be looked at, and why: nothing is proved there."""

    @property
    def is_clean(self) -> bool:
        """Nothing is left that should not be, and every place was looked at."""
        return not self.orphans and not self.unasked

    @property
    def is_clean_of_ours(self) -> bool:
        """The same, but for what may be somebody else's."""
        return not self.unasked and all(is_doubtful(one) for one in self.orphans)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "orphans": [asdict(one.thing) | {"verdict": one.verdict} for one in self.orphans],
            "live": [asdict(one.thing) for one in self.live],
            "ghosts": [asdict(ghost) for ghost in self.ghosts],
            "unasked": dict(self.unasked),
        }


def judge(inventory: Inventory, runs: Iterable[Books], owner: str, now: float) -> Swept:
    """Hold what the cloud has against what goes on.

    Args:
        owner: who we are, as our tags say it.
        runs: books of the runs that this machine knows; none where STILLHOUSE_HOME is lost.
        now: [unix s]
    """
    known = {books.run_id: books for books in runs}
    machines = {thing.run_id for thing in inventory.things if thing.kind == "instance"}
    judged = [Judged(thing, _verdict(thing, known, owner, now)) for thing in inventory.things]
    ghosts = [
        Ghost(run_id, books.open_attempt.number)
        for run_id, books in known.items()
        if books.open_attempt is not None
        and books.open_attempt.offer.get("cloud") == "aws"
        and run_id not in machines
        and not inventory.unasked
    ]
    return Swept(
        orphans=tuple(one for one in judged if one.verdict != "live"),
        live=tuple(one for one in judged if one.verdict == "live"),
        ghosts=tuple(ghosts),
        unasked=tuple(inventory.unasked.items()),
    )


def is_doubtful(one: Judged) -> bool:
    """Whether somebody may still want it: a person has to say so before it is ended."""
    return one.verdict == "unknown"


def _verdict(thing: Thing, known: dict[str, Books], owner: str, now: float) -> Verdict:
    if thing.expires_at is not None and thing.expires_at <= now:
        return "expired"
    books = known.get(thing.run_id)
    if books is None:
        return "unknown"
    if books.open_attempt is not None:
        return "live"
    # Somebody who has adopted the run may have rented it since.
    return "over" if thing.owner in (owner, None) else "unknown"
