"""What `still launch` adds to a bare `sky launch --down` of the same job, on the emulated AWS.

Both in one run, in turns, with the same bundle, scripts and worker on one spot H100:8 node (which
computes on this machine's processor). Needs root; see tests/cloudlab/README.md.

    python benchmarks/launch_overhead.py [--rounds 3] [--json]

to the worker: from the command to the worker's first event. to the end: from the command to its
last. until gone: from there to the moment at which EC2 calls the machine terminated.
"""

import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import yaml

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "cloudlab")]

from still import BUCKET, RECIPE, Still  # noqa: E402

from emulated.cloud import Cloud  # noqa: E402
from emulated.folder import LabFolder  # noqa: E402
from emulated.lab import Lab  # noqa: E402
from launcher.machines.rented_book import Rented  # noqa: E402
from launcher.machines.task import node_folder, task_yaml  # noqa: E402
from recipes.rundir import (  # noqa: E402
    Limits,
    RunDir,
    WorkerEnded,
    WorkerStarted,
    attempt_events,
    read_lines,
    read_model,
    write_model,
)
from recipes.store import Store  # noqa: E402
from recipes.store_s3 import S3Store  # noqa: E402
from recipes.stored_run import EventMirror  # noqa: E402

STEPS = 300
PATIENCE_S = 600.0
TAG = "stillhouse-run"


@dataclass(frozen=True)
class Timing:
    """Of one launch [s]."""

    to_worker: float
    to_end: float
    until_gone: float


@click.command()
@click.option("--rounds", default=3, type=click.IntRange(1), help="Launches of each.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def main(rounds: int, as_json: bool) -> None:
    lab = Lab(LabFolder.chosen())
    was_up = lab.is_up()
    lab.up(lambda text: click.echo(text, err=True), kept=was_up)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            ours, bare = measure(lab, Path(scratch), rounds)
    finally:
        if not was_up:
            lab.down()
    report(ours, bare, as_json)


def measure(lab: Lab, scratch: Path, rounds: int) -> tuple[list[Timing], list[Timing]]:
    cloud = Cloud(lab)
    still = Still(lab, cloud, scratch / "home")
    recipe = scratch / "tiny.yaml"
    recipe.write_text(RECIPE)
    # Starts the server, and has it read its catalogs: neither is to pay for the other's.
    lab.run(["sky", "launch", "-y", "--dryrun", "--infra", "aws", "--gpus", "H100:8", "true"])
    ours, bare = [], []
    for number in range(1, rounds + 1):
        timing, run = still_launch(still, cloud, recipe)
        ours.append(timing)
        click.echo(f"{number}/{rounds} still launch    {timing}", err=True)
        bare.append(sky_launch(lab, cloud, run, scratch / f"bare-{number}"))
        click.echo(f"{number}/{rounds} sky launch      {bare[-1]}", err=True)
    return ours, bare


def still_launch(still: Still, cloud: Cloud, recipe: Path) -> tuple[Timing, RunDir]:
    began = time.time()
    run = still.launch(recipe, "--set", f"training.steps={STEPS}")
    gone = when_gone(cloud, lambda: run.id)
    if code := run.end():
        raise click.ClickException(f"still launch ended with {code}:\n{run.story()}")
    return timing(began, run.folder, gone), run.folder


def sky_launch(lab: Lab, cloud: Cloud, like: RunDir, folder: Path) -> Timing:
    """The same job, as somebody without stillhouse would launch it."""
    shutil.copytree(like.path / "bundle", folder)
    name = folder.name
    store = S3Store(BUCKET, name, client=cloud.client("s3"))
    inside = RunDir(folder / "run")
    limits = read_model(inside.limits, Limits)
    seen = RunDir(folder.with_name(f"{name}-seen"))
    seen.path.mkdir()
    write_model(
        inside.limits,
        limits.model_copy(update={"started_at": time.time(), "store": f"s3://{BUCKET}/{name}"}),
    )
    task = folder.with_suffix(".yaml")
    task.write_text(bare_task(like, folder, name))
    began = time.time()
    output = folder.with_suffix(".log")
    words = ["sky", "launch", "-y", "--down", "-c", name, str(task)]
    launched = lab.start(words, output=output)
    gone = when_gone(cloud, lambda: name)
    if code := launched.wait(PATIENCE_S):
        raise click.ClickException(f"sky launch ended with {code}:\n{output.read_text()[-3000:]}")
    fetch(store, seen)
    return timing(began, seen, gone)


def bare_task(like: RunDir, bundle: Path, name: str) -> str:
    """Our task on the same offer, without what `sky launch --down` says itself."""
    (line, _), *_ = read_lines(like.path / "rented.jsonl")
    offer = Rented.model_validate_json(line).offer
    ours = task_yaml(
        (node_folder() / "task.yaml").read_text(),
        offer,
        bundle=bundle,
        labels={TAG: name},
        limit_minutes=60,
        limit_at=round(time.time()) + 3600,
        linger_minutes=30,
    )
    task = yaml.safe_load(ours)
    del task["resources"]["autostop"]
    return yaml.safe_dump(task)


def fetch(store: Store, run: RunDir) -> None:
    EventMirror(store, run).fetch()


def when_gone(cloud: Cloud, run_id: Callable[[], str]) -> float:
    """When all machines of a run are terminated, once there was one [unix s]."""
    deadline = time.time() + PATIENCE_S
    while time.time() < deadline:
        states = {one["State"]["Name"] for one in cloud.instances(stillhouse_run=run_id())}
        if states == {"terminated"}:
            return time.time()
        time.sleep(0.5)
    raise click.ClickException(f"the machine of {run_id()} does not go away")


def timing(began: float, run: RunDir, gone: float) -> Timing:
    events = attempt_events(run, 1)
    started = next(event.t for event in events if isinstance(event, WorkerStarted))
    ended = next(event.t for event in events if isinstance(event, WorkerEnded))
    return Timing(started - began, ended - began, gone - ended)


def report(ours: list[Timing], bare: list[Timing], as_json: bool) -> None:
    middle = {
        field: (
            statistics.median(getattr(one, field) for one in ours),
            statistics.median(getattr(one, field) for one in bare),
        )
        for field in ("to_worker", "to_end", "until_gone")
    }
    added = middle["to_worker"][0] - middle["to_worker"][1]
    if as_json:
        figures = {name: {"still": a, "sky": b} for name, (a, b) in middle.items()}
        click.echo(json.dumps({"n": len(ours), "added_s": added, **figures}, indent=2))
        return
    click.echo(f"medians of {len(ours)} launches each [s]")
    click.echo(f"{'':14}{'still launch':>14}{'sky launch':>14}")
    for name, (a, b) in middle.items():
        click.echo(f"{name.replace('_', ' '):14}{a:14.1f}{b:14.1f}")
    click.echo(f"added by still, to the worker: {added:+.1f} s")
    ratio = middle["until_gone"][1] / middle["until_gone"][0]
    click.echo(f"the machine is gone {ratio:.1f} times as fast")


if __name__ == "__main__":
    main()
