"""The first stage: the teacher answers every prompt, and what it wrote is kept.

Weights are run here, in the process; an endpoint is asked by `distill.teacher_api`. Each batch is
on the disk before the next begins, so a kill loses one batch at most, and what the same teacher
answered in an earlier run is not asked again.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from distill.cache import TraceCache, teacher_identity
from distill.context import Context, StageStopped, WorkerError
from distill.data import Row, load_rows
from distill.generation import answer_batch
from distill.text import prompt_ids
from distill.traces import TraceLog, jobs, read_traces
from recipes.recipe import ApiTeacher, ModelTeacher
from recipes.rundir import Warned

__all__ = ["generate", "read_traces", "training_rows"]


def generate(context: Context, environ: Mapping[str, str] = os.environ) -> None:
    """Have the teacher answer what is not answered yet; appends to `traces.jsonl`.

    Args:
        environ: STILLHOUSE_HOME says where the cache is (none without it), and the variable that
            the recipe names holds the key of a teacher behind an API.

    Raises:
        StageStopped: a limit was reached, or a person asked; what is answered is kept.
        WorkerError: the data or the teacher cannot be used, and why.
    """
    teacher = context.recipe.teacher
    if not isinstance(teacher, ModelTeacher | ApiTeacher):
        return
    identity = teacher_identity(teacher)
    rows = load_rows(context.recipe.data, context.run.path)
    wanted = list(jobs(rows, teacher.sampling, identity or f"{teacher.model} as of this run"))
    home = environ.get("STILLHOUSE_HOME")
    cache = TraceCache(Path(home), identity, teacher.sampling) if home and identity else None
    with TraceLog(context, wanted, cache) as traces:
        if traces.missing:
            if isinstance(teacher, ModelTeacher):
                _run_model(context, teacher, traces)
            else:
                from distill.teacher_api import ask_endpoint

                ask_endpoint(context, teacher, traces, environ)
        context.log.write(traces.summary())


def training_rows(context: Context) -> list[tuple[Row, str]]:
    """What the student learns: each row with a completion, in the order of the data.

    The teacher's answers where one writes them, else the data's own. Answers that were cut off or
    are empty are left out, with a warning that counts them.

    Raises:
        WorkerError: nothing is left to learn.
    """
    rows = load_rows(context.recipe.data, context.run.path)
    if not isinstance(context.recipe.teacher, ModelTeacher | ApiTeacher):
        return [(row, row.completion) for row in rows if row.completion is not None]
    # Sorted, so that neither the cache nor a resumed run changes what is learnt when.
    traces = sorted(read_traces(context.run), key=lambda trace: (trace.row, trace.key))
    whole = [trace for trace in traces if trace.finish == "stop" and trace.text.strip()]
    cut = sum(trace.finish == "length" for trace in traces)
    if len(whole) < len(traces):
        left_out = f"{len(traces) - len(whole)} of the teacher's {len(traces)} answers are left out"
        reasons = f"{cut} cut off at max_new_tokens, {len(traces) - len(whole) - cut} empty"
        context.say(Warned, code="left_out", message=f"{left_out}: {reasons}")
    if not whole:
        raise WorkerError(
            "no_answers",
            f"none of the teacher's {len(traces)} answers can be learnt from: {cut} were cut off",
            "Raise teacher.sampling.max_new_tokens, or look into traces.jsonl.",
        )
    return [(rows[trace.row], trace.text) for trace in whole]


def _run_model(context: Context, teacher: ModelTeacher, traces: TraceLog) -> None:
    from distill.models import load_model, load_tokenizer, remote_code_allowed

    trusted = remote_code_allowed(teacher.trust_remote_code, context.limits)
    tokenizer = load_tokenizer(teacher.model, teacher.revision, trusted)
    prompts = {job.row.index: prompt_ids(tokenizer, job.row) for job in traces.missing}
    model = load_model(teacher.model, teacher.revision, teacher.dtype, context.device, trusted)
    traces.pace.start()
    sampling = teacher.sampling
    # Longest first: what does not fit shows at once, and the time left is not underestimated.
    order = sorted(traces.missing, key=lambda job: -len(prompts[job.row.index]))
    for start in range(0, len(order), sampling.batch_size):
        batch = order[start : start + sampling.batch_size]

        def look_up(tokens: int, answers: int = len(batch)) -> None:
            traces.pace.writing(tokens * answers)
            stop_if_due(context)

        stop_if_due(context)
        answers = answer_batch(
            model,
            tokenizer,
            [prompts[job.row.index] for job in batch],
            max_new_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seeds=[job.seed for job in batch],
            on_token=look_up,
        )
        for job, answer in zip(batch, answers, strict=True):
            traces.keep(
                job,
                answer.text,
                input_tokens=len(prompts[job.row.index]),
                output_tokens=answer.tokens,
                finish=answer.finish,
            )
        traces.sync()
        traces.pace.answered(len(batch), sum(answer.tokens for answer in answers))


def stop_if_due(context: Context) -> None:
    """
    Raises:
        StageStopped: a limit is reached, or a person asked.
    """
    reason = context.stop.due()
    if reason is not None:
        raise StageStopped(reason)
