"""What a person sees of a run."""

from decimal import Decimal
from io import StringIO

from rich.console import Console

from launcher.runs.view import Lines, Live, Watched, choose_view, news
from recipes.rundir import Generated, Progress, Scored, StageStarted, Stopping, TrainStep

WATCHED = Watched("r", Decimal("0.05"), Decimal("3.60"), started_at=0.0, spent_micro_usd=1_000)


def progress(stage: str, done: int) -> Progress:
    return Progress.model_validate(
        {
            "t": 1,
            "attempt": 1,
            "stage": stage,
            "done": done,
            "total": 100,
            "unit": "steps",
            "tokens_per_s": 5000.0,
            "left_s": 61.0,
        }
    )


def test_the_line_has_stage_speed_dollars_and_time_left() -> None:
    line = WATCHED.see(progress("train", 40)).line(now=5.0)

    assert line == "train 40/100 steps · 5,000 tokens/s · $0.0060 of $0.0500 · 1 min 1 s left"


def test_a_new_stage_forgets_the_last_ones_progress() -> None:
    watched = WATCHED.see(progress("train", 40)).see(StageStarted(t=2, attempt=1, stage="evaluate"))

    assert watched.line(now=0.0) == "evaluate · $0.0010 of $0.0500"


def test_the_loss_is_shown_while_training() -> None:
    step = TrainStep(
        t=1,
        attempt=1,
        step=1,
        steps=2,
        loss=0.5,
        learning_rate=0.1,
        grad_norm=1.0,
        tokens=1,
        completion_tokens=1,
        tokens_per_s=1.0,
    )

    assert "loss 0.500" in WATCHED.see(progress("train", 1)).see(step).line(now=0.0)


def test_answers_from_an_earlier_run_and_cut_off_ones_are_news() -> None:
    said = news(
        Generated(
            t=1, attempt=1, answers=10, cached=4, truncated=1, input_tokens=5, output_tokens=50
        )
    )

    assert said is not None
    assert "4 of them from an earlier run at no cost" in said
    assert "1 cut off and left out" in said


def test_a_score_on_a_part_of_the_problems_says_so() -> None:
    said = news(
        Scored(t=1, attempt=1, task="sums", value=0.5, stderr=0.05, n=100, of=500, truncated=0)
    )

    assert said == "sums: 0.500 ± 0.050 on 100 (of 500) problems"


def test_stopping_is_shown_as_saving() -> None:
    assert WATCHED.see(Stopping(t=1, attempt=1, reason="budget")).stage == "save"


def test_a_pipe_gets_lines_now_and_then_and_at_each_stage() -> None:
    written: list[str] = []
    lines = Lines(written.append, every_s=5.0)
    for second in range(12):
        lines.show(WATCHED.see(progress("train", second)), now=float(second))
    lines.show(WATCHED.see(progress("evaluate", 0)), now=12.0)

    assert [line.split(" ·")[0] for line in written] == [
        "train 0/100 steps",
        "train 5/100 steps",
        "train 10/100 steps",
        "evaluate 0/100 steps",
    ]


def test_a_pipe_sees_no_colour_codes_and_a_terminal_is_drawn_on() -> None:
    pipe, terminal = StringIO(), StringIO()
    assert isinstance(choose_view(Console(file=pipe)), Lines)
    drawn = choose_view(Console(file=terminal, force_terminal=True, width=100))
    assert isinstance(drawn, Live)

    for view in (choose_view(Console(file=pipe)), drawn):
        with view:
            view.say("[bold]news[/bold]")
            view.show(WATCHED.see(progress("train", 40)), now=1.0)

    assert "\x1b" not in pipe.getvalue()
    assert "[bold]news[/bold]" in pipe.getvalue()  # text of a model is never taken for markup
    assert "40/100 steps" in terminal.getvalue()
