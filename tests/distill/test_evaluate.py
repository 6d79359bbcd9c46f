"""Scores are right, a kill costs nothing twice, and a part is scored as a part."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill.context import Context, StageStopped, Stop, WorkerError
from distill.data import load_rows
from distill.evaluate import Graded, evaluate
from recipes.recipe import Recipe
from recipes.rundir import Limits, Progress, Scored, Scores, read_events, read_model

MakeContext = Callable[..., Context]
TASK = {
    "task": "sums",
    "data": {
        "kind": "generated",
        "part": "held_out",
        "prompt": "{question}=",
        "completion": "{answer}",
        "rows": 12,
    },
    "answer_pattern": "([0-9]+)",
    "max_new_tokens": 5,
    "batch_size": 5,
}


@pytest.fixture
def make_exam(
    make_recipe: Callable[..., Recipe],
    make_context: MakeContext,
    new_model: Callable[[Path, int], Path],
) -> Callable[..., Context]:
    """A run with a student and tasks."""

    def make(*tasks: dict[str, Any], folder: str = "run", stop: Stop | None = None) -> Context:
        context = make_context(make_recipe(evaluation=tasks or (TASK,)), folder, stop)
        if not context.run.student.exists():
            new_model(context.run.student, 0)
        return context

    return make


class StopWhen(Stop):
    """Due for this reason from the given question on."""

    def __init__(self, reason: str, question: int) -> None:
        super().__init__(Limits(attempt=1, started_at=0, usd_per_hour=0, machine_usd=0))
        self._reason = reason
        self._left = question

    def due(self, reserve_s: float = 0.0) -> Any:
        self._left -= 1
        return self._reason if self._left < 0 else None


def answers(context: Context, task: str = "sums") -> list[Graded]:
    lines = (context.run.answers / f"{task}.jsonl").read_text().splitlines()
    return [Graded.model_validate_json(line) for line in lines]


def scores(context: Context) -> Scores:
    return read_model(context.run.scores, Scores)


def events(context: Context, kind: type) -> list[Any]:
    return [event for event, _ in read_events(context.run.events) if isinstance(event, kind)]


def rescore(context: Context, correct: Callable[[Graded], bool]) -> None:
    """Pretend that these answers were right."""
    path = context.run.answers / "sums.jsonl"
    changed = [a.model_copy(update={"correct": correct(a)}) for a in answers(context)]
    path.write_text("".join(answer.model_dump_json() + "\n" for answer in changed))
    context.run.scores.unlink()


def test_every_problem_is_answered_graded_and_kept(make_exam: Callable[..., Context]) -> None:
    context = make_exam()

    evaluate(context)

    graded = answers(context)
    references = {row.index: row for row in load_rows(context.recipe.evaluation[0].data, Path("/"))}
    assert sorted(answer.row for answer in graded) == list(range(12))
    for answer in graded:
        assert answer.prompt == references[answer.row].prompt
        assert eval(answer.prompt[:-1]) == int(answer.reference)
        assert answer.correct == (answer.answer == answer.reference)
    [said] = events(context, Scored)
    assert (said.task, said.n, said.of) == ("sums", 12, 12)
    assert said.truncated == sum(answer.finish == "length" for answer in graded)
    assert events(context, Progress)[-1].done == 12


def test_the_score_is_the_share_of_right_answers_with_its_error(
    make_exam: Callable[..., Context],
) -> None:
    context = make_exam()
    evaluate(context)
    rescore(context, lambda answer: answer.row < 3)

    evaluate(context)

    score = scores(context).scores["sums"]
    assert score.value == pytest.approx(0.25)
    assert score.stderr == pytest.approx((0.25 * 0.75 / 12) ** 0.5)


def test_a_student_that_knows_the_answers_is_found_to_know_them(
    make_exam: Callable[..., Context], tmp_path: Path
) -> None:
    context = make_exam()
    evaluate(context)
    told = [{"q": a.prompt, "a": a.text} for a in answers(context)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    data = {"kind": "jsonl", "path": str(tmp_path / "own.jsonl"), "prompt": "{q}"}
    plain = {key: value for key, value in TASK.items() if key != "answer_pattern"}
    again = make_exam(plain | {"data": data | {"completion": "{a}"}}, folder="again")

    evaluate(again)

    assert scores(again).scores["sums"].value == 1.0
    assert 0 < scores(again).scores["sums"].stderr < 0.15


def test_time_that_runs_out_leaves_a_score_of_a_part_and_the_rest_can_follow(
    make_exam: Callable[..., Context],
) -> None:
    whole = make_exam(folder="whole")
    evaluate(whole)
    part = make_exam(folder="part", stop=StopWhen("deadline", 9))

    with pytest.raises(StageStopped, match="deadline"):
        evaluate(part)

    score = scores(part).scores["sums"]
    assert 0 < score.n < score.of == 12
    assert answers(part) == answers(whole)[: score.n]
    # A part is no run of neighbours: the order is by chance, and always the same.
    assert sorted(answer.row for answer in answers(part)) != list(range(score.n))

    evaluate(make_exam(folder="part"))
    assert scores(part) == scores(whole)
    assert answers(part) == answers(whole)


def test_a_task_without_any_answer_has_no_score(make_exam: Callable[..., Context]) -> None:
    context = make_exam(TASK, TASK | {"task": "later"}, stop=StopWhen("budget", 9))

    with pytest.raises(StageStopped, match="budget"):
        evaluate(context)

    assert list(scores(context).scores) == ["sums"]


def test_a_person_who_interrupts_gets_no_score_yet(make_exam: Callable[..., Context]) -> None:
    context = make_exam(stop=StopWhen("interrupt", 9))

    with pytest.raises(StageStopped, match="interrupt"):
        evaluate(context)

    assert answers(context)
    assert not context.run.scores.exists()


def test_nothing_is_asked_twice_after_a_kill_in_the_middle_of_a_line(
    make_exam: Callable[..., Context],
) -> None:
    whole = make_exam(folder="whole")
    evaluate(whole)
    for at in range(3, 18, 7):
        killed = make_exam(folder=f"killed-{at}", stop=StopWhen("interrupt", at))
        with pytest.raises(StageStopped):
            evaluate(killed)
        with (killed.run.answers / "sums.jsonl").open("ab") as file:
            file.write(b'{"student": "torn')

        evaluate(make_exam(folder=f"killed-{at}"))

        assert set(Counter(answer.row for answer in answers(killed)).values()) == {1}
        assert scores(killed) == scores(whole)
        assert answers(killed) == answers(whole)


def test_scores_that_are_whole_are_left_as_they_are(make_exam: Callable[..., Context]) -> None:
    context = make_exam()
    evaluate(context)
    before = context.run.events.read_bytes()

    evaluate(context)

    assert context.run.events.read_bytes() == before


def test_answers_of_a_student_that_learnt_on_since_do_not_count(
    make_exam: Callable[..., Context], new_model: Callable[[Path, int], Path]
) -> None:
    context = make_exam()
    evaluate(context)
    before = {answer.student for answer in answers(context)}
    new_model(context.run.student, 1)

    evaluate(context)

    assert {answer.student for answer in answers(context)}.isdisjoint(before)
    assert len(answers(context)) == 12


def test_a_problem_the_student_cannot_read_is_an_error_that_names_it(
    make_exam: Callable[..., Context],
) -> None:
    data = TASK["data"]
    assert isinstance(data, dict)
    context = make_exam(TASK | {"data": data | {"prompt": "What is {question}?"}})

    with pytest.raises(WorkerError, match="no token for") as caught:
        evaluate(context)
    assert caught.value.code == "vocabulary"


def test_a_problem_that_fills_the_context_costs_the_others_nothing(
    make_exam: Callable[..., Context], tmp_path: Path
) -> None:
    rows = [{"q": prompt, "a": "2"} for prompt in ("1+1=", "1+" * 64, "2+0=")]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"kind": "jsonl", "path": str(tmp_path / "long.jsonl"), "prompt": "{q}"}
    context = make_exam(TASK | {"data": data | {"completion": "{a}"}})

    evaluate(context)

    score = scores(context).scores["sums"]
    assert (score.n, score.of) == (3, 3)
    unasked = next(answer for answer in answers(context) if answer.row == 1)
    assert (unasked.text, unasked.tokens, unasked.finish) == ("", 0, "length")
    assert not unasked.correct
    assert score.truncated == sum(answer.finish == "length" for answer in answers(context))
