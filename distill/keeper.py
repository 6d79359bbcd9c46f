"""What a training keeps: checkpoints on the way, the student at the end, and time for both."""

import time
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
    ) -> None:
        self._context = context
        self._team = team
        self._learner = learner
        self._tokenizer = tokenizer
        self._steps = steps
        self._fingerprint = fingerprint
        self._saved_steps = 0
        self._saved_at = time.monotonic()
        self._write_s = _unmeasured_write_s(learner)

    @property
    def reserve_s(self) -> float:
        """What ending in good order takes from now [s]: checkpoint, student, evaluation if known.

        The student is a third of a checkpoint; it is counted as a whole one, for the tokenizer and
        for a disk that is slower the second time.
        """
        return 2 * self._write_s + (self._context.limits.evaluation_s or 0.0)

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
            due = time.monotonic() - self._saved_at >= self._context.limits.checkpoint_every_s
        if self._team.agree(due):
            self.save_checkpoint()

    def save_checkpoint(self) -> None:
        """Write a checkpoint, unless the last one is of this very step."""
        steps = self._learner.steps
        if steps == self._saved_steps:
            return
        began = time.monotonic()
        state = {"fingerprint": self._fingerprint, "learner": self._learner.state()}
        size = 0
        if self._team.rank == 0:
            size = checkpoint.save(self._context.run.checkpoints, steps, state)
        self._saved_at = time.monotonic()
        self._saved_steps = steps
        self._write_s = self._saved_at - began
        self._context.say(CheckpointSaved, step=steps, size_bytes=size, seconds=self._write_s)

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


def _unmeasured_write_s(learner: Learner) -> float:
    """What a checkpoint takes before one was written [s]: 12 bytes a parameter at 100 MB/s."""
    return 0.5 + 12 * learner.parameters / 100e6
