"""Our own runs on rented GPUs, as measurements that correct the estimate of the next one.

Only what a GPU did counts: a run on this machine says nothing of rented ones, and neither does one
whose worker found no GPU, or used another number of them than was paid for.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from pydantic import ValidationError

from launcher.estimate.evidence import OWN, Evidence
from launcher.estimate.gpus import find_gpu
from launcher.estimate.plausible import attainable_flops
from launcher.estimate.work import Machine
from launcher.market.offers import Offer
from launcher.plans.kinds import Sharing
from launcher.plans.read_facts import student_facts
from launcher.plans.work_of import training_work
from recipes.errors import StillhouseError
from recipes.recipe import Recipe
from recipes.rundir import (
    AnyEvent,
    CheckpointSaved,
    TrainStep,
    WorkerStarted,
    attempt_events,
)
from tracking.books import Attempt, Books
from tracking.home import Home

NEWEST = 30
"""So many attempts are looked at, the newest first: software changes, and so does its speed."""

LEAST_STEPS = 5
"""Fewer say little: the first step is slow, and samples differ in length."""


def own_evidence(home: Home, runs: Iterable[Books]) -> tuple[Evidence, ...]:
    """What the newest of our own runs measured.

    Args:
        runs: all of them, the newest first.
    """
    return tuple(islice(_evidence(home, runs), NEWEST))


def _evidence(home: Home, runs: Iterable[Books]) -> Iterator[Evidence]:
    for books in runs:
        for attempt in books.attempts:
            if attempt.ended_at is None:
                continue
            try:
                recipe = Recipe.model_validate(books.opened.recipe)
                events = attempt_events(home.run(books.run_id), attempt.number)
                measured = evidence_of(books.run_id, recipe, attempt, events)
            except (StillhouseError, ValidationError):
                continue  # of another version, or its student is gone: no measurement, no harm
            if measured is not None:
                yield measured


def evidence_of(
    run_id: str, recipe: Recipe, attempt: Attempt, events: Sequence[AnyEvent]
) -> Evidence | None:
    """What one attempt measured; `None` where that says nothing of its GPU.

    The rate is taken from the end of the first step to that of the last one, without the
    checkpoints in between: start and saving are lines of their own in a plan.

    Raises:
        StillhouseError: nothing is known of its student any more.
    """
    machine, training = _machine(attempt.offer), recipe.training
    steps = [event for event in events if isinstance(event, TrainStep)]
    if machine is None or not steps or not _used_all(events, machine):
        return None
    first, last = steps[0], steps[-1]
    count, tokens = last.step - first.step, last.tokens - first.tokens
    seconds = last.t - first.t - _saving_s(events, first.t, last.t)
    if training.dtype == "float32" or count < LEAST_STEPS or seconds <= 0 or tokens <= 0:
        return None  # float32 is taken as a factor of its own (flops.FLOAT32_SLOWDOWN)
    work = training_work(
        training,
        student_facts(recipe),
        train_tokens=float(tokens),
        sample_tokens=tokens / count / training.batch_size,
        samples_per_step=training.batch_size,
    )
    waiting = Sharing.of(training, training.batch_size, machine.gpus).slower
    measured = Evidence(
        id=f"{run_id}/{attempt.number}",
        project=OWN,
        work=work,
        machine=machine,
        tokens_per_gpu_s=tokens / seconds / machine.gpus * waiting,
    )
    most = attainable_flops(machine.gpu) / machine.gpu.half_flops
    return measured if measured.share <= most else None  # a clock was wrong


def _machine(fields: dict[str, object]) -> Machine | None:
    """GPUs of an offer as the books have it; `None` where they are not in our table."""
    known = {key: value for key, value in fields.items() if key in Offer.model_fields}
    offer = Offer.model_validate(known)
    gpu = find_gpu(offer.gpu or "")
    return Machine(gpu, offer.accelerators, offer.nodes) if gpu and offer.accelerators else None


def _used_all(events: Sequence[AnyEvent], machine: Machine) -> bool:
    """Whether the worker trained on as many GPUs as were paid for."""
    starts = [event for event in events if isinstance(event, WorkerStarted)]
    return bool(starts) and all(
        start.device.startswith("cuda") and start.processes == machine.gpus for start in starts
    )


def _saving_s(events: Sequence[AnyEvent], after: float, until: float) -> float:
    saves = [event for event in events if isinstance(event, CheckpointSaved)]
    return sum(save.seconds for save in saves if after < save.t <= until)
