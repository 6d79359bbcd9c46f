"""The pulse: while a stage runs, a sign of life at least once a second, and none otherwise."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from distill.pulse import Mute, Pulse
from recipes.rundir import (
    AnyEvent,
    Event,
    Failed,
    Progress,
    StageDone,
    StageStarted,
    WorkerEnded,
    read_events,
)


def event(kind: type[Event], **fields: Any) -> Event:
    return kind(t=time.time(), attempt=1, **fields)


def events_in(path: Path) -> list[AnyEvent]:
    return [found for found, _ in read_events(path)]


def wait_for(path: Path, count: int) -> list[AnyEvent]:
    """The events, once there are so many; real time, but milliseconds of it."""
    patience = time.monotonic() + 10
    while len(events_in(path)) < count:
        assert time.monotonic() < patience, f"no further event: {events_in(path)}"
        time.sleep(0.005)
    return events_in(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def test_a_silent_stage_repeats_its_last_progress_with_a_new_time(path: Path) -> None:
    pulse = Pulse(path, 1, silence_s=0.02)
    pulse.write(event(StageStarted, stage="train"))
    pulse.write(event(Progress, stage="train", done=3, total=9, unit="steps"))

    progress = [found for found in wait_for(path, 5) if isinstance(found, Progress)]
    pulse.close()

    assert {(found.done, found.total) for found in progress} == {(3, 9)}
    assert [found.t for found in progress] == sorted({found.t for found in progress})


def test_a_stage_that_has_said_nothing_yet_shows_that_it_lives(path: Path) -> None:
    pulse = Pulse(path, 1, silence_s=0.02)
    pulse.write(event(StageStarted, stage="generate"))

    found = wait_for(path, 2)[1]
    pulse.close()

    assert isinstance(found, Progress)
    assert (found.stage, found.done, found.total, found.unit) == ("generate", 0, 0, "answers")


@pytest.mark.parametrize(
    "last",
    [
        event(StageDone, stage="train"),
        event(Failed, code="x", message="x", remedy="x"),
        event(WorkerEnded, status="done"),
    ],
    ids=["stage done", "failed", "ended"],
)
def test_between_stages_and_after_the_end_there_is_no_pulse(path: Path, last: Event) -> None:
    pulse = Pulse(path, 1, silence_s=0.01)
    pulse.write(event(StageStarted, stage="train"))
    pulse.write(last)
    count = len(events_in(path))

    time.sleep(0.05)
    pulse.close()

    assert len(events_in(path)) == count


def test_while_a_stage_speaks_nothing_is_repeated(path: Path) -> None:
    pulse = Pulse(path, 1, silence_s=3600)
    pulse.write(event(StageStarted, stage="train"))
    for step in range(5):
        pulse.write(event(Progress, stage="train", done=step, total=5, unit="steps"))
    pulse.close()

    assert len(events_in(path)) == 6


def test_lines_from_several_threads_stay_whole(path: Path) -> None:
    pulse = Pulse(path, 1, silence_s=0.001)
    pulse.write(event(StageStarted, stage="train"))

    def speak() -> None:
        for step in range(200):
            pulse.write(event(Progress, stage="train", done=step, total=200, unit="steps"))

    threads = [threading.Thread(target=speak) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pulse.close()

    assert len(events_in(path)) >= 801


def test_the_thread_ends_with_the_pulse(path: Path) -> None:
    before = threading.active_count()
    pulse = Pulse(path, 1)
    assert threading.active_count() == before + 1

    pulse.close()

    assert threading.active_count() == before


def test_a_mute_writes_nothing(tmp_path: Path) -> None:
    mute = Mute(1)
    mute.write(event(StageDone, stage="train"))
    mute.sync()
    mute.close()

    assert list(tmp_path.glob("*.jsonl")) == []
