"""A job in a thread of its own: done when asked, again after failures, never in the way."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from distill.repeater import Repeater

SOON = 20.0
"""Longer than anything here takes, on a busy machine [s]."""

NEVER = 3600.0
"""Longer than any test: what happens does so because somebody asked [s]."""


class Job:
    """Fails as often as a test says, and can be held up."""

    def __init__(self) -> None:
        self.awaited: list[bool] = []
        self.failures = 0
        self.ended: list[str | None] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.begun = threading.Event()

    def __call__(self, awaited: bool) -> None:
        self.awaited.append(awaited)
        self.begun.set()
        assert self.go_on.wait(SOON)
        if self.failures > 0:
            self.failures -= 1
            raise RuntimeError("it failed")

    def on_end(self, name: str, error: Exception | None) -> None:
        self.ended.append(None if error is None else str(error))


@pytest.fixture
def job() -> Job:
    return Job()


@pytest.fixture
def start(job: Job) -> Iterator[Callable[[float], Repeater]]:
    started = []

    def start(every_s: float) -> Repeater:
        repeater = Repeater("test", job, every_s, job.on_end)
        repeater.start()
        started.append(repeater)
        return repeater

    yield start
    for repeater in started:
        job.go_on.set()
        repeater.stop()
        repeater.join(SOON)


def test_a_job_is_done_again_and_again(job: Job, start: Callable[[float], Repeater]) -> None:
    start(0.001)

    until = time.monotonic() + SOON
    while len(job.ended) < 3 and time.monotonic() < until:
        time.sleep(0.001)

    assert job.ended[:3] == [None, None, None]
    assert not any(job.awaited)


def test_who_asks_waits_for_a_job_that_began_afterwards(
    job: Job, start: Callable[[float], Repeater]
) -> None:
    repeater = start(NEVER)
    job.go_on.clear()
    first = repeater.ask()
    assert job.begun.wait(SOON)
    second = repeater.ask()  # while the first is under way, which may have passed by already
    job.go_on.set()

    assert repeater.wait(second, time.monotonic() + SOON)
    assert repeater.wait(first, time.monotonic())
    assert job.awaited == [True, True]


def test_a_job_that_fails_is_done_until_it_succeeds(
    job: Job, start: Callable[[float], Repeater]
) -> None:
    job.failures = 3
    repeater = start(0.001)

    assert repeater.wait(repeater.ask(), time.monotonic() + SOON)

    assert job.ended[:4] == ["it failed", "it failed", "it failed", None]


def test_waiting_ends_when_time_is_up(job: Job, start: Callable[[float], Repeater]) -> None:
    job.failures = 10**9
    repeater = start(NEVER)

    assert not repeater.wait(repeater.ask(), time.monotonic() + 0.05)
    assert not repeater.wait(repeater.ask(), time.monotonic() - 1)


def test_waiting_ends_when_the_job_is_done_no_more(
    job: Job, start: Callable[[float], Repeater]
) -> None:
    repeater = start(NEVER)
    repeater.stop()
    repeater.join(SOON)

    assert not repeater.wait(repeater.ask(), time.monotonic() + SOON)


def test_a_failing_job_is_not_done_without_a_pause(
    job: Job, start: Callable[[float], Repeater]
) -> None:
    job.failures = 10**9
    repeater = start(NEVER)

    assert not repeater.wait(repeater.ask(), time.monotonic() + 0.05)

    assert len(job.ended) == 1
