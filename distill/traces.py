"""What the teacher is to answer, and the file of what it has answered: `traces.jsonl`.

The jobs of a run are a pure function of its recipe, so that a resumed run knows which are done. An
answer is on the disk before it counts as done; answers of earlier runs are taken from the cache.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from distill.cache import TraceCache, answer_key
from distill.context import Context, WorkerError
from distill.data import Row
from distill.pace import Pace
from recipes.errors import InvalidInputError
from recipes.recipe import Sampling
from recipes.rundir import Generated, RunDir, Trace, Warned, open_for_appending, read_lines

CACHE_EVERY = 1000
"""Answers that are put into the cache together; a kill leaves them to the next attempt."""


@dataclass(frozen=True)
class Job:
    """One answer to get."""

    key: str
    row: Row

    @property
    def seed(self) -> int:
        """Of this answer's own random numbers."""
        return int(self.key[:15], 16)


def jobs(rows: Iterable[Row], sampling: Sampling, identity: str) -> Iterator[Job]:
    """Every answer that is wanted, in the order of the data.

    A prompt that comes twice is sampled anew: its answers count on from where the first stopped.
    """
    asked: Counter[tuple[str | None, str]] = Counter()
    for row in rows:
        for _ in range(sampling.samples_per_prompt):
            nth = asked[row.system, row.prompt]
            asked[row.system, row.prompt] += 1
            yield Job(answer_key(identity, row.system, row.prompt, sampling, nth), row)


def read_traces(run: RunDir) -> list[Trace]:
    """All answers of the teacher so far, as they came, each once.

    A machine that was given up for lost may have sent answers after another had asked again: the
    first of two counts.

    Raises:
        InvalidInputError: a line is no trace.
    """
    traces: dict[tuple[int, str], Trace] = {}
    for number, (line, _) in enumerate(read_lines(run.traces), 1):
        try:
            trace = Trace.model_validate_json(line)
        except ValidationError as error:
            raise InvalidInputError(f"{run.traces}:{number} is not a trace of version 1") from error
        traces.setdefault((trace.row, trace.key), trace)
    return list(traces.values())


class TraceLog:
    """The pen for `traces.jsonl`. Use as a context manager.

    Raises:
        WorkerError: there are answers of another teacher than the recipe's.
    """

    def __init__(self, context: Context, wanted: Sequence[Job], cache: TraceCache | None) -> None:
        self._context = context
        self._cache = cache
        self._traces = read_traces(context.run)
        done = {(trace.row, trace.key) for trace in self._traces}
        if not done <= {(job.row.index, job.key) for job in wanted}:
            raise WorkerError(
                "teacher_changed",
                f"{context.run.traces} holds answers that are not this recipe's teacher's: "
                "its folder, the data or the sampling have changed since the run began",
                "Put back what was there, or launch the recipe as a new run.",
            )
        self.wanted = len(wanted)
        """Answers of the whole run."""
        self.missing = [job for job in wanted if (job.row.index, job.key) not in done]
        self._file = open_for_appending(context.run.traces)
        self._uncached = self._take_from_cache(wanted)
        self.pace = Pace(context, "generate", done=len(self._traces), total=len(wanted))

    def keep(
        self,
        job: Job,
        text: str,
        *,
        input_tokens: int,
        output_tokens: int,
        finish: Literal["stop", "length"],
    ) -> None:
        """Write an answer; `sync` makes it last."""
        trace = Trace(
            key=job.key,
            row=job.row.index,
            prompt=job.row.prompt,
            text=text,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            finish=finish,
        )
        self._write(trace)
        self._uncached.append(trace)

    def sync(self) -> None:
        """Make all answers so far survive a power cut."""
        self._file.flush()
        os.fsync(self._file.fileno())
        if len(self._uncached) >= CACHE_EVERY:
            self._fill_cache()

    def summary(self) -> Generated:
        """What the stage has come to."""
        traces = self._traces
        return Generated(
            t=self._context.clock(),
            attempt=self._context.limits.attempt,
            answers=len(traces),
            cached=sum(trace.cached for trace in traces),
            truncated=sum(trace.finish == "length" for trace in traces),
            input_tokens=sum(trace.input_tokens for trace in traces),
            output_tokens=sum(trace.output_tokens for trace in traces),
        )

    def __enter__(self) -> "TraceLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._fill_cache()

    def _write(self, trace: Trace) -> None:
        self._file.write(trace.model_dump_json().encode() + b"\n")
        self._traces.append(trace)

    def _take_from_cache(self, wanted: Sequence[Job]) -> list[Trace]:
        """Answer from the cache what it knows; returns own answers that it does not know yet."""
        known = self._cache.find(job.key for job in wanted) if self._cache else {}
        own = [trace for trace in self._traces if trace.key not in known]
        for job in self.missing:
            if job.key in known:
                again = {"row": job.row.index, "prompt": job.row.prompt, "cached": True}
                self._write(known[job.key].model_copy(update=again))
        self.missing = [job for job in self.missing if job.key not in known]
        self._file.flush()
        os.fsync(self._file.fileno())
        return own

    def _fill_cache(self) -> None:
        try:
            if self._cache:
                self._cache.add(self._uncached)
        except OSError as error:
            self._cache = None
            self._context.say(
                Warned,
                code="cache",
                message=f"answers cannot be kept for later runs: {error}. This run goes on.",
            )
        self._uncached = []
