"""What was rented for a run, in its folder (`rented.jsonl`).

Each cluster stands here before it is asked for, so that whoever comes later, after a kill at any
moment, knows what to look for.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from launcher.market.offers import LOCAL, Offer
from recipes.recipe import Part
from recipes.rundir import RunDir, open_for_appending, read_lines, sync_folder, write_atomically
from tracking.books import Attempt


class Rented(Part):
    """One cluster that was asked for."""

    attempt: int
    cluster: str
    offer: Offer
    elsewhere: bool = False
    """Another home asked for it, so that SkyPilot here knows nothing of it."""


def cluster_name(run: RunDir, attempt: int) -> str:
    """What SkyPilot calls the cluster of an attempt."""
    return f"{run.path.name}-{attempt}"


def remember(run: RunDir, rented: Rented) -> None:
    """Write down what is about to be asked for, so that it outlasts a power cut too."""
    with open_for_appending(_book(run)) as book:
        book.write(rented.model_dump_json().encode() + b"\n")
        book.flush()
        os.fsync(book.fileno())
    sync_folder(run.path)


def all_rented(run: RunDir) -> list[Rented]:
    """Everything that was asked for, oldest first."""
    return [Rented.model_validate_json(line) for line, _ in read_lines(_book(run))]


def rebuild_book(
    run: RunDir, attempts: Iterable[Attempt], elsewhere: Callable[[int], bool]
) -> None:
    """Write down what was rented for a run, as its ledger tells it.

    Args:
        elsewhere: whether another home asked for the machines of an attempt.
    """
    lines = [
        Rented(
            attempt=attempt.number,
            cluster=cluster_name(run, attempt.number),
            offer=Offer.from_json(attempt.offer),
            elsewhere=elsewhere(attempt.number),
        ).model_dump_json()
        for attempt in attempts
        if attempt.offer.get("cloud") != LOCAL
    ]
    write_atomically(_book(run), "".join(f"{line}\n" for line in lines).encode())


def _book(run: RunDir) -> Path:
    return run.path / "rented.jsonl"
