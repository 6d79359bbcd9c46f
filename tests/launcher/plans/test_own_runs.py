"""Our own runs correct the estimate for their model and GPU."""

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import recipes
from launcher.estimate.efficiency import Efficiency, fit
from launcher.estimate.evidence import OWN, Evidence, published
from launcher.market.offers import Offer
from launcher.plans.own_runs import LEAST_STEPS, evidence_of, own_evidence
from launcher.plans.plan import Plan, Quantiles
from launcher.plans.planner import Ranked, plan_offers
from launcher.plans.read_facts import read_facts
from launcher.runs.run import open_run
from recipes.errors import RefusedError
from recipes.loading import load_recipe, with_changes
from recipes.recipe import Recipe
from recipes.rundir import (
    AnyEvent,
    CheckpointSaved,
    EventLog,
    StageStarted,
    TrainStep,
    WorkerStarted,
)
from tracking.books import Attempt
from tracking.entries import AttemptEnded, AttemptStarted, Git, StateChanged

# The house is of conftest.
House = Any

NOW = 1_800_000_000.0
S1 = load_recipe(Path(recipes.__file__).parent / "s1.yaml")
STEP_TOKENS = 16 * 4700


def offer(gpu: str = "H100", nodes: int = 2, per_node: int = 8, **fields: object) -> Offer:
    known = {
        "cloud": "aws",
        "region": "us-east-2",
        "accelerator": gpu,
        "accelerators": per_node,
        "nodes": nodes,
        "spot": False,
        "usd_per_hour": "40",
        "source": "test",
    }
    return Offer.model_validate(known | fields)


def attempt(rented: Offer) -> Attempt:
    return Attempt(1, NOW, NOW + 3600, "done", Decimal(40), "test", None, rented.as_json(), "r")


def events(
    step_s: float, steps: int = 50, device: str = "cuda:NVIDIA H100", processes: int = 16
) -> list[AnyEvent]:
    """A worker whose first step takes a minute longer, and that saves once for 100 s."""
    said: list[AnyEvent] = [
        WorkerStarted(t=NOW, attempt=1, pid=1, device=device, processes=processes),
        StageStarted(t=NOW + 300, attempt=1, stage="train"),
    ]
    for step in range(1, steps + 1):
        late = 100.0 if step > steps // 2 else 0.0
        t = NOW + 360 + step * step_s + late
        if step == steps // 2 + 1:
            said.append(
                CheckpointSaved(t=t - step_s, attempt=1, step=step - 1, size_bytes=1, seconds=100.0)
            )
        said.append(
            TrainStep(
                t=t,
                attempt=1,
                step=step,
                steps=315,
                loss=1.0,
                learning_rate=1e-5,
                grad_norm=1.0,
                tokens=step * STEP_TOKENS,
                completion_tokens=step * STEP_TOKENS,
                tokens_per_s=1.0,
            )
        )
    return said


def measured(step_s: float, rented: Offer | None = None) -> Evidence:
    rented = rented or offer()
    gpus = rented.accelerators * rented.nodes
    found = evidence_of("r", S1, attempt(rented), events(step_s, processes=gpus))
    assert found is not None
    return found


# ---- what an attempt measured ----------------------------------------------------------------


def test_the_rate_is_that_of_the_steps_without_start_and_checkpoints() -> None:
    found = measured(step_s=5.0)

    assert found.tokens_per_gpu_s == pytest.approx(STEP_TOKENS / 5.0 / 16)
    assert found.work.sample_tokens == 4700
    assert found.work.step_tokens == STEP_TOKENS
    assert found.machine.gpus == 16
    assert found.project == OWN


def test_gpus_that_wait_for_the_others_count_as_a_plan_counts_them() -> None:
    three = offer(nodes=3)

    found = measured(5.0, three)

    assert found.tokens_per_gpu_s == pytest.approx(STEP_TOKENS / 5.0 / 24 * 24 / 16)


@pytest.mark.parametrize(
    ("rented", "said"),
    [
        (offer(), events(5.0, device="cpu")),
        (offer(), events(5.0, processes=8)),
        (offer(), events(5.0, steps=LEAST_STEPS)),
        (offer(), events(0.001)),
        (offer(), [event for event in events(5.0) if not isinstance(event, TrainStep)]),
        (offer(), []),
        (offer("Unheard-of"), events(5.0)),
        (offer(cloud="local", accelerator=None, accelerators=0, nodes=1), events(5.0)),
    ],
    ids=[
        "a worker that found no GPU",
        "half of the GPUs",
        "too few steps",
        "faster than the hardware",
        "no steps",
        "no events",
        "a GPU that nobody knows",
        "a run at home",
    ],
)
def test_what_says_nothing_of_a_gpu_is_no_evidence(rented: Offer, said: Sequence[AnyEvent]) -> None:
    assert evidence_of("r", S1, attempt(rented), said) is None


def test_float32_is_no_evidence_for_bfloat16() -> None:
    slow = with_changes(S1, {"training.dtype": "float32"})

    assert evidence_of("r", slow, attempt(offer()), events(5.0)) is None


# ---- what a plan makes of it -----------------------------------------------------------------


def ranked(known: Efficiency | None, rented: Offer | None = None) -> Ranked:
    return plan_offers(S1, [rented or offer()], read_facts(S1), NOW, efficiency=known)


def train(plan: Plan) -> Quantiles:
    return next(line.quantity for line in plan.lines if line.name == "train")


def test_the_next_plan_is_drawn_to_what_was_measured_and_is_surer_of_it() -> None:
    before = ranked(None).chosen
    slow_s = float(train(before).p50) * 3600 / 315 * 1.6

    after = ranked(fit((*published(), measured(slow_s)))).chosen

    ratio = float(train(after).p50 / train(before).p50)
    assert 1.5 < ratio <= 1.6
    assert train(after).p90 / train(after).p50 < train(before).p90 / train(before).p50
    assert any("corrected by 1 run of your own on H100" in each for each in after.assumptions)


def test_the_more_of_them_agree_the_more_they_weigh() -> None:
    before = float(train(ranked(None).chosen).p50)
    slow = measured(before * 3600 / 315 * 1.6)

    weights = [
        float(train(ranked(fit((*published(), *[slow] * count))).chosen).p50) / before
        for count in (0, 1, 4)
    ]

    assert weights[0] == 1.0
    assert weights[0] < weights[1] < weights[2] <= 1.6


def test_another_gpu_learns_less_from_it() -> None:
    slow = measured(float(train(ranked(None).chosen).p50) * 3600 / 315 * 1.6)
    known = fit((*published(), slow))

    ratios = {
        gpu: float(
            train(ranked(known, offer(gpu)).chosen).p50 / train(ranked(None, offer(gpu)).chosen).p50
        )
        for gpu in ("H100", "A100-80GB")
    }

    assert 1.0 < ratios["A100-80GB"] < ratios["H100"]


# ---- from the ledger -------------------------------------------------------------------------


def keep(house: House, run_id: str, recipe: Recipe, plan: Plan, said: Sequence[AnyEvent]) -> None:
    """A run that is over, as the ledger and its folder have it."""
    open_run(house.home, house.ledger, run_id, recipe, plan, Git())
    started = AttemptStarted(
        attempt=1,
        started_at=NOW,
        usd_per_hour=plan.offer.usd_per_hour,
        price_source="test",
        price_as_of=None,
        offer=plan.offer.as_json(),
        reservation=house.ledger.reserve(run_id, "train", 1000, "the machine"),
    )
    house.ledger.append(run_id, started)
    log = EventLog(house.home.run(run_id).events, 1)
    for event in said:
        log.write(event)
    log.close()
    house.ledger.append(run_id, AttemptEnded(attempt=1, ended_at=NOW + 3600, how="done"))
    house.ledger.append(run_id, StateChanged(state="done"))


def test_finished_runs_on_rented_gpus_are_found_and_others_passed_over(
    house: House, recipe: Recipe, plan: Plan
) -> None:
    rented = ranked(None).chosen
    keep(house, "s1-1", S1, rented, events(5.0))
    keep(house, "tiny-1", recipe, plan, events(5.0))

    (found,) = own_evidence(house.home, house.ledger.runs())

    assert found.id == "s1-1/1"
    assert found.tokens_per_gpu_s == pytest.approx(STEP_TOKENS / 5.0 / 16)


def test_a_run_that_cannot_be_read_any_more_is_no_evidence_and_no_harm(
    house: House, tmp_path: Path
) -> None:
    gone = with_changes(S1, {"student.model": str(tmp_path / "gone")})
    keep(house, "gone-1", gone, ranked(None).chosen, events(5.0))
    keep(house, "torn-1", S1, ranked(None).chosen, events(5.0))
    house.home.run("torn-1").events.write_text("{}\n")

    assert own_evidence(house.home, house.ledger.runs()) == ()
    with pytest.raises(RefusedError):
        ranked(None, offer("Unheard-of"))
