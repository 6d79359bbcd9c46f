"""The rest of a run is priced anew by its own speed."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.market.offers import LOCAL, Offer
from launcher.plans.plan import CostLine, Plan, Quantiles
from launcher.plans.reprice import Pace, Projection, Spent, project
from launcher.runs.view import Watched
from recipes.rundir import (
    AnyEvent,
    ApiUsage,
    Progress,
    Stage,
    StageDone,
    StageStarted,
    WorkerStarted,
)

RENTED = Offer(cloud="aws", accelerator="H100", accelerators=8, usd_per_hour=10, source="test")


def hours(p50: str, spread: str = "1.5") -> Quantiles:
    middle, factor = Decimal(p50), Decimal(spread)
    return Quantiles(p10=middle / factor, p50=middle, p90=middle * factor)


def plan(offer: Offer = RENTED, *more: CostLine, **lines: str) -> Plan:
    lines = lines or {"boot": "0.1", "train": "1", "save": "0.1", "evaluate": "0.2"}
    return Plan(
        recipe="r",
        offer=offer,
        lines=(
            *more,
            *(
                CostLine(name=name, quantity=hours(p50), unit="h", usd_per_unit=offer.usd_per_hour)
                for name, p50 in lines.items()
            ),
        ),
        assumptions=(),
        work="w",
        units={"train": 1000},
        checkpoint_s=60.0,
    )


PLAN = plan()


def at(seconds: float, usd_per_hour: str = "10", usd: str = "0", used: str = "0") -> Spent:
    return Spent(Decimal(usd), Decimal(used), Decimal(usd_per_hour), 0.0, seconds)


def seen(*events: AnyEvent) -> Pace:
    pace = Pace()
    for event in events:
        pace = pace.see(event)
    return pace


def begun(stage: Stage, t: float) -> StageStarted:
    return StageStarted(t=t, attempt=1, stage=stage)


def over(stage: Stage, t: float) -> StageDone:
    return StageDone(t=t, attempt=1, stage=stage)


def count(t: float, done: int, stage: Stage = "train", total: int = 1000) -> Progress:
    return Progress(t=t, attempt=1, stage=stage, done=done, total=total, unit="steps")


def training(step_s: float, steps: int, began: float = 360.0) -> Sequence[AnyEvent]:
    marks = [count(began + step * step_s, step) for step in range(1, steps + 1)]
    return [begun("train", began), *marks]


def ahead(events: Sequence[AnyEvent], spent: Spent, of: Plan = PLAN) -> Projection:
    return project(of, seen(*events), spent)


# ---- before anything was measured ------------------------------------------------------------


def test_at_the_start_it_is_the_plan() -> None:
    now = ahead([], at(0.0))

    assert (now.usd, now.hours) == (PLAN.usd, PLAN.hours)
    assert not now.measured


def test_the_first_steps_do_not_replace_the_plan() -> None:
    now = ahead(training(step_s=1.0, steps=20), at(380.0))

    assert not now.measured
    assert float(now.hours.p50) == pytest.approx(380 / 3600 + 0.98 * 1.1 + 0.2)


def test_a_boot_that_takes_long_moves_everything_behind_it() -> None:
    assert ahead([], at(180.0)).hours.p50 == PLAN.hours.p50
    late = ahead([], at(1800.0)).hours.p50
    assert late == PLAN.hours.p50 - Decimal("0.1") + Decimal("0.5")


# ---- measured --------------------------------------------------------------------------------


def test_after_some_minutes_the_measured_speed_replaces_the_plans() -> None:
    steps = 100  # of 7.2 s: twice as long as planned
    t = 360 + steps * 7.2

    now = ahead(training(7.2, steps), at(t))

    assert now.measured
    rest = 900 * 7.2 / 3600 + 0.9 * 0.1 + 0.2
    assert float(now.hours.p50) == pytest.approx(t / 3600 + rest, rel=1e-6)
    assert float(now.usd.p50) == pytest.approx(10 * (t / 3600 + rest), rel=1e-5)
    narrow = (now.hours.p90 - now.hours.p50) / now.hours.p50
    assert narrow < (PLAN.hours.p90 - PLAN.hours.p50) / PLAN.hours.p50


def test_while_nothing_is_said_the_time_counts_as_work_and_then_as_delay() -> None:
    events = training(7.2, 100)
    t = 360 + 720.0

    assert ahead(events, at(t + 7)).hours.p50 == pytest.approx(ahead(events, at(t)).hours.p50)
    assert ahead(events, at(t + 9000)).hours.p50 > ahead(events, at(t)).hours.p50


def test_a_count_that_is_only_repeated_is_no_speed() -> None:
    still = [begun("train", 360.0), *(count(360.0 + second, 1) for second in range(600))]

    assert seen(*still).seconds_per_unit is None
    assert not ahead(still, at(960.0)).measured


def test_what_is_over_costs_no_more() -> None:
    events = [
        *training(3.6, 1000),
        over("train", 3960.0),
        begun("evaluate", 3970.0),
        over("evaluate", 4300.0),
    ]

    done = ahead(events, at(4300.0))

    assert done.hours.p10 == done.hours.p90 == Decimal("4300.0") / 3600
    assert float(done.usd.p50) == pytest.approx(43000 / 3600, abs=2e-6)


def test_an_attempt_that_goes_on_elsewhere_keeps_what_was_paid_and_takes_its_own_price() -> None:
    resumed = [
        WorkerStarted(t=0.0, attempt=2, pid=1, device="cuda"),
        begun("train", 360.0),
        *(count(360.0 + step * 3.6, 500 + step) for step in range(1, 101)),
    ]

    now = ahead(resumed, at(720.0, usd_per_hour="20", usd="9", used="0.7"))

    rest = 400 * 3.6 / 3600 + 0.4 * 0.1 + 0.2
    assert float(now.hours.p50) == pytest.approx(0.7 + 0.2 + rest, rel=1e-6)
    assert float(now.usd.p50) == pytest.approx(9 + 20 * (0.2 + rest), rel=1e-5)


def test_the_pace_of_another_attempt_is_forgotten() -> None:
    again = WorkerStarted(t=900.0, attempt=2, pid=1, device="cuda")

    assert seen(*training(3.6, 100), again) == Pace()


# ---- a teacher behind an API -----------------------------------------------------------------


def asking() -> Plan:
    tokens = CostLine(name="teacher_api output", quantity=hours("2"), unit="Mtok", usd_per_unit=3)
    home = CostLine(name="generate", quantity=hours("0.5"), unit="h", usd_per_unit=0)
    return plan(RENTED, home, tokens, boot="0.1", train="1")


def test_answers_are_asked_at_home_and_paid_as_they_come() -> None:
    of = asking()
    answers = [begun("generate", 0.0), *(count(6.0 * n, n, "generate", 100) for n in range(51))]
    paid = [ApiUsage(t=1.0, attempt=1, input_tokens=1, output_tokens=1, micro_usd=4_000_000)]

    before = project(of, Pace(), at(0.0, usd_per_hour="0"))
    half = project(of, seen(*answers, *paid), at(300.0, usd_per_hour="0"))

    assert before.usd == of.usd
    assert float(half.usd.p50) == pytest.approx(4 + 4 + 10 * 1.1)
    assert float(half.hours.p50) == pytest.approx(2 * 300 / 3600 + 1.1)


def test_answers_that_were_there_before_say_nothing_of_what_the_rest_cost() -> None:
    """500 of 1,000 from an earlier attempt, for $15, and 100 more for $3: the other 400 are $12."""
    of = asking()
    marks = [count(6.0 * n, 500 + 10 * n, "generate") for n in range(11)]
    paid = ApiUsage(t=1.0, attempt=2, input_tokens=1, output_tokens=1, micro_usd=3_000_000)

    now = project(
        of, seen(begun("generate", 0.0), *marks, paid), at(60.0, usd_per_hour="0", usd="15")
    )

    assert float(now.usd.p50) == pytest.approx(15 + 3 + 12 + 10 * 1.1)


def test_a_few_answers_behind_many_that_were_there_do_not_replace_the_plan() -> None:
    of = asking()
    marks = [count(0.0, 900, "generate"), count(6.0, 902, "generate")]
    paid = ApiUsage(t=1.0, attempt=2, input_tokens=1, output_tokens=1, micro_usd=60_000)

    now = project(of, seen(begun("generate", 0.0), *marks, paid), at(6.0, usd_per_hour="0"))

    planned = float(of.usd_of("teacher_api").p50) * (1 - 902 / 1000)
    assert float(now.usd.p50) == pytest.approx(0.06 + planned + 10 * 1.1)


def test_on_the_machine_that_follows_nothing_is_left_to_ask() -> None:
    now = project(asking(), seen(*training(3.6, 100)), at(720.0, usd="8"))

    assert float(now.usd.p50) == pytest.approx(8 + 10 * (0.2 + 0.9), rel=1e-5)


# ---- properties ------------------------------------------------------------------------------


@given(
    step_s=st.floats(0.05, 60),
    steps=st.integers(0, 1000),
    spent=st.decimals("0", "100", places=2),
)
def test_quantiles_are_in_order_and_nothing_that_is_spent_is_forgotten(
    step_s: float, steps: int, spent: Decimal
) -> None:
    t = 360 + steps * step_s
    now = ahead(training(step_s, steps), at(t, usd=str(spent)))

    for each in (now.usd, now.hours):
        assert each.p10 <= each.p50 <= each.p90
    assert now.usd.p10 >= spent
    assert float(now.hours.p10) >= t / 3600 - 1e-9


@given(step_s=st.floats(0.5, 30), slower=st.floats(1, 5))
def test_a_slower_run_is_never_projected_cheaper(step_s: float, slower: float) -> None:
    quick, slow = (
        ahead(training(each, 150), at(360 + 150 * each)) for each in (step_s, step_s * slower)
    )

    assert quick.usd.p50 <= slow.usd.p50
    assert quick.hours.p90 <= slow.hours.p90


# ---- what a person sees ----------------------------------------------------------------------


def watched(usd: str, limit: str | None = None, **fields: Any) -> Watched:
    view = Watched(
        "r-1",
        Decimal(usd),
        Decimal(10),
        0.0,
        plan=PLAN,
        budget_hours=None if limit is None else Decimal(limit),
        **fields,
    )
    for event in training(7.2, 100):
        view = view.see(event)
    return view


def test_a_run_that_will_pass_its_budget_is_told_in_time_with_a_way_out() -> None:
    said = watched("15").warning(1080.0)

    assert said is not None
    assert said.startswith("warning: at this speed the run comes to $23.90 ($")
    assert "its budget is $15.00" in said
    assert "`still budget r-1 --raise USD`" in said


def test_a_run_that_will_pass_its_hours_is_told_too() -> None:
    said = watched("100", limit="2").warning(1080.0)

    assert said is not None
    assert "takes 2.4 h" in said
    assert "its limit is 2.0 h" in said


def test_a_run_that_fits_or_that_nothing_is_known_of_is_not_warned_of() -> None:
    assert watched("100", limit="5").warning(1080.0) is None
    assert Watched("r", Decimal(1), Decimal(10), 0.0, plan=PLAN).warning(1080.0) is None
    assert Watched("r", Decimal(1), Decimal(10), 0.0).warning(1080.0) is None


def test_the_line_says_what_it_will_come_to_once_that_is_measured() -> None:
    assert "$3.00 of $100.00 · $23.90 in the end" in watched("100").line(1080.0)
    assert "in the end" not in Watched("r", Decimal(1), Decimal(10), 0.0, plan=PLAN).line(10.0)


def test_a_free_machine_of_ones_own_is_not_taken_for_asking_at_home() -> None:
    free = plan(Offer(cloud=LOCAL, usd_per_hour=0, source="recipe"))

    assert project(free, Pace(), at(0.0, usd_per_hour="0")).hours == free.hours
