"""GPU-hours to train, and the share of the peak behind them."""

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.estimate.effects import EFFECTS
from launcher.estimate.efficiency import fit, fitted
from launcher.estimate.evidence import Evidence, published
from launcher.estimate.gpus import all_gpus
from launcher.estimate.models import find_model
from launcher.estimate.plausible import above_attainable, attainable_flops
from launcher.estimate.training import estimate_fleet, estimate_training
from launcher.estimate.work import Fleet, Machine, TrainingWork

GPUS = {gpu.name: gpu for gpu in all_gpus()}
QWEN_32B = find_model("Qwen/Qwen2.5-32B-Instruct")
assert QWEN_32B is not None

S1 = TrainingWork.of_model(
    QWEN_32B,
    train_tokens=1000 * 4700 * 5,
    sample_tokens=4700,
    samples_per_step=16,
    recompute=True,
)
TWO_NODES = Machine(GPUS["H100"], gpus_per_node=8, nodes=2)

sizes = st.floats(0.1e9, 400e9)
gpus = st.sampled_from(list(GPUS.values()))
machines = st.builds(Machine, gpus, st.sampled_from([1, 2, 4, 8]), st.integers(1, 64))


@st.composite
def works(draw) -> TrainingWork:
    params = draw(sizes)
    return TrainingWork(
        train_tokens=draw(st.floats(1e5, 1e13)),
        params=params,
        active_params=params * draw(st.sampled_from([1.0, 0.1])),
        layers=draw(st.integers(1, 128)),
        attention_width=draw(st.integers(64, 16384)),
        sample_tokens=draw(st.floats(10, 100_000)),
        packed=draw(st.booleans()),
        step_tokens=draw(st.floats(100, 1e7)),
        method=draw(st.sampled_from(["full", "lora", "qlora"])),
        recompute=draw(st.booleans()),
        precision=draw(st.sampled_from(["half", "fp8"])),
        kernels=draw(st.sampled_from(["native", "compiled", "eager"])),
        fusion=draw(st.sampled_from(["nothing", "attention", "attention_and_loss"])),
        offloaded=draw(st.booleans()),
        learns_logits=draw(st.booleans()),
        steady_state=draw(st.booleans()),
    )


def test_the_published_hours_of_s1_lie_between_p10_and_p90() -> None:
    estimate = estimate_training(S1, TWO_NODES)

    assert estimate.gpu_hours.p10 < 16 * 26 / 60 < estimate.gpu_hours.p90
    assert estimate.hours.p10 < 26 / 60 < estimate.hours.p90


def test_left_out_with_its_project_a_published_run_is_off_by_a_fifth_at_most_as_a_rule() -> None:
    """The promise of the estimate, on the evidence that ships: runs on the wall, not bare rates."""
    errors, inside = [], []
    runs = [run for run in published() if not run.work.steady_state]
    for run in runs:
        known = fit([other for other in published() if other.project != run.project])
        tokens = 1e9
        estimate = estimate_training(replace(run.work, train_tokens=tokens), run.machine, known)
        stated = tokens / run.tokens_per_gpu_s / 3600
        errors.append(abs(estimate.gpu_hours.p50 / stated - 1))
        inside.append(estimate.gpu_hours.p10 <= stated <= estimate.gpu_hours.p90)

    assert len(runs) >= 25
    assert statistics.median(errors) < 0.2
    assert 0.75 <= statistics.mean(inside) <= 0.9


@given(work=works(), machine=machines, times=st.floats(1, 100))
def test_hours_are_ordered_and_rise_with_the_tokens(work, machine, times: float) -> None:
    short = estimate_training(work, machine).gpu_hours
    long = estimate_training(
        replace(work, train_tokens=work.train_tokens * times), machine
    ).gpu_hours

    assert 0 < short.p10 <= short.p50 <= short.p90 < math.inf
    assert long.p50 == pytest.approx(short.p50 * times)
    assert long.p10 >= short.p10
    assert long.p90 >= short.p90


@given(work=works(), machine=machines)
def test_twice_the_gpus_never_take_fewer_gpu_hours(work: TrainingWork, machine: Machine) -> None:
    once = estimate_training(work, machine).gpu_hours.p50
    more_nodes = replace(machine, nodes=2 * machine.nodes)
    larger_nodes = replace(machine, gpus_per_node=2 * machine.gpus_per_node)

    assert estimate_training(work, more_nodes).gpu_hours.p50 >= once * (1 - 1e-12)
    assert estimate_training(work, larger_nodes).gpu_hours.p50 >= once * (1 - 1e-12)


@given(work=works(), machine=machines)
def test_no_estimate_is_above_what_the_hardware_sustains(work, machine: Machine) -> None:
    lowest = estimate_training(work, machine).gpu_hours.p10

    assert above_attainable(work, machine, lowest * (1 + 1e-9)) is None


@given(work=works(), machine=machines, below=st.floats(0.01, 0.99))
def test_hours_that_would_need_more_than_that_are_flagged_with_both_figures(
    work: TrainingWork, machine: Machine, below: float
) -> None:
    most = attainable_flops(machine.gpu, work.precision)
    least_hours = work.train_tokens * work.flops.model / most / 3600

    said = above_attainable(work, machine, least_hours * below)

    assert said is not None
    assert machine.gpu.name in said
    assert f"{most / 1e12:,.0f}" in said


@given(work=works(), chosen=st.lists(machines, min_size=1, max_size=30))
def test_many_machines_at_once_are_priced_as_each_alone(work, chosen: list[Machine]) -> None:
    together = estimate_fleet(work, Fleet.of(chosen))

    for index, machine in enumerate(chosen):
        alone = estimate_training(work, machine).gpu_hours
        at = [float(column[index]) for column in (together.p10, together.p50, together.p90)]
        assert at == pytest.approx([alone.p10, alone.p50, alone.p90])


def test_a_gpu_that_nobody_has_measured_is_said_and_its_spread_is_wider() -> None:
    known = estimate_training(S1, Machine(GPUS["H100"], 8, 2))
    unknown = estimate_training(S1, Machine(GPUS["A40"], 8, 2))

    assert any("no measured run used A40" in note for note in unknown.notes)
    assert not any("no measured run used H100" in note for note in known.notes)
    assert spread(unknown) > spread(known)


def test_beyond_what_was_measured_the_spread_widens_and_a_note_says_where() -> None:
    inside = estimate_training(S1, TWO_NODES)
    long = estimate_training(replace(S1, sample_tokens=500_000), TWO_NODES)

    assert spread(long) > spread(inside)
    assert any("500,000 tokens a sample lie outside" in note for note in long.notes)


def spread(estimate) -> float:
    return estimate.gpu_hours.p90 / estimate.gpu_hours.p10


def test_a_measured_set_up_replaces_the_estimate_for_itself_and_moves_its_neighbours() -> None:
    ours = replace(S1, setup="s1")
    before = estimate_training(ours, TWO_NODES)
    slow = Evidence("our-run", "ours", ours, TWO_NODES, tokens_per_gpu_s=400.0)
    learnt = fit([*published(), slow])

    again = estimate_training(ours, TWO_NODES, learnt)
    other = estimate_training(replace(S1, setup="other"), Machine(GPUS["H100"], 8, 1), learnt)
    other_before = estimate_training(replace(S1, setup="other"), Machine(GPUS["H100"], 8, 1))

    measured_hours = S1.train_tokens / 400.0 / 3600
    assert again.gpu_hours.p50 == pytest.approx(measured_hours, rel=0.1)
    assert spread(again) < 1.4 < spread(before)
    assert other_before.gpu_hours.p50 < other.gpu_hours.p50 < measured_hours
    assert not any("stillhouse" in note for note in again.notes)


def test_the_order_of_the_evidence_does_not_matter() -> None:
    forwards, backwards = fit(published()), fit(published()[::-1])

    for name, (mean, sd) in forwards.coefficients().items():
        assert backwards.coefficients()[name] == pytest.approx((mean, sd))


def test_without_any_evidence_the_expectations_stand_alone() -> None:
    nothing = fit([])
    estimate = estimate_training(S1, TWO_NODES, nothing)

    assert {name: mean for name, (mean, _) in nothing.coefficients().items()} == pytest.approx(
        {effect.name: effect.expected for effect in EFFECTS}
    )
    assert estimate.gpu_hours.p10 < estimate.gpu_hours.p50 < estimate.gpu_hours.p90


def test_evidence_that_more_machines_help_is_not_believed() -> None:
    """Two runs that would make the coefficient of many nodes negative do not."""
    work = replace(S1, packed=True, sample_tokens=2048, step_tokens=1e9)
    rows = [
        Evidence(f"run-{nodes}", "x", work, Machine(GPUS["H100"], 8, nodes), 500.0 * nodes)
        for nodes in (1, 2, 4, 8)
    ]

    assert fit(rows).coefficients()["many_nodes"][0] == 0.0


def test_runs_that_say_nothing_of_an_effect_leave_its_expectation_alone() -> None:
    mixture = next(effect for effect in EFFECTS if effect.name == "mixture")

    mean, sd = fitted().coefficients()["mixture"]

    assert mean == pytest.approx(mixture.expected, abs=1e-6)
    assert sd == pytest.approx(mixture.doubt, rel=1e-6)


def test_adapters_on_small_weights_do_not_feel_slow_links() -> None:
    lora = replace(S1, method="lora", params=13e9, active_params=13e9)
    one, four = Machine(GPUS["L4"], 1), Machine(GPUS["L4"], 4)

    qlora = replace(lora, method="qlora")
    assert hours(qlora, four) == pytest.approx(hours(qlora, one))  # a copy on each GPU
    assert hours(lora, four) > hours(lora, one) * 1.1  # 26 GB have to be spread


def hours(work: TrainingWork, machine: Machine) -> float:
    return estimate_training(work, machine).gpu_hours.p50


def test_machines_of_a_fleet_are_looked_at_once_however_often_they_are_offered() -> None:
    fleet = Fleet.of([TWO_NODES, Machine(GPUS["L4"], 1), TWO_NODES, TWO_NODES])

    distinct, which = fleet.distinct()

    assert len(distinct) == 2
    assert np.array_equal(distinct.nodes[which], fleet.nodes)
    assert np.array_equal(distinct.kind[which], fleet.kind)


@pytest.mark.parametrize(
    ("field", "value"), [("train_tokens", 0), ("sample_tokens", -1.0), ("active_params", 1e12)]
)
def test_work_that_cannot_be_is_an_error_that_names_the_figure(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        replace(S1, **{field: value})


def test_an_empty_fleet_has_no_hours() -> None:
    assert len(estimate_fleet(S1, Fleet.of([])).p50) == 0
