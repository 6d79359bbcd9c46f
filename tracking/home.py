"""Where stillhouse keeps its things, and what a run is called."""

import os
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from recipes.errors import InvalidInputError
from recipes.rundir import RunDir

_LETTERS = "23456789abcdefghjkmnpqrstuvwxyz"
"""Without 0, 1, i, l, o: an id may be read aloud."""


class Home:
    """Paths of everything that is kept.

    ledger.db      what was reserved and spent, for all runs
    mlflow.db      MLflow's store, where MLFLOW_TRACKING_URI names no other
    mlartifacts/   the files of that store
    runs/          one folder a run
    fingerprints/  what is remembered of large files, so that each is read once
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledger = path / "ledger.db"
        self.mlflow_db = path / "mlflow.db"
        self.mlflow_artifacts = path / "mlartifacts"
        self.mlflow_lock = path / "mlflow.lock"
        self.runs = path / "runs"
        self.fingerprints = path / "fingerprints"

    def run(self, run_id: str) -> RunDir:
        """The folder of one run, whether it is there or not."""
        return RunDir(self.runs / run_id)


def home(environment: Mapping[str, str] = os.environ) -> Home:
    """The home that STILLHOUSE_HOME names, else `~/.stillhouse`. Made, with mode 700, if missing.

    Raises:
        InvalidInputError: it cannot be made, or something else stands there.
    """
    named = environment.get("STILLHOUSE_HOME")
    path = Path(named or "~/.stillhouse")
    if set(str(path)) & set("?#%"):
        raise InvalidInputError(
            f"{path} cannot be the home of stillhouse: MLflow finds no database below a folder "
            "with ?, # or % in its name. Set STILLHOUSE_HOME to another one"
        )
    try:
        path = path.expanduser().absolute()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        (path / "runs").mkdir(mode=0o700, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: nobody has that home
        why = error.strerror if isinstance(error, OSError) else error
        raise InvalidInputError(
            f"{path} cannot be used as the home of stillhouse: {why}. "
            "Set STILLHOUSE_HOME to a folder that can be written"
        ) from error
    return Home(path)


def new_run_id(recipe_name: str, now: float) -> str:
    """A name for life: recipe, date and time (UTC), and four letters by chance.

    Begins with a letter, ends with a letter or digit and has 60 characters at most, so it is also
    the name of a cluster, a tag and a folder. Ids of one recipe sort by time; the ledger refuses
    the one pair in a million that meets in the same minute.

    Args:
        recipe_name: a recipe's `name`: `[a-z0-9-]`, 40 characters at most.
        now: unix seconds.
    """
    minute = datetime.fromtimestamp(now, UTC).strftime("%y%m%d-%H%M")
    chance = "".join(secrets.choice(_LETTERS) for _ in range(4))
    first = recipe_name if recipe_name[0].isalpha() else f"r-{recipe_name}"
    return f"{first}-{minute}-{chance}"
