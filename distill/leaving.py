"""A machine's last word, when its work is done: when it switches itself off."""

import sys
from pathlib import Path

from recipes.errors import StillhouseError
from recipes.rundir import Limits, RunDir, read_model
from recipes.store import open_store
from recipes.stored_run import say_leaving

PATIENCE_S = 20.0
"""How long a store that does not answer is asked again [s]: the machine is about to go."""


def main(folder: Path, node: int, at: float) -> int:
    """Leave word in the run's store; exit code 0, or that of the error.

    Args:
        node: which of the attempt's machines this is, from 0.
        at: when it switches itself off [unix s].
    """
    try:
        limits = read_model(RunDir(folder).limits, Limits)
        if limits.store is not None:
            say_leaving(open_store(limits.store, patience_s=PATIENCE_S), limits.attempt, node, at)
    except (StillhouseError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201 - the job's log
        return error.exit_code if isinstance(error, StillhouseError) else StillhouseError.exit_code
    return 0
