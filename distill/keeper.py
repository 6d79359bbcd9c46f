"""What a training keeps: checkpoints on the way, the student at the end, and time for both."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from distill import checkpoint
from distill.context import Context, WorkerError
from distill.learner import DTYPES, Learner
from distill.student import save_student
from distill.team import Team
from distill.trained import Trained
from recipes.rundir import CheckpointLoaded, CheckpointSaved, Warned

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BYTES_PER_S = 300e6
"""To disk and to run store, where nobody has said how long that takes [bytes/s]."""

CARE = 3.0
"""The student is what the money was for: so many times what writing and storing it is thought to
take is set aside."""

WORTH_SHARE = 0.25
"""Time for a checkpoint at a limit, which is of use if somebody raises the budget, is set aside
where it takes no larger share than this of the training that it saves."""


class Keeper:
    """Keeps what was learnt: checkpoints on the way, the student at the end."""

    def __init__(
        self,
        context: Context,
        team: Team,
        learner: Learner,
        tokenizer: "PreTrainedTokenizerBase",
        steps: int,
        fingerprint: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._team = team
        self._learner = learner
        self._tokenizer = tokenizer
        self._steps = steps
        self._fingerprint = fingerprint
        self._saved_steps = 0
        self._clock = clock
        self._saved_at = clock()
        limits, width = context.limits, DTYPES[context.recipe.training.dtype].itemsize
        size = width * learner.parameters
        self._student_share = width / 12  # of a checkpoint: weights and two moments in float32
        self._save_s = _known(limits.save_s, 0.5 + 12 * learner.parameters / BYTES_PER_S)
        self._upload_s = _known(limits.upload_s, size / BYTES_PER_S) if limits.store else 0.0

    def reserve_s(self, step_s: float) -> float:
        """What one more step and ending in good order take from now [s].

        The student is written, stored and scored. A checkpoint comes behind it, and is not counted
        where the steps that are left fit before the limit, or where it is not worth its time.
        """
        write_s = CARE * (0.5 + self._student_share * self._save_s)
        ending_s = write_s + self._scored_and_stored_s
        left_s = self._context.stop.seconds_left()
        steps_s = (self._steps - self._learner.steps) * step_s
        if left_s is None or steps_s + ending_s < left_s or not self._is_worth_its_time:
            return step_s + ending_s
        return step_s + ending_s + self._checkpoint_s

    @property
    def _checkpoint_s(self) -> float:
        """To write a checkpoint and to store it [s]."""
        return self._save_s + self._upload_s / self._student_share

    @property
    def _is_worth_its_time(self) -> bool:
        return self._checkpoint_s <= WORTH_SHARE * (self._clock() - self._saved_at)

    @property
    def _scored_and_stored_s(self) -> float:
        """From the student on the disk to its end [s]: it is sent while it answers."""
        return max(CARE * self._upload_s, self._context.limits.evaluation_s or 0.0)

    def resume(self) -> None:
        """Go on from the newest whole checkpoint, if there is one.

        Raises:
            WorkerError: it belongs to another training.
        """
        folder, is_first = self._context.run.checkpoints, self._team.rank == 0
        state = checkpoint.newest(folder, self._warn) if is_first else None
        if not self._team.share(lambda: state is not None):
            return
        if state and state["fingerprint"] != self._fingerprint:
            raise WorkerError(
                "other_training",
                f"the checkpoint of step {state['learner']['steps']} belongs to a training with "
                "another student, other samples or settings",
                f"Restore the run's recipe and traces, or remove {folder} to begin again.",
            )
        self._learner.load(state["learner"] if state else None)
        self._saved_steps = self._learner.steps
        self._context.say(CheckpointLoaded, step=self._learner.steps)

    def save_checkpoint_if_due(self) -> None:
        """After so many steps, or so many seconds, as recipe and limits say."""
        every_steps = self._context.recipe.training.checkpoint_every_steps
        if self._learner.steps == self._steps:
            return  # the student itself comes now
        if every_steps is not None:
            due = self._learner.steps % every_steps == 0
        else:
            due = self._clock() - self._saved_at >= self._context.limits.checkpoint_every_s
        if self._team.agree(due):
            self.save_checkpoint()

    def save_checkpoint(self) -> None:
        """Write a checkpoint, unless the last one is of this very step."""
        steps = self._learner.steps
        if steps == self._saved_steps:
            return
        began = self._clock()
        state = {"fingerprint": self._fingerprint, "learner": self._learner.state()}
        size = 0
        if self._team.rank == 0:
            size = checkpoint.save(self._context.run.checkpoints, steps, state)
        self._saved_at = self._clock()
        self._saved_steps = steps
        self._save_s = self._saved_at - began
        self._context.say(CheckpointSaved, step=steps, size_bytes=size, seconds=self._save_s)

    def save_at_limit(self) -> None:
        """Write the student, and behind it a checkpoint if that can be stored as well in time."""
        if self._learner.steps > 0:
            self.save_student()
        left_s = self._context.stop.seconds_left()
        in_time = left_s is None or self._checkpoint_s + self._scored_and_stored_s <= left_s
        if self._team.share(lambda: in_time):
            self.save_checkpoint()

    def save_student(self) -> None:
        """Write `student/` as it is now."""
        weights = self._learner.weights()
        if self._team.rank == 0:
            save_student(
                self._context.run.student,
                self._learner.model,
                self._tokenizer,
                weights,
                DTYPES[self._context.recipe.training.dtype],
                Trained(steps=self._learner.steps, of_steps=self._steps),
            )

    def _warn(self, message: str) -> None:
        self._context.say(Warned, code="checkpoint_skipped", message=message)


def _known(seconds: float | None, guess_s: float) -> float:
    return guess_s if seconds is None else seconds
