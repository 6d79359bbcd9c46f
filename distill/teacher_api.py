"""A teacher behind an endpoint, asked by many threads inside a limit of dollars.

Money is reserved at its worst case before a request is sent, and settled by the answer's own usage.
What is reserved and what is spent never pass the limit together, whatever the threads do. An answer
is on the disk, and its cost in the events, before its thread asks again. A request that may have
been billed and brought no usable answer is settled at its worst case; so is one that a killed
attempt left open. A prompt that the endpoint will not have is left out, unless there are many.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from distill.context import Context, Reason, StageStopped, WorkerError
from distill.endpoint import Endpoint, Reply, TryAgain, Unwanted
from distill.purse import Purse, Reservation
from distill.text import messages
from distill.traces import Job, TraceLog
from recipes.api_tokens import MESSAGE_TOKENS, TEMPLATE_TOKENS
from recipes.recipe import ApiTeacher
from recipes.rundir import Warned

TRIES = 8
"""Requests for one answer before the stage fails."""

MOST_REFUSED, MOST_REFUSED_SHARE = 2, 0.1
"""Prompts that the endpoint may refuse before the stage fails; a share of them all counts once
another prompt of the run was answered, so that it cannot be the request as such."""

LONGEST_WAIT_S = 60.0
"""Between two tries, unless the endpoint names a longer time."""

GRACE_S = 10.0
"""How long answers under way, which are paid for, are waited for after a stop [s]."""

POLL_S = 0.1


@dataclass(frozen=True)
class Patience:
    """Time, as the threads see it, and how much of it they have at the end."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    grace_s: float = GRACE_S


PATIENCE = Patience()


def ask_endpoint(
    context: Context,
    teacher: ApiTeacher,
    traces: TraceLog,
    environ: Mapping[str, str] = os.environ,
    patience: Patience = PATIENCE,
) -> None:
    """Have the endpoint answer what is missing in `traces`.

    Raises:
        StageStopped: money or time is at its end, or a person asked; answers are kept.
        WorkerError: no key, no price, or the endpoint refuses; answers are kept.
    """
    key = api_key(teacher, environ)
    desk = Desk(context, traces, Purse(context))
    endpoint = Endpoint(teacher, key, patience.now)
    askers = [
        threading.Thread(target=_ask_all, args=(desk, teacher, endpoint, patience), daemon=True)
        for _ in range(min(teacher.concurrency, len(traces.missing)))
    ]
    traces.pace.start()
    for asker in askers:
        asker.start()
    try:
        _watch(context, desk, askers, patience.grace_s)
    finally:
        desk.close()
        endpoint.close()
    desk.raise_what_happened()


def api_key(teacher: ApiTeacher, environ: Mapping[str, str]) -> str:
    """The key that the recipe's variable holds.

    Raises:
        WorkerError: there is none, or it is none that fits into a header.
    """
    key = environ.get(teacher.api_key_env, "").strip()
    if not key:
        raise WorkerError(
            "api_key",
            f"the environment variable {teacher.api_key_env} is not set, and it holds the "
            "teacher's key",
            "Set it and resume. For an endpoint that wants no key, any word will do.",
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise WorkerError(
            "api_key",
            f"what {teacher.api_key_env} holds cannot be a key: it has blanks or odd characters",
            "Set it anew, without quotes or line breaks.",
        )
    return key


def _watch(context: Context, desk: "Desk", askers: list[threading.Thread], grace_s: float) -> None:
    """Look after the threads until they have ended, or have had their time to."""
    give_up_at = float("inf")
    while alive := [asker for asker in askers if asker.is_alive()]:
        if time.monotonic() > give_up_at:
            break
        alive[0].join(POLL_S)
        reason = context.stop.due(reserve_s=grace_s)
        if reason is not None:
            desk.stop(reason)
        if desk.is_ending and give_up_at == float("inf"):
            give_up_at = time.monotonic() + grace_s
        desk.show()


# ---- what the threads share ------------------------------------------------------------------


class Desk:
    """Jobs out, answers in, money counted: every method is safe for threads."""

    def __init__(self, context: Context, traces: TraceLog, purse: Purse) -> None:
        self._changed = threading.Condition()
        self._context = context
        self._traces = traces
        self._purse = purse
        self._jobs = iter(traces.missing)
        self._stopped: Reason | None = None
        self._failed: BaseException | None = None
        self._closed = False
        self._warned = False
        self._refused: list[tuple[Job, str]] = []
        self._has_answer = len(traces.missing) < traces.wanted

    @property
    def is_ending(self) -> bool:
        return self._closed or self._stopped is not None or self._failed is not None

    def next_job(self) -> Job | None:
        """The next answer to get; `None` when there is no more, or it is time to end."""
        with self._changed:
            return None if self.is_ending else next(self._jobs, None)

    def reserve(self, job: Job, max_new_tokens: int) -> Reservation | None:
        """Set the worst case of one request aside, waiting for others to settle if need be.

        Returns:
            `None` when it is time to end: also because not even the rest of the money is enough.
        """
        inputs = worst_input_tokens(job)
        with self._changed:
            while not self.is_ending and not self._purse.fits(inputs, max_new_tokens):
                if self._purse.is_all_settled:
                    self._purse.warn_empty(inputs, max_new_tokens)
                    self._stopped = "budget"
                else:
                    self._changed.wait()
            return None if self.is_ending else self._purse.reserve(inputs, max_new_tokens)

    def keep(self, job: Job, reply: Reply, reservation: Reservation) -> None:
        """Write an answer down, then what it cost. In this order: no paid answer is lost."""
        with self._changed:
            if self._closed:
                return
            inputs, outputs = self._purse.counted(reservation, reply)
            self._traces.keep(
                job, reply.text, input_tokens=inputs, output_tokens=outputs, finish=reply.finish
            )
            self._traces.sync()
            self._purse.settle(reservation, inputs, outputs)
            self._has_answer = True
            if reply.cut_by is not None and not self._warned:
                self._warned = True
                self._context.say(Warned, code="cut_off", message=_cut_off(job, reply.cut_by))
            self._traces.pace.answered(1, outputs)
            self._changed.notify_all()

    def give_up(self, reservation: Reservation, *, maybe_billed: bool) -> None:
        """A request brought no answer: settle it at its worst case, or at nothing."""
        with self._changed:
            if self._closed:
                return
            if maybe_billed:
                self._purse.settle(reservation, reservation.input_tokens, reservation.output_tokens)
            else:
                self._purse.settle(reservation, 0, 0)
            self._changed.notify_all()

    def refuse(self, job: Job, said: str) -> None:
        """The endpoint will not have a prompt: leave it out, as long as these are few."""
        with self._changed:
            self._refused.append((job, said))
            share = MOST_REFUSED_SHARE if self._has_answer else 0
            if len(self._refused) > max(MOST_REFUSED, share * self._traces.wanted):
                self._failed = self._failed or _refusal(self._refused)
            self._changed.notify_all()

    def stop(self, reason: Reason) -> None:
        """Let nobody begin anything more."""
        with self._changed:
            self._stopped = self._stopped or reason
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self._failed = self._failed or error
            self._changed.notify_all()

    def show(self) -> None:
        with self._changed:
            self._traces.pace.writing(0)

    def close(self) -> None:
        """What comes in from now on is not written: its reservation stays open, for the resume."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def raise_what_happened(self) -> None:
        """
        Raises:
            StageStopped: it was time to end before all was answered.
            WorkerError: the endpoint answers nothing, or refuses too much.
        """
        if self._failed is not None:
            raise self._failed
        if self._refused and self._has_answer:
            self._context.say(Warned, code="refused", message=_left_out(self._refused))
        if self._stopped is not None:
            raise StageStopped(self._stopped)
        if not self._has_answer and self._refused:
            raise _refusal(self._refused)


def _rows(refused: list[tuple[Job, str]]) -> str:
    rows = sorted({job.row.index for job, _ in refused})
    shown = ", ".join(map(str, rows[:10])) + (", …" if len(rows) > 10 else "")
    return f"{'row' if len(rows) == 1 else 'rows'} {shown} of the data"


def _refusal(refused: list[tuple[Job, str]]) -> WorkerError:
    return WorkerError(
        "teacher_api",
        f"{_rows(refused)} cannot be asked: {refused[0][1]}",
        "Change the recipe or these rows as the endpoint says; what is answered is not paid again.",
    )


def _left_out(refused: list[tuple[Job, str]]) -> str:
    return f"the endpoint refuses {_rows(refused)}, so they are left out: {refused[0][1]}"


def _cut_off(job: Job, word: str) -> str:
    return (
        f"the endpoint broke the answer to row {job.row.index} of the data off ({word!r}): such "
        "answers count as cut off and are not learnt; of further ones nothing is said"
    )


def worst_input_tokens(job: Job) -> int:
    """More tokens than a prompt can have: a token is at least one byte of UTF-8."""
    sizes = [len(message["content"].encode()) for message in messages(job.row)]
    return TEMPLATE_TOKENS + sum(MESSAGE_TOKENS + size for size in sizes)


# ---- what each thread does -------------------------------------------------------------------


def _ask_all(desk: Desk, teacher: ApiTeacher, endpoint: Endpoint, patience: Patience) -> None:
    try:
        while (job := desk.next_job()) is not None:
            _ask_patiently(desk, teacher, endpoint, patience, job)
    except BaseException as error:  # noqa: BLE001  # raised again in the main thread
        desk.fail(error)


def _ask_patiently(
    desk: Desk, teacher: ApiTeacher, endpoint: Endpoint, patience: Patience, job: Job
) -> None:
    """Get one answer, trying again where that may help."""
    chance = random.Random(job.seed)  # noqa: S311  # spreads the retries
    what = ""
    for attempt in range(TRIES):
        reservation = desk.reserve(job, teacher.sampling.max_new_tokens)
        if reservation is None:
            return
        try:
            reply = endpoint.ask(messages(job.row))
        except TryAgain as failure:
            desk.give_up(reservation, maybe_billed=failure.maybe_billed)
            what, wait_s = failure.what, failure.wait_s
        except Unwanted as refusal:
            desk.give_up(reservation, maybe_billed=False)
            desk.refuse(job, refusal.what)
            return
        except WorkerError:
            desk.give_up(reservation, maybe_billed=False)
            raise
        else:
            desk.keep(job, reply, reservation)
            return
        if wait_s is None:
            wait_s = min(LONGEST_WAIT_S, 2**attempt) * chance.uniform(0.5, 1)
        _wait(desk, wait_s, patience)
    raise WorkerError(
        "teacher_api",
        f"row {job.row.index} of the data could not be answered in {TRIES} tries: {what}",
        "Resume when the endpoint works again; what is answered stays and is not paid again.",
    )


def _wait(desk: Desk, seconds: float, patience: Patience) -> None:
    until = patience.now() + seconds
    while not desk.is_ending and (left := until - patience.now()) > 0:
        patience.sleep(min(left, POLL_S))
