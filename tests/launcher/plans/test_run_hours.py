"""How long a run takes on a kind of machine, and what it cannot run on."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import recipes
from launcher.estimate.flops import FLOAT32_SLOWDOWN
from launcher.estimate.gpus import find_gpu
from launcher.estimate.quantiles import Z90, Quantiles
from launcher.plans.kinds import Kind, why_not
from launcher.plans.read_facts import read_facts
from launcher.plans.run_hours import RunHours, hours_of, train_hours
from launcher.plans.spread import add_up, together
from launcher.plans.work_of import Work, work_of
from recipes.loading import load_recipe, with_changes

FOLDER = Path(recipes.__file__).parent


@cache
def work(name: str = "s1", **changes: str) -> Work:
    recipe = load_recipe(FOLDER / f"{name}.yaml")
    recipe = with_changes(recipe, changes) if changes else recipe
    return work_of(recipe, read_facts(recipe))


def kind(gpu: str = "H100", per_node: int = 8, nodes: int = 2, *, spot: bool = True) -> Kind:
    found = find_gpu(gpu)
    assert found is not None
    return Kind(found, per_node, nodes, spot)


def run(on: Kind, between: float = 6.0, of: Work | None = None) -> RunHours:
    (made,) = hours_of(of or work(), [on], between)
    assert made is not None
    return made


spreads = st.tuples(*[st.floats(0, 100)] * 3).map(lambda each: Quantiles(*sorted(each)))
bills = st.dictionaries(st.sampled_from("abcde"), spreads, min_size=1)


# ---- lines that vary independently -----------------------------------------------------------


@given(bill=bills, in_step=st.frozensets(st.sampled_from("abcde")))
def test_the_parts_of_a_sum_stay_in_order_and_inside_their_own_spread(
    bill: dict[str, Quantiles], in_step: frozenset[str]
) -> None:
    for name, part in together(bill, in_step).items():
        own = bill[name]
        assert part.p50 == own.p50
        assert own.p10 - 1e-9 <= part.p10 <= part.p50 <= part.p90 <= own.p90 + 1e-9


@given(own=spreads)
def test_a_line_alone_keeps_its_own_spread(own: Quantiles) -> None:
    alone = together({"train": own})["train"]

    assert (alone.p10, alone.p50, alone.p90) == pytest.approx((own.p10, own.p50, own.p90))


@given(bill=bills)
def test_lines_in_step_add_as_they_are(bill: dict[str, Quantiles]) -> None:
    in_step = add_up(together(bill, frozenset("abcde")).values())

    assert in_step.p10 == pytest.approx(add_up(bill.values()).p10, abs=1e-6)
    assert in_step.p90 == pytest.approx(add_up(bill.values()).p90, abs=1e-6)


@pytest.mark.parametrize("name", ["s1", "reasoning-7b", "math-1-5b", "api-teacher"])
def test_nine_of_ten_simulated_runs_are_below_the_p90_of_the_whole(name: str) -> None:
    made = run(kind("H100", 8, 2 if name == "s1" else 1), of=work(name))
    chance, count = np.random.default_rng(0), 50_000
    answers = chance.standard_normal(count)  # long ones are also long to learn

    def drawn(line: str, own: Quantiles) -> np.ndarray[Any, Any]:
        if line == "lost":
            return chance.poisson(made.interruptions, count) * own.p50 / made.interruptions
        by = answers if line in ("generate", "train") else chance.standard_normal(count)
        up, down = math.log(own.p90 / own.p50), math.log(own.p50 / own.p10)
        return own.p50 * np.exp(np.where(by > 0, up, down) * by / Z90)

    hours = sum(drawn(line, own) for line, own in made.alone.items())

    assert float(np.mean(hours < made.total.p90)) == pytest.approx(0.9, abs=0.02)
    assert 0.03 < float(np.mean(hours < made.total.p10)) < 0.13
    assert 0.35 < float(np.mean(hours < made.total.p50)) < 0.5


# ---- what it can run on ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on", "said"),
    [
        (kind("H100", 8, 1), "training needs 94 GB on each GPU, 8.5 more than the 86 of H100"),
        (kind("A100", 8, 4), "of A100"),
        (kind("MI300X"), "PyTorch for NVIDIA only"),
        (kind("V100"), "V100 does not compute in bfloat16"),
        (kind("H100"), None),
        (kind("H200", 8, 1), None),
    ],
    ids=str,
)
def test_where_the_work_cannot_be_done_is_said_with_what_is_missing(
    on: Kind, said: str | None
) -> None:
    reason = why_not(work(), on)

    assert reason is None if said is None else said in str(reason)


def test_answers_that_do_not_fit_at_once_name_the_field_to_lower() -> None:
    many = work(**{"evaluation.0.batch_size": "14", "evaluation.0.data.rows": "14"})

    assert "14 answers of 4,096 tokens at once (evaluation.0.batch_size)" in str(
        why_not(many, kind())
    )


def test_what_fits_in_bfloat16_may_not_fit_in_float32() -> None:
    """A sample of 4,096 tokens and 3B parameters: 78 GB beside about 90."""
    one = {
        "student.model": "Qwen/Qwen2.5-3B",
        "student.revision": "null",
        "training.max_tokens": "4096",
        "training.micro_batch_size": "1",
        "training.gradient_checkpointing": "false",
    }
    half, whole = work(**one), work(**one, **{"training.dtype": "float32"})

    assert why_not(half, kind("H100", 1, 1)) is None
    assert "training needs" in str(why_not(whole, kind("H100", 1, 1)))


def test_a_teacher_in_float32_takes_twice_the_memory_and_longer() -> None:
    half, whole = work("math-1-5b"), work("math-1-5b", **{"teacher.dtype": "float32"})
    on = kind("H100", 1, 1)
    assert (half.generation, whole.generation) != (None, None)

    slow, quick = run(on, of=whole).alone, run(on, of=half).alone

    assert slow["generate"].p50 > 1.2 * quick["generate"].p50
    assert slow["train"] == quick["train"]
    assert slow["evaluate"] == quick["evaluate"]
    assert why_not(half, kind("L40S", 1, 1)) is None
    assert "teacher.sampling.batch_size" in str(why_not(whole, kind("L40S", 1, 1)))


def test_a_student_in_float32_is_a_larger_file_and_answers_more_slowly() -> None:
    half, whole = work("math-1-5b"), work("math-1-5b", **{"training.dtype": "float32"})
    on = kind("H100", 1, 1)

    slow, quick = run(on, of=whole), run(on, of=half)

    assert slow.alone["evaluate"].p50 > 1.2 * quick.alone["evaluate"].p50
    assert whole.student_bytes == 2 * half.student_bytes
    assert slow.alone["save"].p50 > quick.alone["save"].p50


def test_a_teacher_that_does_not_fit_on_one_gpu_is_told_before_it_is_paid() -> None:
    reason = why_not(work("math-1-5b"), kind("L4", 4, 1))

    assert "teacher.sampling.batch_size" in str(reason)


# ---- training --------------------------------------------------------------------------------


def test_s1_takes_what_was_published_26_minutes_and_6_9_gpu_hours_on_16_h100() -> None:
    whole = run(kind())
    train, alone = whole.lines["train"], whole.alone["train"]

    assert train.p10 < 26 / 60 < train.p90
    assert alone.times(16).p10 < 6.9 < alone.times(16).p90


def test_gpus_without_a_sample_of_their_own_do_not_make_a_step_faster() -> None:
    sixteen, more = train_hours(work(), [kind(nodes=2), kind(nodes=4)])  # of 16 samples a step

    assert more.p50 >= sixteen.p50


def test_float32_is_taken_as_slower_by_a_known_factor() -> None:
    (half,) = train_hours(work(), [kind()])
    (whole,) = train_hours(work(**{"training.dtype": "float32"}), [kind()])

    assert whole.p50 == pytest.approx(FLOAT32_SLOWDOWN * half.p50)


def test_a_tiny_student_takes_at_least_what_launching_its_kernels_takes() -> None:
    tiny = work("quickstart-labels")

    (hours,) = train_hours(tiny, [kind("H100", 1, 1)])

    # 1,000 steps of 2 layers
    assert hours.p50 * 3600 == pytest.approx(1000 * 2 * 2.5e-3)


def test_an_unknown_length_of_answers_widens_the_hours() -> None:
    written, given_ = work("math-1-5b"), work("reasoning-7b")

    (by_teacher,) = train_hours(written, [kind()])
    (from_data,) = train_hours(given_, [kind()])

    assert by_teacher.p90 / by_teacher.p10 > 2 * from_data.p90 / from_data.p10


# ---- interruptions ---------------------------------------------------------------------------


def test_on_demand_nothing_is_lost_and_a_long_training_is_saved_now_and_then() -> None:
    short = run(kind("H100", 8, 1, spot=False), of=work("reasoning-7b"))
    long = run(
        kind("H100", 8, 1, spot=False), of=work("reasoning-7b", **{"training.epochs": "100"})
    )

    assert "lost" not in short.alone
    assert short.interruptions == 0
    assert short.checkpoints == 0
    assert long.checkpoints > 0
    # no more than a fiftieth of the time goes into checkpoints of 91 s
    assert long.interval_s >= 50 * 91


def test_machines_that_are_taken_away_more_often_are_saved_more_often() -> None:
    long = work("reasoning-7b", **{"training.epochs": "50"})
    rare, frequent = (run(kind("H100", 8, 1), between, long) for between in (100.0, 1.0))

    assert frequent.checkpoints > rare.checkpoints
    assert frequent.interval_s < rare.interval_s
    assert frequent.lines["lost"].p50 > rare.lines["lost"].p50


def test_the_recipes_own_checkpoints_are_kept() -> None:
    every = work(**{"training.checkpoint_every_steps": "100"})

    assert run(kind(), of=every).checkpoints == 3  # of 315 steps


def test_work_that_would_never_end_has_no_hours() -> None:
    without = work(**{"training.checkpoint_every_steps": "1000"})

    assert hours_of(without, [kind()], spot_hours_between=1e-4) == [None]


@given(between=st.floats(0.2, 100), rarer=st.floats(1.001, 10), epochs=st.integers(1, 40))
def test_more_interruptions_never_make_a_run_shorter(
    between: float, rarer: float, epochs: int
) -> None:
    long = work("reasoning-7b", **{"training.epochs": str(epochs)})
    on = kind("H100", 8, 1)

    often, seldom = (run(on, each, long).total for each in (between, between * rarer))

    assert often.p50 >= seldom.p50 * (1 - 1e-9)


@given(
    between=st.floats(0.5, 100),
    per_node=st.sampled_from([1, 2, 4, 8]),
    nodes=st.sampled_from([1, 2, 4]),
    gpu=st.sampled_from(["H100", "A100-80GB", "H200", "L40S"]),
    spot=st.booleans(),
)
def test_quantiles_are_in_order_and_lines_sum_to_the_total(
    between: float, per_node: int, nodes: int, gpu: str, spot: bool
) -> None:
    made = run(kind(gpu, per_node, nodes, spot=spot), between, work("api-teacher"))

    total = made.total
    assert 0 <= total.p10 <= total.p50 <= total.p90
    for part in (*made.lines.values(), *made.alone.values()):
        assert 0 <= part.p10 <= part.p50 <= part.p90
    assert total.p90 <= add_up(made.alone.values()).p90 + 1e-9
