"""This machine as a place to run: the worker is a process of its own and outlives the launcher.

Whether a worker lives is asked of a lock (flock) and not of a process number: the launcher takes
the lock before the start and hands it down, so that there is no moment at which two could start,
and the kernel lets go of it whatever way the worker dies.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from launcher.machines.backend import Released, Sight
from launcher.market.offers import Offer
from recipes.errors import InvalidInputError, RefusedError
from recipes.rundir import RunDir
from tracking.prices import Prices

LOCK_VARIABLE = "STILLHOUSE_LOCK_FD"
"""Tells the worker the number of the descriptor that already holds its lock."""


DYING_LOOKS = 200
"""How often a worker that was killed is looked at, 10 ms apart, until it is gone."""

WORKER = (sys.executable, "-m", "distill")
"""The command of a worker; the run's folder follows."""


class LocalMachine:
    """Runs the worker on this machine. A `Backend` whose machine is nobody's to take away.

    Args:
        home: STILLHOUSE_HOME, for the worker's cache.
        environ: its other environment variables.
        worker: its command.
    """

    rented = False
    closing_s = 3.0

    def __init__(
        self,
        home: Path,
        environ: Mapping[str, str] = os.environ,
        worker: Sequence[str] = WORKER,
    ) -> None:
        self._environ = {**environ, "STILLHOUSE_HOME": str(home)}
        self._worker = worker
        self._children: dict[Path, subprocess.Popen[bytes]] = {}

    def start(self, run: RunDir, offer: Offer) -> None:
        lock = os.open(run.lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not _take_patiently(lock):
                raise RefusedError(f"a worker is already running on {run.path}")
            with run.log.open("ab") as log:
                self._children[run.path] = subprocess.Popen(
                    [*self._worker, str(run.path)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**self._environ, LOCK_VARIABLE: str(lock)},
                    pass_fds=[lock],
                    start_new_session=True,  # Ctrl-C in the terminal is the launcher's to handle
                )
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{self._children[run.path].pid}\n".encode(), 0)
        finally:
            os.close(lock)

    def look(self, run: RunDir) -> Sight:
        return "alive" if self._is_alive(run) else "ended"

    def release(self, run: RunDir, attempt: int) -> Released:
        if self._is_alive(run):
            return Released(proved=False, detail="its worker is still running on this machine")
        return Released(proved=True, detail="nothing was rented: it ran on this machine")

    def _is_alive(self, run: RunDir) -> bool:
        child = self._children.get(run.path)
        if child is not None:
            return child.poll() is None
        return is_locked(run.lock)

    def prices(self, offer: Offer, since: float) -> Prices | None:
        return None

    def withdraw(self, run: RunDir) -> None:
        return None

    def ask_to_save(self, run: RunDir, by: float | None = None) -> None:
        self._send(run, signal.SIGTERM)

    def kill(self, run: RunDir) -> None:
        self._send(run, signal.SIGKILL)
        if child := self._children.get(run.path):
            child.wait()
        for _ in range(DYING_LOOKS):
            if not self._is_alive(run):
                return
            time.sleep(0.01)

    def _send(self, run: RunDir, number: signal.Signals) -> None:
        if not self._is_alive(run):
            return
        child = self._children.get(run.path)
        pid = child.pid if child else _worker_pid(run)
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        lock = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not _take(lock)
    finally:
        os.close(lock)


class Follower:
    """The right to drive a run: one process at a time has it, for as long as it lives.

    Entering raises RefusedError where another process drives this run.
    """

    def __init__(self, run: RunDir, sleep: Callable[[float], None] = time.sleep) -> None:
        self._run = run
        self._sleep = sleep

    def __enter__(self) -> "Follower":
        self._lock = os.open(self._run.path / "launcher.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not _take_patiently(self._lock, self._sleep):
                raise RefusedError(
                    f"another process follows {self._run.path.name} already. See it with "
                    f"`still logs {self._run.path.name} -f`, or stop it with "
                    f"`still stop {self._run.path.name}`."
                )
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)


def _take(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _take_patiently(lock: int, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Take a lock that somebody may hold for a moment: to see whether it is held, or a child that
    has not become its own program yet."""
    for _ in range(20):
        if _take(lock):
            return True
        sleep(0.01)
    return False


def _worker_pid(run: RunDir) -> int | None:
    """Who holds the lock, as whoever started it has written; `None` is unknown."""
    written = run.lock.read_text().strip()
    return int(written) if written.isdecimal() else None


def calibrate(
    recipe_json: str,
    folder: Path,
    environ: Mapping[str, str] = os.environ,
    allow_remote_code: bool = False,
) -> str:
    """Run a trial of a recipe on this machine; the JSON of a `Calibration`.

    Args:
        allow_remote_code: whether code that comes with a model may run, where the recipe says so.

    Raises:
        InvalidInputError: it cannot be run as it is; carries what the worker said.
    """
    recipe = folder / "recipe.json"
    recipe.write_text(recipe_json)
    words = ["--trust-remote-code"] if allow_remote_code else []
    trial = subprocess.run(
        [*WORKER, "calibrate", str(recipe), *words],
        capture_output=True,
        text=True,
        env=dict(environ),
        check=False,
    )
    if trial.returncode != 0:
        said = trial.stderr.strip().splitlines()
        raise InvalidInputError(
            "the trial of this recipe failed on this machine, so it cannot be priced: "
            + (said[-1].removeprefix("Error: ") if said else f"exit code {trial.returncode}")
        )
    return trial.stdout
