"""A rented machine from the inside: its timer, and the worker that keeps to the worker's protocol.

The worker's work is only time that passes, but what it says and stores is real: events, checkpoints
and results go through `distill.upload` into the run store, limits are kept by
`distill.context.Stop` and a new machine begins with `recipes.stored_run.restore`. The order of
steps is that of distill/worker.py and sky/*.sh.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distill.context import Reason, Stop
from distill.upload import Uploader
from launcher.machines.task import LINGER_MINUTES
from recipes.rundir import (
    CheckpointLoaded,
    CheckpointSaved,
    Done,
    Event,
    EventLog,
    Limits,
    Progress,
    RunDir,
    Scores,
    StageDone,
    StageStarted,
    Stopping,
    StopReason,
    WorkerEnded,
    WorkerStarted,
    write_model,
)
from recipes.store import Store, StoreError
from recipes.store_checkpoints import StoredCheckpoint, whole_here
from recipes.stored_run import restore, say_leaving
from simulated.cloud import Cloud, Machine
from simulated.world import SKEW_S

CLOSING_S = 900.0
"""How long a worker waits at its end for the store to take everything [s]."""

JobState = Literal["waiting", "running", "succeeded", "failed"]


@dataclass(frozen=True)
class Work:
    """What there is to do."""

    steps: int
    step_s: float
    save_s: float
    evaluation_s: float
    checkpoint_every_s: float


class TimelessUploader(Uploader):
    """Real, but that sending takes no time: how long it really took would not be of this world."""

    def _on_checkpoint(self, stored: StoredCheckpoint, seconds: float) -> None:
        super()._on_checkpoint(stored, 0.0)


class Timer:
    """The absolute timer of one machine: a systemd timer on its disk, which a reboot keeps."""

    def __init__(self, cloud: Cloud, machine: Machine, clock: Callable[[], float]) -> None:
        self._cloud = cloud
        self._machine = machine
        self._clock = clock
        self._ends_at: float | None = None

    @property
    def ends_at(self) -> float:
        """When it rings, by the machine's clock [unix s]."""
        assert self._ends_at is not None, "the first step of a machine's setup is its timer"
        return self._ends_at

    def set(self, seconds: float) -> None:
        """`limit.sh lower`: from now on, unless it goes earlier anyway."""
        ends_at = self._clock() + seconds
        if self._ends_at is None or ends_at < self._ends_at:
            self._ends_at = ends_at
            self._cloud.world.at(max(0.0, seconds), lambda: self._ring(ends_at))

    def _ring(self, ends_at: float) -> None:
        if self._ends_at == ends_at:
            self._cloud.power_off(self._machine, "its own timer")


class Node:
    """The head of a cluster, on which the worker runs; its other machines only compute."""

    def __init__(
        self,
        cloud: Cloud,
        machines: list[Machine],
        *,
        store: Store,
        folder: Path,
        limits: Limits,
        work: Work,
        on_stored: Callable[[int], None],
    ) -> None:
        """
        Args:
            on_stored: told of the step of each checkpoint that is safe in the store.
        """
        world = cloud.world
        skew = world.chance.uniform(-SKEW_S, SKEW_S) if "skew" in world.troubles else 0.0
        self.job: JobState = "waiting"
        self.clock = world.clock(skew)
        self.machines = machines
        self.limits = limits
        self._world = world
        self._timers = [Timer(cloud, machine, self.clock) for machine in machines]
        self._store = store
        self._run = RunDir(folder)
        self._work = work
        self._on_stored = on_stored
        self._steps: Iterator[float] | None = None
        self._log: EventLog | None = None
        self._has_news = True
        """Whether there may be files that the store lacks."""
        self._checkpoint_until = math.inf
        """How long a checkpoint is waited for at the end [s of the clock]."""

    # ---- the machine

    @property
    def is_up(self) -> bool:
        return all(machine.exists and machine.costs for machine in self.machines)

    def set_timers(self, seconds: float) -> None:
        for timer in self._timers:
            timer.set(seconds)

    def run_job(self) -> None:
        """`sky/run.sh`."""
        self.job = "running"
        self._world.tell("the worker starts")
        self._steps = self._worker()
        self._go_on()

    def die(self, why: str) -> None:
        """The worker's process is gone; the machine is not."""
        if self._steps is not None:
            self._world.tell(f"the worker is gone: {why}")
            self._finish("failed")

    def hang(self) -> None:
        """The worker's process is there, and does nothing any more."""
        if self._steps is not None:
            self._world.tell("the worker hangs")
            self._steps = None

    def notice(self) -> None:
        """`sky/spot_notice.sh`: the machine will be taken; the worker is asked to save."""
        if self._steps is not None:
            self._stop.ask()

    def close(self) -> None:
        self._steps = None
        if self._log is not None:
            with suppress(OSError):
                self._log.close()
            self._log = None

    def _go_on(self) -> None:
        if self._steps is None:
            return
        if not self.is_up:
            self.close()
            return
        try:
            pause = next(self._steps)
        except StopIteration:
            self._finish("succeeded")
        except StoreError as error:
            self._world.tell(f"the worker fails: {error.what}")
            self._finish("failed")
        else:
            self._world.at(pause, self._go_on)

    def _finish(self, job: JobState) -> None:
        self.close()
        self.job = job
        if self.is_up:
            self.set_timers(60.0 * LINGER_MINUTES)
            for number, timer in enumerate(self._timers):
                with suppress(StoreError):
                    say_leaving(self._store, self.limits.attempt, number, timer.ends_at)

    # ---- the worker

    def _worker(self) -> Iterator[float]:
        self._stop = stop = Stop(self.limits, self.clock)
        yield 8.0  # it imports torch
        restore(self._store, self._run, lambda warning: None)
        if self._run.done.exists():
            return
        self._log = log = EventLog(self._run.events, self.limits.attempt)
        up = TimelessUploader(
            self._store, self._run, log, self.limits.attempt, on_stop=stop.ask, clock=self.clock
        )
        self._say(WorkerStarted, pid=1, device="cuda:NVIDIA H100 80GB HBM3")
        self._say(StageStarted, stage="train")
        self._send(up)
        step = max(whole_here(self._run.checkpoints), default=0)
        if step:
            self._say(CheckpointLoaded, step=step)
        reason: Reason | None = None
        saved_at, saved = self.clock(), step
        while step < self._work.steps:
            if reason := stop.due(self._reserve_s(step)):
                self._say(Stopping, reason=reason)
                break
            yield self._work.step_s
            step += 1
            self._say(Progress, stage="train", done=step, total=self._work.steps, unit="steps")
            due = self.clock() - saved_at >= self._work.checkpoint_every_s
            if due and step < self._work.steps:
                yield from self._save(step)
                saved_at, saved = self.clock(), step
            self._send(up)
        if reason == "interrupt":
            if step > saved:
                yield from self._save(step)
            yield from self._flush(up)
            self._say(WorkerEnded, status="interrupted")
            yield from self._flush(up)
            return
        yield from self._finish_work(up, step, reason, has_news=step > saved)

    def _reserve_s(self, step: int) -> float:
        """For one more step, the student and its scores, and a checkpoint if not all steps fit."""
        left_s = self._stop.seconds_left()
        student_s = 2 * self._work.save_s + (self.limits.evaluation_s or 0.0)
        steps_s = (self._work.steps - step) * self._work.step_s
        fits = left_s is None or steps_s + student_s < left_s
        return self._work.step_s + student_s + (0.0 if fits else self._work.save_s)

    def _finish_work(
        self, up: Uploader, step: int, reason: StopReason | None, *, has_news: bool
    ) -> Iterator[float]:
        """Student, scores, the last word, and `done.json` behind everything.

        Args:
            has_news: the last checkpoint is of an earlier step.
        """
        yield self._work.save_s
        self._write_folder(self._run.student, f"student of step {step}")
        self._send(up)
        left_s = self._stop.seconds_left()
        takes_s = self._work.save_s + (self.limits.evaluation_s or 0.0)
        if reason and has_news and (left_s is None or takes_s <= left_s):
            yield from self._save(step)
        self._say(StageDone, stage="train")
        self._say(StageStarted, stage="evaluate")
        yield self._work.evaluation_s
        write_model(self._run.scores, Scores(scores={}))
        self._has_news = True
        self._say(StageDone, stage="evaluate")
        left_s = self._stop.seconds_left() if reason else 0.0
        self._checkpoint_until = math.inf if left_s is None else self.clock() + left_s
        yield from self._flush(up)
        self._say(WorkerEnded, status="stopped" if reason else "done")
        done = Done(
            status="stopped" if reason else "done",
            reason=reason,
            steps=step,
            of_steps=self._work.steps,
            finished_at=self.clock(),
        )
        write_model(self._run.done, done)
        yield from self._flush(up)
        up._is_ending = self._has_news = True  # as `close` does, which waits for threads
        yield from self._flush(up)

    def _save(self, step: int) -> Iterator[float]:
        yield self._work.save_s
        self._write_folder(self._run.checkpoints / f"step-{step:08d}", f"state of step {step}")
        for old in sorted(whole_here(self._run.checkpoints).items())[:-2]:
            self._forget(old[1])
        self._say(CheckpointSaved, step=step, size_bytes=1, seconds=self._work.save_s)

    def _write_folder(self, folder: Path, content: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model").write_text(content)
        (folder / "complete").write_text("{}")
        self._has_news = True

    def _forget(self, folder: Path) -> None:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()

    def _send(self, up: Uploader) -> bool:
        """Send what is new; whether the store has taken it all."""
        try:
            if self._has_news:
                up.send_files(True)
                self._send_checkpoint(up)
                self._has_news = False
            up.send_lines(True)
        except StoreError:
            return False
        return True

    def _send_checkpoint(self, up: Uploader) -> None:
        """
        Raises:
            StoreError: it was not stored, and is still waited for.
        """
        try:
            up.send_checkpoint(True)
        except StoreError:
            if self.clock() < self._checkpoint_until:
                raise
        else:
            self._on_stored(max(whole_here(self._run.checkpoints), default=0))

    def _flush(self, up: Uploader) -> Iterator[float]:
        """Wait until everything is stored, or for as long as a worker does.

        Raises:
            StoreError: not all was stored.
        """
        until = self.clock() + CLOSING_S
        while not self._send(up):
            if self.clock() > until:
                raise StoreError("not everything could be stored", "It is lost with the machine.")
            yield 15.0

    def _say(self, event: type[Event], **fields: Any) -> None:
        assert self._log is not None, "a worker that speaks has begun"
        self._log.write(event(t=self.clock(), attempt=self.limits.attempt, **fields))
