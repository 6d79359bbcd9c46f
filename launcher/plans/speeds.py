"""How fast this machine does a recipe's work: from earlier runs where there are any, else a trial.

A trial takes some seconds and is kept, so that planning the same work again answers at once.
"""

import hashlib
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from launcher.machines.local import calibrate
from launcher.market.offers import LOCAL, Offer
from launcher.plans.plan import (
    Plan,
    plan_from_history,
    plan_from_trial,
    with_assumption,
    work_key,
)
from launcher.plans.rehearsal import REHEARSAL_OF, Measured, measure, with_measured
from recipes.calibration import Calibration
from recipes.errors import StillhouseError
from recipes.fingerprints import input_fingerprints
from recipes.recipe import Recipe
from recipes.rundir import Generated, attempt_events, read_model, write_atomically
from tracking.books import Books
from tracking.home import Home
from tracking.metering import machine_seconds

HISTORY_RUNS = 5
"""So many of the newest runs of the same work are looked at."""

Trial = Callable[[Recipe, bool], Calibration]
"""Measures a recipe; also told whether code that comes with a model may run."""


def plan_here(
    recipe: Recipe, home: Home, past: list[Books], trial: Trial, allow_remote_code: bool = False
) -> Plan:
    """The plan of a recipe on this machine.

    Args:
        past: all earlier runs, newest first.
        trial: measures a recipe where nothing is known of it yet.
        allow_remote_code: whether a person lets code that comes with a model run in the trial.

    Raises:
        StillhouseError: the trial failed, or a file of the recipe cannot be read.
    """
    assert recipe.hardware.usd_per_hour is not None, "a local recipe has a price"
    offer = Offer(cloud=LOCAL, usd_per_hour=recipe.hardware.usd_per_hour, source="recipe")
    inputs = input_fingerprints(recipe, home.fingerprints)
    work = work_key(recipe, device_key(), inputs)
    measured = _kept_trial(home, work, lambda: trial(recipe, allow_remote_code))
    rehearsed = _rehearsed(home, past, work)
    if rehearsed is not None:
        run_id, steps = rehearsed
        plan = plan_from_trial(recipe, offer, with_measured(measured, steps), work, inputs)
        plan = with_assumption(plan, f"train and checkpoints as measured by {run_id}: {steps}")
    else:
        plan = plan_from_trial(recipe, offer, measured, work, inputs)
    seconds = [_stage_seconds(home, books) for books in past if _is_whole_run(books, work)]
    return plan_from_history(recipe, offer, seconds[:HISTORY_RUNS], plan) if seconds else plan


def run_trial(home: Home) -> Trial:
    """A trial in a process of its own, on this machine."""

    def trial(recipe: Recipe, allow_remote_code: bool) -> Calibration:
        with tempfile.TemporaryDirectory(prefix="stillhouse-trial-") as folder:
            said = calibrate(
                recipe.model_dump_json(),
                Path(folder),
                {**os.environ, "STILLHOUSE_HOME": str(home.path)},
                allow_remote_code,
            )
        try:
            return Calibration.model_validate_json(said)
        except ValidationError as error:
            raise StillhouseError(
                f"the trial of this recipe answered what cannot be read: {said[:200]!r}"
            ) from error

    return trial


def device_key() -> str:
    """What distinguishes this machine's speed: its processor and how many cores there are."""
    return f"{platform.machine()} {platform.processor()} {os.cpu_count()} {_processor_name()}"


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else ""


def _kept_trial(home: Home, work: str, trial: Callable[[], Calibration]) -> Calibration:
    folder = home.path / "trials"
    kept = folder / f"{_trial_key(work)}.json"
    if kept.exists():
        return read_model(kept, Calibration)
    measured = trial()
    folder.mkdir(mode=0o700, exist_ok=True)
    write_atomically(kept, measured.model_dump_json(indent=2).encode() + b"\n")
    return measured


def _trial_key(work: str) -> str:
    """Another worker is another speed: the key changes with the code that was measured."""
    code = hashlib.sha256(work.encode())
    for path in sorted(Path(__file__).parents[2].glob("distill/*.py")):
        code.update(path.read_bytes())
    return code.hexdigest()[:16]


def _rehearsed(home: Home, past: list[Books], work: str) -> tuple[str, Measured] | None:
    """The newest rehearsal of this work that came to something."""
    for books in past:
        if books.notes.get(REHEARSAL_OF) == work and books.attempts:
            events = attempt_events(home.run(books.run_id), books.attempts[-1].number)
            if measured := measure(events):
                return books.run_id, measured
    return None


def _is_whole_run(books: Books, work: str) -> bool:
    return (
        books.state == "done" and len(books.attempts) == 1 and books.opened.plan.get("work") == work
    )


def _stage_seconds(home: Home, books: Books) -> dict[str, float]:
    attempt = books.attempts[0]
    assert attempt.ended_at is not None, "a run that is done has ended"
    events = attempt_events(home.run(books.run_id), attempt.number)
    seconds = machine_seconds(events, attempt.number, attempt.started_at, attempt.ended_at)
    from_cache = any(isinstance(event, Generated) and event.cached for event in events)
    return {
        str(line): spent
        for line, spent in seconds.items()
        if not (line == "generate" and from_cache)  # says nothing of a teacher that has to write
    }
