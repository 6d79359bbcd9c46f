"""Follow one run into MLflow while it goes on: `python -m tracking.follow HOME RUN_ID`.

A process of its own at the lowest priority, so that a tracker that is slow, down or broken cannot
hurt the run. It looks every couple of seconds, syncs what is new, and ends after the run has. When
it cannot write, it tries again less and less often and then gives up; what it has to say stands in
the run's `tracker.log`, and `still sync` catches up.
"""

import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from recipes.errors import StillhouseError
from recipes.privacy import keep_private, redacted
from tracking.home import Home
from tracking.ledger import Ledger
from tracking.locks import locked
from tracking.mlflow_store import sync_run

POLL_S = 2.0
"""How often a run is looked at [s]."""

LONGEST_PAUSE_S = 60.0
"""Between two tries while MLflow cannot be written; the first pause is `POLL_S`, each next one
twice as long [s]."""

GIVE_UP_TRIES = 10
"""Failed syncs in a row after which it gives up: about six minutes of pauses."""

SILENCE_S = 300.0
"""A run that says nothing for so long has lost its launcher and its worker, or waits for a person
to resume it, which starts a follower anew [s]."""

Note = Callable[[str], None]


def follow(
    home: Home,
    run_id: str,
    note: Note,
    sync: Callable[[Home, str], str] = sync_run,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Sync a run until it is over, falls silent, or MLflow has failed too often.

    Args:
        note: is told what a person may want to know.
        sync: brings MLflow up to date; raises a `StillhouseError` where it cannot.
    """
    written: tuple[int, int] | None = None
    failures, silent_s = 0, 0.0
    while True:
        stand, over = _look(home, run_id)
        pause = POLL_S
        if stand == written:
            silent_s += pause
        else:
            silent_s = 0.0
            try:
                sync(home, run_id)
            except StillhouseError as error:
                failures += 1
                pause = min(LONGEST_PAUSE_S, POLL_S * 2 ** (failures - 1))
                note(f"try {failures}: {error}")
            else:
                failures, written = 0, stand
        if over and written == stand:
            return
        if failures >= GIVE_UP_TRIES or silent_s >= SILENCE_S:
            why = "MLflow cannot be written" if failures else f"silent for {SILENCE_S:.0f} s"
            note(f"given up, {why}; `still sync {run_id}` catches up")
            return
        sleep(pause)


def _look(home: Home, run_id: str) -> tuple[tuple[int, int], bool]:
    """How much there is to write (ledger entries, bytes of events), and whether the run is over."""
    with Ledger(home.ledger) as ledger:
        books = ledger.books(run_id)
    events = home.run(run_id).events
    return (books.last_seq, events.stat().st_size if events.exists() else 0), books.over


def main(arguments: list[str]) -> int:
    """Follow `HOME RUN_ID`. Waits while another process follows the same run."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m tracking.follow HOME RUN_ID\n")
        return 2
    os.nice(19)
    home, run_id = Home(Path(arguments[0])), arguments[1]
    folder = home.run(run_id).path

    def note(text: str) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        with suppress(OSError), (folder / "tracker.log").open("a") as file:
            file.write(f"{now} {text}\n")

    try:
        with locked(folder / "tracker.lock"):
            follow(home, run_id, note)
    except Exception:  # noqa: BLE001 - nobody reads what a detached process prints
        note(redacted(traceback.format_exc()))
        return 1
    return 0


if __name__ == "__main__":
    keep_private()
    sys.exit(main(sys.argv[1:]))
