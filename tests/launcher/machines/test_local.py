"""This machine as a place to run: one worker a folder, and no doubt whether it lives."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from launcher.machines.local import Follower, LocalMachine, is_locked
from launcher.market.offers import LOCAL, Offer
from recipes.errors import RefusedError
from recipes.rundir import EventLog, RunDir, WorkerStarted

HERE = Offer(cloud=LOCAL, usd_per_hour=Decimal("1"), source="recipe")

WORKER = """
import os, signal, sys, pathlib
folder = pathlib.Path(sys.argv[1])
def save(*_):
    (folder / "saved").touch()
    sys.exit(130)
signal.signal(signal.SIGTERM, save)
(folder / "home").write_text(os.environ["STILLHOUSE_HOME"])
(folder / "pid").write_text(str(os.getpid()))
os.rename(folder / "pid", folder / "ready")
signal.pause()
"""


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


@pytest.fixture
def machine(run: RunDir, tmp_path: Path) -> Iterator[LocalMachine]:
    machine = LocalMachine(tmp_path / "home", os.environ, (sys.executable, "-c", WORKER))
    yield machine
    machine.kill(run)
    until(lambda: machine.look(run) == "ended")


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def ready(run: RunDir) -> int:
    until(lambda: (run.path / "ready").exists())
    return int((run.path / "ready").read_text())


def test_a_worker_lives_from_the_moment_start_returns(machine: LocalMachine, run: RunDir) -> None:
    machine.start(run, HERE)

    assert machine.look(run) == "alive"
    assert is_locked(run.lock)  # for other processes too, before the worker has done anything


def test_a_second_worker_on_a_folder_is_refused(machine: LocalMachine, run: RunDir) -> None:
    machine.start(run, HERE)

    with pytest.raises(RefusedError, match="already running"):
        LocalMachine(run.path, os.environ, (sys.executable, "-c", WORKER)).start(run, HERE)


def test_another_process_sees_it_live_and_asks_it_to_save(
    machine: LocalMachine, run: RunDir
) -> None:
    machine.start(run, HERE)
    pid = ready(run)
    log = EventLog(run.events, 1)
    log.write(WorkerStarted(t=0, attempt=1, pid=pid, device="cpu"))
    log.close()
    other = LocalMachine(run.path)

    assert other.look(run) == "alive"
    other.ask_to_save(run)

    until(lambda: machine.look(run) == "ended")
    assert (run.path / "saved").exists()


def test_a_killed_worker_is_dead_at_once_whoever_asks(machine: LocalMachine, run: RunDir) -> None:
    machine.start(run, HERE)
    ready(run)

    machine.kill(run)

    until(lambda: machine.look(run) == "ended")
    until(lambda: LocalMachine(run.path).look(run) == "ended")


def test_the_worker_is_told_where_the_home_is(
    machine: LocalMachine, run: RunDir, tmp_path: Path
) -> None:
    machine.start(run, HERE)
    ready(run)

    assert (run.path / "home").read_text() == str(tmp_path / "home")


def test_nobody_lives_on_a_folder_where_nothing_was_started(run: RunDir) -> None:
    machine = LocalMachine(run.path)

    assert machine.look(run) == "ended"
    machine.ask_to_save(run)  # nobody to ask, and no harm done


def test_a_worker_that_has_not_said_a_word_yet_is_ended_by_another_process_and_no_other_is(
    tmp_path: Path, run: RunDir
) -> None:
    silent = (sys.executable, "-c", "import time; time.sleep(60)")
    first = LocalMachine(tmp_path / "home", worker=silent)
    stranger = subprocess.Popen(silent)
    log = EventLog(run.events, 1)
    log.write(WorkerStarted(t=1.0, attempt=1, pid=stranger.pid, device="cpu"))  # long ago
    log.close()
    try:
        first.start(run, HERE)
        another = LocalMachine(tmp_path / "home")
        assert another.release(run, 2).proved is False

        threading.Thread(target=first._children[run.path].wait, daemon=True).start()
        another.kill(run)

        assert another.release(run, 2).proved is True
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_the_right_to_drive_ends_with_its_holder(run: RunDir) -> None:
    refused = pytest.raises(RefusedError, match="another process follows")
    with Follower(run), refused, Follower(run, sleep=lambda _seconds: None):
        pass

    with Follower(run):
        pass
