"""The teacher's stage: nothing is answered twice, nothing is lost, nothing cut off is learnt."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill.cache import TraceCache, answer_key, teacher_identity
from distill.context import Context, StageStopped, Stop, WorkerError
from distill.generate import generate, read_traces, training_rows
from distill.traces import jobs
from recipes.errors import InvalidInputError
from recipes.recipe import ApiTeacher, ModelTeacher, Recipe, Sampling
from recipes.rundir import Generated, Limits, Progress, Trace, Warned, read_events

DATA = {"kind": "generated", "prompt": "{question}=", "rows": 20}

MakeContext = Callable[..., Context]


@pytest.fixture
def taught(model_folder: Path, make_recipe: Callable[..., Recipe]) -> Callable[..., Recipe]:
    """A recipe with a teacher in a folder; sampling fields given replace its own."""

    def make(data: dict[str, Any] = DATA, **sampling: Any) -> Recipe:
        ways = {"max_new_tokens": 6, "batch_size": 4} | sampling
        teacher = {"kind": "model", "model": str(model_folder), "dtype": "float32"}
        return make_recipe(teacher=teacher | {"sampling": ways}, data=data)

    return make


class StopAfter(Stop):
    """Due after so many questions."""

    def __init__(self, questions: int) -> None:
        super().__init__(Limits(attempt=1, started_at=0, usd_per_hour=0, machine_usd=0))
        self._left = questions

    def due(self, reserve_s: float = 0.0) -> Any:
        self._left -= 1
        return "budget" if self._left < 0 else None


def events(context: Context, kind: type) -> list[Any]:
    return [event for event, _ in read_events(context.run.events) if isinstance(event, kind)]


def as_answers(traces: list[Trace]) -> dict[tuple[int, str], str]:
    return {(trace.row, trace.key): trace.text for trace in traces}


def test_every_row_is_answered_once_with_counts_and_progress_to_the_end(
    taught: Callable[..., Recipe], make_context: MakeContext
) -> None:
    context = make_context(taught())

    generate(context, {})

    traces = read_traces(context.run)
    assert sorted(trace.row for trace in traces) == list(range(20))
    assert all(trace.input_tokens == 8 and 1 <= trace.output_tokens <= 6 for trace in traces)
    [told] = events(context, Generated)
    assert told.answers == 20
    assert told.cached == 0
    assert told.output_tokens == sum(trace.output_tokens for trace in traces)
    last = events(context, Progress)[-1]
    assert (last.done, last.total, last.unit) == (20, 20, "answers")


def test_an_answer_that_a_lost_machine_sent_late_counts_once(
    taught: Callable[..., Recipe], make_context: MakeContext
) -> None:
    context = make_context(taught())
    generate(context, {})
    once = read_traces(context.run)

    with context.run.traces.open("ab") as file:
        file.write(context.run.traces.read_bytes().splitlines(keepends=True)[0])

    assert read_traces(context.run) == once


def test_a_resumed_stage_goes_on_behind_what_is_there_and_ends_the_same(
    taught: Callable[..., Recipe], make_context: MakeContext
) -> None:
    straight = make_context(taught(temperature=1.0), "straight")
    generate(straight, {})

    for seed in range(2):
        resumed = make_context(taught(temperature=1.0), f"resumed-{seed}")
        steps = random.Random(seed)
        for _ in range(4):
            context = make_context(
                taught(temperature=1.0), f"resumed-{seed}", StopAfter(steps.randint(6, 8))
            )
            with pytest.raises(StageStopped, match="budget"):
                generate(context, {})
            # A kill in the middle of a line.
            with context.run.traces.open("ab") as file:
                file.write(b'{"key": "torn')
        before = as_answers(read_traces(resumed.run))
        generate(resumed, {})
        after = as_answers(read_traces(resumed.run))

        assert 0 < len(before) < 20
        assert before.items() <= after.items()
        assert after == as_answers(read_traces(straight.run))
        assert training_rows(resumed) == training_rows(straight)


def test_a_second_run_pays_nothing_and_says_so(
    taught: Callable[..., Recipe], make_context: MakeContext, tmp_path: Path
) -> None:
    home = {"STILLHOUSE_HOME": str(tmp_path / "home")}
    first, second = make_context(taught(), "first"), make_context(taught(), "second", StopAfter(0))

    generate(first, home)
    generate(second, home)  # would stop before the first batch

    assert events(second, Generated)[0].cached == 20
    assert events(first, Generated)[0].cached == 0
    assert as_answers(read_traces(first.run)) == as_answers(read_traces(second.run))


def test_answers_of_a_killed_attempt_reach_the_cache_with_its_resume(
    taught: Callable[..., Recipe], make_context: MakeContext, tmp_path: Path
) -> None:
    home = {"STILLHOUSE_HOME": str(tmp_path / "home")}
    generate(make_context(taught(), "killed"), {})  # as if killed before it filled the cache
    generate(make_context(taught(), "killed"), home)

    other = make_context(taught(), "other", StopAfter(0))
    generate(other, home)

    assert events(other, Generated)[0].cached == 20


def test_only_rows_that_are_new_are_answered(
    taught: Callable[..., Recipe], make_context: MakeContext, tmp_path: Path
) -> None:
    home = {"STILLHOUSE_HOME": str(tmp_path / "home")}
    generate(make_context(taught(), "first"), home)
    more = make_context(taught(data=DATA | {"rows": 25}), "more")

    generate(more, home)

    [told] = events(more, Generated)
    assert (told.answers, told.cached) == (25, 20)


@pytest.mark.parametrize(
    ("before", "after", "cached"),
    [
        ({}, {"batch_size": 7}, 20),
        ({}, {"seed": 3}, 20),
        ({"temperature": 1.0}, {"temperature": 1.0, "samples_per_prompt": 2, "batch_size": 9}, 20),
        ({"temperature": 1.0}, {"temperature": 1.0, "seed": 3}, 0),
        ({}, {"max_new_tokens": 5}, 0),
    ],
)
def test_only_another_way_of_answering_is_answered_anew(
    taught: Callable[..., Recipe],
    make_context: MakeContext,
    tmp_path: Path,
    before: dict[str, Any],
    after: dict[str, Any],
    cached: int,
) -> None:
    home = {"STILLHOUSE_HOME": str(tmp_path / "home")}
    generate(make_context(taught(**before), "first"), home)
    changed = make_context(taught(**after), "changed")

    generate(changed, home)

    assert events(changed, Generated)[0].cached == cached


def test_a_cache_that_cannot_be_written_or_read_costs_no_run(
    taught: Callable[..., Recipe], make_context: MakeContext, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "cache").write_text("a file where a folder belongs")
    context = make_context(taught())

    generate(context, {"STILLHOUSE_HOME": str(tmp_path / "home")})

    assert events(context, Generated)[0].answers == 20
    [warned] = events(context, Warned)
    assert warned.code == "cache"
    assert "This run goes on" in warned.message


def test_a_torn_file_in_the_cache_is_no_answer(tmp_path: Path) -> None:
    cache = TraceCache(tmp_path, "teacher", Sampling())
    trace = Trace(
        key="k", row=0, prompt="1", text="2", input_tokens=1, output_tokens=1, finish="stop"
    )
    cache.add([trace])
    [file] = tmp_path.rglob("*.jsonl")
    (file.parent / "x.jsonl").write_bytes(b'{"key": "other\n\xff\n' + file.read_bytes()[:30])

    assert cache.find(["k", "other"]) == {"k": trace}
    assert TraceCache(tmp_path, "teacher", Sampling(max_new_tokens=5)).find(["k"]) == {}


def test_teachers_are_told_apart_by_what_they_are(
    tmp_path: Path, new_model: Callable[[Path, int], Path]
) -> None:
    def folder(path: Path) -> str | None:
        return teacher_identity(ModelTeacher(model=str(path)))

    one, same, other = (
        new_model(tmp_path / name, seed) for name, seed in [("a", 0), ("b", 0), ("c", 1)]
    )
    (tmp_path / "link").symlink_to(one)

    assert folder(one) == folder(same) == folder(tmp_path / "link") != folder(other)
    hub = [ModelTeacher(model="a/b", revision=revision) for revision in ("1", "2", None)]
    assert teacher_identity(hub[0]) != teacher_identity(hub[1])
    assert teacher_identity(hub[2]) is None
    api = ApiTeacher(base_url="http://x/v1/", model="m")
    assert teacher_identity(api) == teacher_identity(
        api.model_copy(update={"base_url": "http://x/v1", "concurrency": 3})
    )
    assert teacher_identity(api) != teacher_identity(api.model_copy(update={"model": "n"}))


def test_only_what_can_change_an_answer_changes_its_key() -> None:
    def key(prompt: str = "p", system: str | None = None, sample: int = 0, **ways: Any) -> str:
        return answer_key("teacher", system, prompt, Sampling(**ways), sample)

    assert key() == key(batch_size=3) == key(seed=7) == key(sample=1)
    warm = {"temperature": 1.0}
    different = [
        key(),
        key(prompt="q"),
        key(system=""),
        key(max_new_tokens=9),
        key(**warm),
        key(**warm, seed=7),
        key(**warm, top_p=0.5),
        key(**warm, sample=1),
    ]
    assert len(set(different)) == len(different)


def test_several_answers_to_a_prompt_differ_also_where_it_comes_twice(
    taught: Callable[..., Recipe], make_context: MakeContext, tmp_path: Path
) -> None:
    (tmp_path / "twice.jsonl").write_text('{"q": "1+2="}\n' * 2)
    data = {"kind": "jsonl", "path": str(tmp_path / "twice.jsonl"), "prompt": "{q}"}
    context = make_context(taught(data=data, temperature=3.0, samples_per_prompt=3))

    generate(context, {})

    traces = read_traces(context.run)
    assert sorted(trace.row for trace in traces) == [0, 0, 0, 1, 1, 1]
    assert len({trace.text for trace in traces}) == 6


def test_answers_cut_off_or_empty_are_counted_and_never_learnt(
    taught: Callable[..., Recipe], make_context: MakeContext
) -> None:
    context = make_context(taught())
    generate(context, {})
    kinds = [("stop", "5"), ("length", "12"), ("stop", " "), ("stop", "7")]
    traces = [
        trace.model_copy(update={"finish": finish, "text": text})
        for trace, (finish, text) in zip(read_traces(context.run), kinds * 5, strict=True)
    ]
    lines = [trace.model_dump_json() + "\n" for trace in traces]
    context.run.traces.write_text("".join(lines))

    pairs = training_rows(context)

    assert {text for _, text in pairs} == {"5", "7"}
    assert [row.index for row, _ in pairs] == sorted(row.index for row, _ in pairs)
    assert len(pairs) == 10
    assert events(context, Warned)[-1].message == (
        "10 of the teacher's 20 answers are left out: 5 cut off at max_new_tokens, 5 empty"
    )


def test_a_teacher_that_never_comes_to_an_end_is_an_error_that_says_what_to_raise(
    taught: Callable[..., Recipe], make_context: MakeContext
) -> None:
    context = make_context(taught())
    generate(context, {})
    cut = [trace.model_copy(update={"finish": "length"}) for trace in read_traces(context.run)]
    context.run.traces.write_text("".join(trace.model_dump_json() + "\n" for trace in cut))

    with pytest.raises(WorkerError, match="none of the teacher's 20 answers can be learnt"):
        training_rows(context)


def test_the_datas_own_completions_are_learnt_where_nobody_writes_any(
    make_recipe: Callable[..., Recipe], make_context: MakeContext
) -> None:
    context = make_context(make_recipe())

    generate(context, {})

    assert not context.run.traces.exists()
    assert len(training_rows(context)) == 20


def test_a_prompt_the_teacher_cannot_read_is_refused_before_it_writes(
    taught: Callable[..., Recipe], make_context: MakeContext
) -> None:
    context = make_context(taught(data=DATA | {"prompt": "{question}?"}))

    with pytest.raises(WorkerError, match="no token for '\\?', which row 0 contains"):
        generate(context, {})
    assert read_traces(context.run) == []


def test_a_line_that_is_no_trace_is_named(
    taught: Callable[..., Recipe], make_context: MakeContext
) -> None:
    context = make_context(taught())
    context.run.traces.write_text(json.dumps({"row": 0}) + "\n")

    with pytest.raises(InvalidInputError, match=r"traces\.jsonl:1 is not a trace"):
        read_traces(context.run)


def test_the_jobs_of_a_recipe_are_always_the_same(taught: Callable[..., Recipe]) -> None:
    from distill.data import load_rows

    recipe = taught(temperature=1.0, samples_per_prompt=2)
    teacher = recipe.teacher
    assert isinstance(teacher, ModelTeacher)
    rows = load_rows(recipe.data, Path("/"))

    once = list(jobs(rows, teacher.sampling, "x"))

    assert once == list(jobs(rows, teacher.sampling, "x"))
    assert len({job.key for job in once}) == 40
    assert len({job.seed for job in once}) == 40
