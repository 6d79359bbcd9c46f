"""`python -m distill.prepare RECIPE --name NAME`: train a model on the spot, to be a teacher.

The recipe is carried out by the ordinary worker, and what comes out is an ordinary model folder:

    $STILLHOUSE_HOME/teachers/NAME-<hash>/   the run; a hash of the recipe and the code
    $STILLHOUSE_HOME/teachers/NAME           a link to the student of that run

The same recipe is trained once: a second call sees that it is there, without loading torch. Killed
at any moment, it goes on when called again; called while it works, it follows.
"""

import argparse
import fcntl
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from recipes.errors import InterruptedRunError, InvalidInputError, RefusedError, StillhouseError
from recipes.loading import load_recipe
from recipes.privacy import keep_private
from recipes.recipe import Recipe
from recipes.rundir import (
    AnyEvent,
    Failed,
    Limits,
    Progress,
    RunDir,
    Scores,
    StageStarted,
    TrainStep,
    read_events,
    read_model,
    sync_folder,
    write_model,
)

POLL_S = 0.2
LINE_EVERY_S = 5.0
CHECKPOINT_EVERY_S = 10.0
"""So that a kill costs little of a minute's work [s]."""

Show = Callable[[str], None]
"""Shows how the work stands; called several times a second."""


def main(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """The command. Exit codes as in `recipes.errors`."""
    parser = argparse.ArgumentParser(prog="python -m distill.prepare")
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="a YAML file")
    parser.add_argument("--name", required=True, help="what recipes call the model")
    chosen = parser.parse_args(arguments)
    home = Path(environ.get("STILLHOUSE_HOME") or "~/.stillhouse").expanduser().absolute()
    try:
        print(prepare(chosen.recipe, chosen.name, home))  # noqa: T201
    except StillhouseError as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


def prepare(recipe_file: Path, name: str, home: Path) -> str:
    """Make sure that the teacher `name` stands in `home`; a sentence on how good it is.

    Raises:
        InvalidInputError: the recipe cannot be used, or something else is where the link belongs.
        InterruptedRunError: a person stopped it; called again, it goes on.
        StillhouseError: the training failed, and why.
    """
    recipe = load_recipe(recipe_file)
    _check(recipe, recipe_file, name)
    run = RunDir(home / "teachers" / f"{name}-{content_hash(recipe)[:16]}")
    is_there = run.done.exists()
    began = time.monotonic()
    if not is_there:
        run.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_model(run.recipe, recipe)
        with _screen(name) as show:
            _train(run, show)
    _point(home / "teachers" / name, run.student)
    scores = read_model(run.scores, Scores).scores if run.scores.exists() else {}
    found = [f"{task} {score.value:.3f} ± {score.stderr:.3f}" for task, score in scores.items()]
    when = "made earlier" if is_there else f"made in {time.monotonic() - began:.0f} s"
    return f"teacher {name}: {', '.join([*found, when])}, in {run.student}"


def content_hash(recipe: Recipe) -> str:
    """What the trained model depends on: the recipe, the worker's code, and the libraries."""
    digest = hashlib.sha256(recipe.model_dump_json().encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    for library in ("torch", "transformers"):
        digest.update(version(library).encode())
    return digest.hexdigest()


def _check(recipe: Recipe, recipe_file: Path, name: str) -> None:
    if recipe.teacher.kind != "none" or recipe.data.kind not in ("generated", "hub"):
        raise InvalidInputError(
            f"{recipe_file}: a model to be a teacher is prepared from teacher.kind none and "
            f"data.kind generated or hub; these are {recipe.teacher.kind} and {recipe.data.kind}. "
            "Anything else is a run of its own: `still launch`."
        )
    if not name or Path(name).name != name or name.startswith("."):
        raise InvalidInputError(f"--name must be a plain name, is {name!r}")


# ---- work ------------------------------------------------------------------------------------


def _train(run: RunDir, show: Show) -> None:
    """Start a worker and follow it, or the one that is at work already, to the end."""
    while not run.done.exists():
        attempt = 1 + max((event.attempt for event, _ in read_events(run.events)), default=0)
        if not _is_worked_on(run):
            write_model(run.limits, _no_limits(attempt))
        with run.log.open("ab") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "distill", str(run.path)], stdout=log, stderr=log
            )
        _follow(run, worker, show)
        # Refused means that another call's worker is at it: then that one was followed.
        if worker.returncode not in (0, RefusedError.exit_code):
            raise _failure(run, worker.returncode)


def _no_limits(attempt: int) -> Limits:
    return Limits(
        attempt=attempt,
        started_at=time.time(),
        usd_per_hour=0,
        machine_usd=0,
        checkpoint_every_s=CHECKPOINT_EVERY_S,
    )


def _is_worked_on(run: RunDir) -> bool:
    with run.lock.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _follow(run: RunDir, worker: "subprocess.Popen[bytes]", show: Show) -> None:
    """Show what happens until no worker is left. Ctrl-C reaches the worker too, which saves."""
    text, loss, offset = "starting", "", 0
    while True:
        is_over = worker.poll() is not None and not _is_worked_on(run)
        for event, end in read_events(run.events, offset):
            offset = end
            if isinstance(event, TrainStep):
                loss = f" · loss {event.loss:.3f}"
            text = _said(event, loss) or text
        if is_over:
            return
        show(text)
        try:
            time.sleep(POLL_S)
        except KeyboardInterrupt:
            text = "saving"


def _said(event: AnyEvent, loss: str) -> str | None:
    match event:
        case StageStarted():
            return event.stage
        case Progress() if event.total:
            speed = f" · {event.tokens_per_s:,.0f} tokens/s" if event.tokens_per_s else ""
            left = f" · {event.left_s:.0f} s left" if event.left_s is not None else ""
            of = f"{event.stage} {event.done:,}/{event.total:,} {event.unit}"
            return of + speed + (loss if event.stage == "train" else "") + left
        case _:
            return None


def _failure(run: RunDir, code: int) -> StillhouseError:
    if code == InterruptedRunError.exit_code:
        return InterruptedRunError("stopped; called again, it goes on from its checkpoint")
    failed = [event for event, _ in read_events(run.events) if isinstance(event, Failed)]
    if failed:
        return StillhouseError(f"{failed[-1].message}. {failed[-1].remedy}")
    return StillhouseError(f"the worker ended with exit code {code}; see {run.log}")


def _point(link: Path, student: Path) -> None:
    """Have the name stand for this student, from one moment to the next."""
    if link.is_dir() and not link.is_symlink():
        raise InvalidInputError(f"{link} is a folder of its own. Move it away, or choose a name.")
    target = student.relative_to(link.parent)
    if link.is_symlink() and link.readlink() == target:
        return
    aside = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    aside.unlink(missing_ok=True)
    aside.symlink_to(target)
    os.replace(aside, link)
    sync_folder(link.parent)


# ---- screen ----------------------------------------------------------------------------------


@contextmanager
def _screen(name: str) -> Iterator[Show]:
    """A line that is drawn again and again on a terminal; elsewhere a line every few seconds."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    if console.is_terminal and not console.is_dumb_terminal:
        with console.status("") as status:
            yield lambda text: status.update(escape(f"teacher {name}: {text}"))
    else:
        yield _Lines(name).show


class _Lines:
    def __init__(self, name: str) -> None:
        self._name = name
        self._next = 0.0

    def show(self, text: str) -> None:
        if time.monotonic() >= self._next:
            print(f"teacher {self._name}: {text}", file=sys.stderr, flush=True)  # noqa: T201
            self._next = time.monotonic() + LINE_EVERY_S


if __name__ == "__main__":
    keep_private()
    sys.exit(main(sys.argv[1:]))
