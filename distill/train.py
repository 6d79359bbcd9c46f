"""Training: AdamW on text that a teacher wrote, with loss on its answers only.

Every step is a function of its number: which samples, which learning rate, which random numbers.
So a checkpoint holds weights, optimiser and counters and nothing else, and a resumed run goes the
same way as one that never stopped, bit for bit on a CPU.
"""

import math
import zlib
from array import array
from collections.abc import Sequence

import torch
from torch import nn

from distill.batching import Batches
from distill.context import Context, Reason, StageStopped
from distill.generate import training_rows
from distill.keeper import Keeper
from distill.learner import Learner
from distill.meter import Meter
from distill.models import context_tokens
from distill.samples import training_samples
from distill.student import open_student
from distill.team import ALONE, Team
from distill.text import Sample
from recipes.recipe import ApiTeacher, ModelTeacher, Training
from recipes.rundir import Stopping, Warned

REASONS: tuple[Reason | None, ...] = (None, "deadline", "budget", "interrupt")
"""To stop. Where processes see different ones, the last of them counts."""

# Changing these changes how a training is carried out, and not what comes out of it.
WITHOUT_EFFECT = {"micro_batch_size", "gradient_checkpointing", "threads", "checkpoint_every_steps"}


def train(context: Context, team: Team = ALONE) -> None:
    """Train the recipe's student and write `student/`; goes on from the newest checkpoint.

    Of several processes each trains on its share of every batch; the first one reads and writes.

    Raises:
        StageStopped: a limit came near, and the student is saved as it is by then, and a checkpoint
            where there is time for one; or a person asked, and a checkpoint is saved.
        WorkerError: data, model or numbers that no training comes out of.
    """
    training = context.recipe.training
    torch.manual_seed(training.seed)
    model, tokenizer = open_student(context)
    samples = team.share(
        lambda: training_samples(
            training_rows(context),
            tokenizer,
            training,
            context_tokens(model),
            lambda code, message: context.say(Warned, code=code, message=message),
            are_answers=isinstance(context.recipe.teacher, ModelTeacher | ApiTeacher),
        )
    )
    batches = Batches([len(s.input_ids) for s in samples], training.batch_size, training.seed)
    steps = training.steps or batches.steps(training.epochs or 1)
    mark = fingerprint(samples, training, steps, model)
    learner = Learner(model, training, context.device, team)
    keeper = Keeper(context, team, learner, tokenizer, steps, mark)
    keeper.resume()
    meter = Meter(context, learner, steps)

    while learner.steps < steps:
        due = context.stop.due(keeper.reserve_s(meter.step_s))
        if reason := REASONS[team.agree(REASONS.index(due))]:
            context.say(Stopping, reason=reason)
            if reason == "interrupt":
                keeper.save_checkpoint()
            else:
                keeper.save_at_limit()
            raise StageStopped(reason)
        batch = [samples[number] for number in batches.at(learner.steps)]
        result = learner.step(batch, rate := learning_rate(training, learner.steps, steps))
        meter.count(batch, result, rate)
        keeper.save_checkpoint_if_due()
    keeper.save_student()


def learning_rate(training: Training, step: int, steps: int) -> float:
    """Of step `step` (from 0) of `steps`: up in a line, then down in half a cosine.

    The cosine would reach `final_learning_rate_share` of the highest rate one step after the last:
    a share of 0 leaves no step without effect.
    """
    peak, warmup = training.learning_rate, round(training.warmup_share * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / (steps - warmup)
    final = training.final_learning_rate_share
    return peak * (final + (1 - final) * (1 + math.cos(math.pi * done)) / 2)


def fingerprint(samples: Sequence[Sample], training: Training, steps: int, model: nn.Module) -> int:
    """Tells trainings apart whose checkpoints must not be mixed: other samples, steps or shapes.

    Of the student only its shapes count: its weights come out of the checkpoint.
    """
    settings = training.model_dump_json(exclude=WITHOUT_EFFECT)
    shapes = [(name, tuple(weight.shape)) for name, weight in model.named_parameters()]
    crc32 = zlib.crc32(f"{settings} {shapes}".encode(), steps)
    for sample in samples:
        crc32 = zlib.crc32(array("q", [sample.prompt_tokens, *sample.input_ids]).tobytes(), crc32)
    return crc32
