import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recipes.errors import StillhouseError
from tracking.entries import StateChanged
from tracking.follow import GIVE_UP_TRIES, LONGEST_PAUSE_S, POLL_S, SILENCE_S, follow, main
from tracking.home import Home
from tracking.locks import locked

ROOT = Path(__file__).parents[2]


class Tracker:
    """Records what it is asked to sync; fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.synced: list[str] = []
        self.failures = failures

    def __call__(self, home: Home, run_id: str) -> str:
        if self.failures:
            self.failures -= 1
            raise StillhouseError("MLflow at home is asleep")
        self.synced.append(run_id)
        return "f00"


class Night:
    """Sleeps without waiting; at the given nap something happens."""

    def __init__(self, at: int = 0, happens: Any = lambda: None) -> None:
        self.naps: list[float] = []
        self._at, self._happens = at, happens

    def __call__(self, seconds: float) -> None:
        self.naps.append(seconds)
        if len(self.naps) == self._at:
            self._happens()


def test_a_run_that_is_over_is_synced_once(workshop: Any) -> None:
    workshop.whole_run("demo-1")
    tracker, night, notes = Tracker(), Night(), []

    follow(workshop.home, "demo-1", notes.append, tracker, night)

    assert (tracker.synced, night.naps, notes) == (["demo-1"], [], [])


def test_a_live_run_is_synced_when_there_is_news_and_at_its_end(workshop: Any) -> None:
    run = workshop.open("demo-1")

    def ends() -> None:
        workshop.say(run, *workshop.worker_events(workshop.clock.now, 0.9))
        workshop.ledger.append("demo-1", StateChanged(state="done"))

    tracker, night = Tracker(), Night(at=3, happens=ends)

    follow(workshop.home, "demo-1", pytest.fail, tracker, night)

    assert len(tracker.synced) == 2
    assert night.naps == [POLL_S] * 3


def test_a_tracker_that_comes_back_gets_everything(workshop: Any) -> None:
    workshop.whole_run("demo-1")
    tracker, night, notes = Tracker(failures=3), Night(), []

    follow(workshop.home, "demo-1", notes.append, tracker, night)

    assert tracker.synced == ["demo-1"]
    assert night.naps == [2, 4, 8]
    assert notes[0] == "try 1: MLflow at home is asleep"


def test_a_tracker_that_is_down_is_given_up_quietly(workshop: Any) -> None:
    workshop.whole_run("demo-1")
    night, notes = Night(), []

    follow(workshop.home, "demo-1", notes.append, Tracker(failures=999), night)

    assert len(notes) == GIVE_UP_TRIES + 1
    assert notes[-1] == "given up, MLflow cannot be written; `still sync demo-1` catches up"
    assert max(night.naps) == LONGEST_PAUSE_S


def test_a_run_that_falls_silent_is_not_followed_for_ever(workshop: Any) -> None:
    workshop.open("demo-1")
    tracker, night, notes = Tracker(), Night(), []

    follow(workshop.home, "demo-1", notes.append, tracker, night)

    assert sum(night.naps) == pytest.approx(SILENCE_S)
    assert notes == ["given up, silent for 300 s; `still sync demo-1` catches up"]
    assert tracker.synced == ["demo-1"]


def test_without_its_two_words_it_says_how_it_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["only-one"]) == 2
    assert "HOME RUN_ID" in capsys.readouterr().err


def test_a_lock_is_held_by_one_process_and_let_go_at_the_end(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tracking.locks import locked\n"
        "with locked(Path(sys.argv[1])): print('mine', flush=True)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]

    with locked(tmp_path / "lock"):
        other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(timeout=0.5)

    assert other.communicate(timeout=20)[0] == "mine\n"


def test_a_fault_of_ours_is_kept_in_the_runs_log(workshop: Any) -> None:
    """Nobody reads what a detached process prints."""
    run = workshop.open("demo-1")
    workshop.ledger.close()
    workshop.home.ledger.write_bytes(b"no ledger")

    command = [sys.executable, "-m", "tracking.follow", str(workshop.home.path), "demo-1"]
    done = subprocess.run(command, cwd=ROOT, check=False, env={**os.environ}, timeout=60)

    assert done.returncode == 1
    assert "is no ledger" in (run.path / "tracker.log").read_text()
