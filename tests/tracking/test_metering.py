from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.money import machine_micro_usd
from recipes.rundir import (
    CheckpointSaved,
    CheckpointStored,
    Event,
    Progress,
    Stage,
    StageDone,
    StageStarted,
    Stopping,
    WorkerEnded,
    WorkerStarted,
)
from tracking.metering import machine_lines, machine_seconds


def began(t: float, stage: Stage, attempt: int = 1) -> StageStarted:
    return StageStarted(t=t, attempt=attempt, stage=stage)


def finished(t: float, stage: Stage) -> StageDone:
    return StageDone(t=t, attempt=1, stage=stage)


def answers(t: float, done: int, stage: Stage = "generate") -> Progress:
    return Progress(t=t, attempt=1, stage=stage, done=done, total=100, unit="answers")


def checkpoint(t: float) -> CheckpointSaved:
    return CheckpointSaved(t=t, attempt=1, step=1, size_bytes=1, seconds=0.1)


def ended(t: float) -> WorkerEnded:
    return WorkerEnded(t=t, attempt=1, status="done")


GOOD_RUN: list[Event] = [
    WorkerStarted(t=103, attempt=1, pid=1, device="cpu"),
    began(105, "generate"),
    finished(115, "generate"),
    began(115, "train"),
    checkpoint(130),
    finished(145, "train"),
    began(145, "evaluate"),
    finished(150, "evaluate"),
    ended(150),
]


def test_a_run_in_good_order_is_boot_stages_and_idle() -> None:
    assert machine_seconds(GOOD_RUN, 1, 100, 153) == {
        "boot": 5,
        "generate": 10,
        "train": 30,
        "evaluate": 5,
        "idle": 3,
    }


def test_other_attempts_are_passed_over() -> None:
    others: list[Event] = [began(101, "train", attempt=2), began(160, "evaluate", attempt=3)]

    assert machine_seconds([*others, *GOOD_RUN], 1, 100, 153) == machine_seconds(
        GOOD_RUN, 1, 100, 153
    )


def test_after_the_wish_to_stop_it_saves_and_may_still_evaluate() -> None:
    events: list[Event] = [
        began(105, "train"),
        Stopping(t=120, attempt=1, reason="budget"),
        began(124, "evaluate"),
        ended(130),
    ]

    assert machine_seconds(events, 1, 100, 130) == {
        "boot": 5,
        "train": 15,
        "save": 4,
        "evaluate": 6,
    }


def test_a_lost_machine_lost_what_came_after_its_last_checkpoint() -> None:
    events: list[Event] = [began(105, "train"), checkpoint(130), checkpoint(150)]

    seconds = machine_seconds(events, 1, 100, 170)

    assert seconds == {"boot": 5, "train": 45, "lost": 20}


def test_of_checkpoints_that_were_still_on_the_way_to_the_store_nothing_is_kept() -> None:
    stored = CheckpointStored(t=145, attempt=1, step=1, size_bytes=1, seconds=1.0)
    events: list[Event] = [began(105, "train"), checkpoint(130), stored, checkpoint(150)]

    seconds = machine_seconds(events, 1, 100, 170)

    assert seconds == {"boot": 5, "train": 25, "lost": 40}


def test_answers_that_are_written_are_not_lost_and_a_sign_of_life_is_no_answer() -> None:
    events: list[Event] = [began(105, "generate"), answers(110, 64), answers(119, 64)]

    assert machine_seconds(events, 1, 100, 120) == {"boot": 5, "generate": 5, "lost": 10}


def test_with_nothing_safe_the_whole_stage_is_lost_and_the_boot_is_not() -> None:
    assert machine_seconds([began(105, "train")], 1, 100, 120) == {"boot": 5, "lost": 15}


def test_a_machine_that_never_began_was_booting() -> None:
    assert machine_seconds([], 1, 100, 120) == {"boot": 20}


def test_a_worker_that_failed_while_booting_leaves_an_idle_machine() -> None:
    events = [WorkerEnded(t=104, attempt=1, status="failed")]

    assert machine_seconds(events, 1, 100, 120) == {"boot": 4, "idle": 16}


def test_nothing_is_lost_while_the_worker_may_still_go_on() -> None:
    events: list[Event] = [began(105, "train"), checkpoint(130)]

    assert machine_seconds(events, 1, 100, 170, running=True) == {"boot": 5, "train": 65}


def test_a_machine_of_no_time_costs_nothing() -> None:
    assert machine_lines([], 1, 100, 100, Decimal("3.5")) == {"boot": 0}


def test_a_clock_set_back_counts_no_second_twice() -> None:
    events: list[Event] = [began(110, "train"), finished(90, "train"), ended(95)]

    assert machine_seconds(events, 1, 100, 120) == {"boot": 10, "idle": 10}


def test_time_outside_the_paid_time_is_not_counted() -> None:
    events: list[Event] = [began(50, "generate"), began(115, "train"), ended(999)]

    assert machine_seconds(events, 1, 100, 120) == {"boot": 0, "generate": 15, "train": 5}


def test_an_end_before_the_start_is_a_fault() -> None:
    with pytest.raises(ValueError, match="attempt 1 ended at 99"):
        machine_seconds([], 1, 100, 99)


def test_money_goes_where_the_time_went() -> None:
    lines = machine_lines(GOOD_RUN, 1, 100, 150, Decimal("3.60"))

    assert lines == {"boot": 5000, "generate": 10_000, "train": 30_000, "evaluate": 5000}


STAGES = st.sampled_from(["generate", "train", "evaluate"])
MOMENTS = st.floats(min_value=0, max_value=2000, allow_nan=False)
EVENTS = st.lists(
    st.one_of(
        st.builds(began, MOMENTS, STAGES),
        st.builds(finished, MOMENTS, STAGES),
        st.builds(answers, MOMENTS, st.integers(0, 100), STAGES),
        st.builds(checkpoint, MOMENTS),
        st.builds(ended, MOMENTS),
        st.builds(lambda t: Stopping(t=t, attempt=1, reason="interrupt"), MOMENTS),
    ),
    max_size=12,
)


@given(
    events=EVENTS,
    paid=st.tuples(MOMENTS, MOMENTS).map(sorted),
    usd_per_hour=st.decimals(0, 100, places=4),
    running=st.booleans(),
)
def test_whatever_the_worker_said_lines_sum_to_the_time_and_the_money(
    events: list[Event], paid: list[float], usd_per_hour: Decimal, running: bool
) -> None:
    start, end = paid

    seconds = machine_seconds(events, 1, start, end, running=running)
    lines = machine_lines(events, 1, start, end, usd_per_hour, running=running)

    assert sum(seconds.values()) == pytest.approx(end - start)
    assert all(spent >= 0 for spent in (*seconds.values(), *lines.values()))
    assert sum(lines.values()) == machine_micro_usd(usd_per_hour, end - start)
