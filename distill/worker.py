"""A worker does what is left of a run: generate, train, evaluate, each once, and writes it down.

Which stages are done is read from the folder, so that a worker can be killed at any moment and
started again: finished things are there whole (see `recipes.rundir`), the rest is taken up where
it was left.
"""

import fcntl
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NoReturn

from distill.batching import planned_steps
from distill.context import Context, StageStopped, Stop, WorkerError
from distill.disk import disk_full, is_disk_full
from distill.failures import as_worker_error
from distill.pulse import Mute, Pulse
from distill.team import Team, join
from distill.trained import Trained, read_trained
from distill.upload import CLOSING_S, Uploader, bring_back, mirrored
from recipes.errors import InterruptedRunError, RefusedError, StillhouseError
from recipes.privacy import redacted
from recipes.recipe import Recipe
from recipes.rundir import (
    Done,
    Ending,
    Event,
    EventLog,
    Failed,
    Limits,
    RunDir,
    Scores,
    Stage,
    StageDone,
    StageStarted,
    Stopping,
    StopReason,
    WorkerEnded,
    WorkerStarted,
    read_events,
    read_model,
    write_model,
)

LOCK_VARIABLE = "STILLHOUSE_LOCK_FD"
"""Names the descriptor of a lock that whoever started this worker took for it."""


def run(folder: Path) -> int:
    """Do what is left of the run in `folder`; the exit code.

    0 done, or stopped at a limit with everything saved; 2 and 3 nothing was begun; 4 failed; 130 a
    person stopped it. Errors go to stderr, and into the events once these can be written.
    """
    run, team = RunDir(folder.absolute()), join()
    if team.rank > 0:
        return _follow(run, team)
    code = _lead(run, team)
    if team.lost:
        team.give_up()
    else:
        team.share(_nothing)
        team.leave()
    return code


def _lead(run: RunDir, team: Team) -> int:
    try:
        with _only_worker(run):
            return 0 if run.done.exists() else _attempt(run, team)
    except StillhouseError as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201 - worker.log
        return error.exit_code
    except OSError as error:
        if not is_disk_full(error):
            raise
        print(f"Error: {disk_full('events', run.path)}", file=sys.stderr)  # noqa: T201
        return StillhouseError.exit_code


def _follow(run: RunDir, team: Team) -> int:
    """Train whenever the first process does, until it says that there is no more to do."""
    given = team.share(_nothing)
    if given is not None:
        recipe, limits = given
        stop = Stop(limits)
        stop.listen()
        try:
            _train_along(run, team, recipe, limits, stop)
        except Exception as error:  # noqa: BLE001 - whatever it is, the first process has to say it
            if not team.has_given_up():
                print(redacted(traceback.format_exc()), file=sys.stderr)  # noqa: T201 - worker.log
                failure = as_worker_error(error, "train", recipe)
                print(f"Error: {failure}", file=sys.stderr)  # noqa: T201
                team.tell(failure, lambda: stop.interrupted)
            return StillhouseError.exit_code
    team.leave()
    return 0


def _train_along(run: RunDir, team: Team, recipe: Recipe, limits: Limits, stop: Stop) -> None:
    device = _start_torch(recipe)
    context = Context(
        run, recipe, limits, Mute(limits.attempt), stop, device, team.rank, team.world
    )
    from distill.models import free_memory
    from distill.train import train

    while team.share(_nothing):
        with suppress(StageStopped):
            train(context, team)
        free_memory()


def _nothing() -> Any:
    """The first process's word that there is no more to do; the others' is not asked for."""


def _start_torch(recipe: Recipe) -> str:
    """Import what takes seconds; this process's device."""
    import torch

    from distill.models import pick_device, start_transformers

    start_transformers()
    if recipe.training.threads:
        torch.set_num_threads(recipe.training.threads)
    return pick_device()


@contextmanager
def _only_worker(run: RunDir) -> Iterator[None]:
    """Hold the run's lock; the kernel lets go of it however the worker ends.

    Raises:
        RefusedError: another worker holds it.
    """
    given = os.environ.pop(LOCK_VARIABLE, None)
    try:
        lock = int(given) if given else os.open(run.lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise RefusedError(f"{run.path} is no folder to work in: {error.strerror}") from error
    os.set_inheritable(lock, False)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)  # for whoever wants to end it
        yield
    except BlockingIOError as error:
        raise RefusedError(
            f"another worker is at work in {run.path}. Wait for it, or stop it first."
        ) from error
    finally:
        os.close(lock)


def _attempt(run: RunDir, team: Team) -> int:
    recipe, limits = run.read_recipe(), read_model(run.limits, Limits)
    team.share(lambda: (recipe, limits))
    stop = Stop(limits)
    stop.listen()
    passed_over = bring_back(run, limits)
    if run.done.exists():
        return 0
    with (
        closing(Pulse(run.events, limits.attempt)) as log,
        mirrored(run, limits, log, stop.ask) as uploader,
    ):
        for warning in passed_over:
            log.write(warning)
        worker = Worker(run, recipe, limits, log, stop, team, uploader)
        team.listen(lambda failure: _end_for(failure, worker, team, uploader))
        try:
            worker.work()
        except StageStopped:
            worker.end("interrupted")
            return InterruptedRunError.exit_code
        except Exception as error:  # noqa: BLE001 - whatever it is, the launcher has to be told
            print(redacted(traceback.format_exc()), file=sys.stderr)  # noqa: T201 - worker.log
            worker.fail(error)
            return StillhouseError.exit_code
    return 0


def _end_for(
    failure: WorkerError, worker: "Worker", team: Team, uploader: Uploader | None
) -> NoReturn:
    """Say what went wrong in another process and end this one, wherever it waits for that one."""
    worker.fail(failure)
    if uploader is not None:
        uploader.close(CLOSING_S)
    team.give_up()
    os._exit(StillhouseError.exit_code)


class Worker:
    """One attempt at a run."""

    def __init__(
        self,
        run: RunDir,
        recipe: Recipe,
        limits: Limits,
        log: EventLog,
        stop: Stop,
        team: Team,
        uploader: Uploader | None = None,
    ) -> None:
        self._uploader = uploader
        self._run = run
        self._recipe = recipe
        self._limits = limits
        self._log = log
        self._stop = stop
        self._team = team
        self._stage: Stage | None = None
        self._failing = threading.Lock()
        self._has_failed = False
        self._noted = {
            event.stage for event, _ in read_events(run.events) if isinstance(event, StageDone)
        }

    def work(self) -> None:
        """All stages that are left, and `done.json` at the end.

        Raises:
            StageStopped: a person asked.
        """
        context = self._start()
        from distill.ahead import look_ahead
        from distill.evaluate import evaluate
        from distill.generate import generate
        from distill.train import train

        def train_together(context: Context) -> None:
            self._team.share(lambda: True)
            train(context, self._team)

        run, reason = self._run, None
        if not _is_trained(run):
            look_ahead(context, is_answered="generate" in self._noted)
        try:
            if self._recipe.teacher.kind in ("model", "api"):
                self._do(context, "generate", generate, is_done="generate" in self._noted)
            if self._limits.only == "generate":
                self.end("answered")
                return
            self._do(context, "train", train_together, is_done=_is_trained(run))
        except StageStopped as stopped:
            reason = _limit(stopped)
        trained = read_trained(run.student)
        try:
            if trained and self._recipe.evaluation:
                self._do(context, "evaluate", evaluate, is_done=_is_evaluated(run, self._recipe))
        except StageStopped as stopped:
            reason = reason or _limit(stopped)
        self._finish(trained or _nothing_trained(context), reason)

    def end(self, status: Ending) -> None:
        """Write the last line, once all else is stored: after it the machine is given back."""
        if self._uploader is not None:
            self._uploader.flush(CLOSING_S)
        self._say(WorkerEnded, status=status)
        self._log.sync()

    def fail(self, error: Exception) -> None:
        """Say what went wrong; on a full disk only stderr may be left to say it to.

        Of several faults at once, here and in another process, the first is said.
        """
        with self._failing:
            if self._has_failed:
                return
            self._has_failed = True
            failure = as_worker_error(error, self._stage, self._recipe)
            print(f"Error: {failure}", file=sys.stderr)  # noqa: T201 - worker.log
            self._team.lost = self._stage == "train"
            with suppress(OSError):
                self._say(Failed, code=failure.code, message=failure.message, remedy=failure.remedy)
                self.end("failed")

    def _start(self) -> Context:
        device = _start_torch(self._recipe)
        from distill.models import device_name

        self._say(
            WorkerStarted,
            pid=os.getpid(),
            device=device if device == "cpu" else f"cuda:{device_name(device)}",
            processes=self._team.world,
            versions={name: version(name) for name in ("torch", "transformers")},
        )
        return Context(
            self._run,
            self._recipe,
            self._limits,
            self._log,
            self._stop,
            device,
            world=self._team.world,
        )

    def _do(
        self, context: Context, stage: Stage, work: Callable[[Context], None], *, is_done: bool
    ) -> None:
        if not is_done:
            from distill.models import free_memory

            self._stage = stage
            self._say(StageStarted, stage=stage)
            if stage == "train":  # scores of a student that learns on are not its own any more
                self._run.scores.unlink(missing_ok=True)
            # Here and not behind a stage: one that was stopped is held by its exception until now.
            free_memory()
            try:
                work(context)
            except StageStopped as stopped:
                if stage != "train":  # which says so itself, before it begins to save
                    self._say(Stopping, reason=stopped.reason)
                raise
        # A kill may have come between the work and this line: then it is written now.
        if not is_done or stage not in self._noted:
            self._say(StageDone, stage=stage)
            self._log.sync()

    def _finish(self, trained: Trained, reason: StopReason | None) -> None:
        status: Literal["done", "stopped"] = "stopped" if reason else "done"
        # A run that is done needs no checkpoint any more; one that stopped may be given more money.
        left_s = self._stop.seconds_left() if reason else 0.0
        if self._uploader is not None and left_s is not None:
            self._uploader.wait_for_checkpoint(left_s)
        self.end(status)
        done = Done(
            status=status,
            reason=reason,
            steps=trained.steps,
            of_steps=trained.of_steps,
            finished_at=time.time(),
        )
        write_model(self._run.done, done)

    def _say(self, event: type[Event], **fields: Any) -> None:
        self._log.write(event(t=time.time(), attempt=self._limits.attempt, **fields))


def _limit(stopped: StageStopped) -> StopReason:
    """The limit that stopped a stage; a person's wish goes on up."""
    if stopped.reason == "interrupt":
        raise stopped
    return stopped.reason


def _is_trained(run: RunDir) -> bool:
    trained = read_trained(run.student)
    return trained is not None and trained.is_whole


def _is_evaluated(run: RunDir, recipe: Recipe) -> bool:
    """Whether every task has its score; one that nobody came to when time ran out has none."""
    if not run.scores.exists():
        return False
    scores = read_model(run.scores, Scores).scores
    found = [scores.get(task.task) for task in recipe.evaluation]
    return all(score is not None and score.n == score.of for score in found)


def _nothing_trained(context: Context) -> Trained:
    from distill.data import load_rows

    rows = load_rows(context.recipe.data, context.run.path)
    return Trained(steps=0, of_steps=planned_steps(context.recipe, len(rows)))
