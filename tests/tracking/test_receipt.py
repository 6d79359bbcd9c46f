import json
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from recipes.errors import InvalidInputError
from recipes.money import from_micro_usd
from recipes.rundir import CheckpointLoaded, Stopping, WorkerEnded
from tracking.books import NO_MACHINE
from tracking.entries import AttemptStarted, Billed, Opened, StateChanged
from tracking.receipt import Receipt, make_receipt
from tracking.show import render_receipt

LAUNCH = 1_795_318_260.0


def receipt_of(workshop: Any, run_id: str = "demo-1") -> Receipt:
    return make_receipt(workshop.ledger.books(run_id), workshop.home.run(run_id))


@pytest.mark.golden
def test_the_receipt_of_a_whole_run_reads_well(
    workshop: Any, printed: Callable[..., str], golden: Callable[[str, str], None]
) -> None:
    workshop.whole_run("demo-1")

    text = printed(render_receipt(receipt_of(workshop)))

    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    golden("tracking/receipt.txt", text)


@pytest.mark.golden
def test_the_receipts_keys_are_stable(workshop: Any, golden: Callable[[str, str], None]) -> None:
    workshop.whole_run("demo-1")

    golden("tracking/receipt.json", receipt_of(workshop).model_dump_json(indent=2) + "\n")


def test_what_was_metered_is_the_ledgers_sum_and_price_times_time(workshop: Any) -> None:
    workshop.whole_run("demo-1")
    books = workshop.ledger.books("demo-1")

    receipt = receipt_of(workshop)

    assert receipt.metered_usd == from_micro_usd(books.spent_micro_usd)
    assert receipt.metered_usd == sum(receipt.lines.values())
    hours = receipt.metered_s / 3600
    assert float(receipt.metered_usd) == pytest.approx(0.12 * hours, rel=0.01)
    assert sum(receipt.stages.values()) == pytest.approx(receipt.metered_s)
    assert receipt.wall_s == pytest.approx(5 + 50)


def test_a_receipt_in_json_comes_back_as_it_was(workshop: Any) -> None:
    workshop.whole_run("demo-1")
    receipt = receipt_of(workshop)

    said = receipt.model_dump_json()

    assert Receipt.model_validate_json(said) == receipt
    assert json.loads(said)["metered_usd"] == "0.001667"
    assert json.loads(said)["billed_usd"] is None


def test_a_run_that_goes_on_has_a_receipt_so_far(
    workshop: Any, printed: Callable[..., str]
) -> None:
    run = workshop.open("demo-1")
    workshop.say(run, *workshop.worker_events(workshop.clock.now, 0.99)[:8])

    receipt = receipt_of(workshop)

    assert receipt.status == "running"
    assert receipt.metered_usd == 0
    assert receipt.reserved_usd == Decimal("0.02")
    assert receipt.stages == {"boot": 4.0, "generate": 10.0, "train": 12.0}
    assert (receipt.steps, receipt.of_steps) == (2, 4)
    assert receipt.wall_s == pytest.approx(5 + 26)
    assert receipt.teardown.proved is None
    shown = printed(render_receipt(receipt))
    assert "$0.0200 more is reserved" in shown
    assert "not settled" in shown
    assert "unproved (attempt 1 is still on)" in shown


def test_before_anything_is_started_nothing_is_known_and_nothing_is_zero(
    workshop: Any, printed: Callable[..., str]
) -> None:
    workshop.ledger.open_run("bare", Opened(recipe=workshop.recipe, budget_micro_usd=50_000))

    receipt = receipt_of(workshop, "bare")

    assert (receipt.price, receipt.steps, receipt.teacher, receipt.scores) == (None, None, None, {})
    assert receipt.estimated_usd.p50 is None
    shown = printed(render_receipt(receipt))
    assert "estimated  unknown" in shown
    assert "machine    none yet" in shown


def test_a_lost_machine_and_a_resume_are_on_one_receipt(workshop: Any) -> None:
    run = workshop.open("demo-1")
    start = workshop.clock.now
    cut_off = [e for e in workshop.worker_events(start, 0.99) if e.t <= start + 32]
    workshop.say(run, *cut_off)
    workshop.end_attempt(run, cut_off, "lost")
    workshop.ledger.append("demo-1", StateChanged(state="interrupted", reason="it was taken away"))
    workshop.clock.now += 100
    workshop.start("demo-1", attempt=2, usd_per_hour="0.24")
    again = workshop.worker_events(workshop.clock.now, 0.99, attempt=2)
    resumed = [*again[:1], CheckpointLoaded(t=again[0].t, attempt=2, step=2), *again[6:]]
    workshop.say(run, *resumed)
    workshop.end_attempt(run, resumed, "done")
    workshop.finish(run)

    receipt = receipt_of(workshop)

    assert [attempt.how for attempt in receipt.attempts] == ["lost", "done"]
    assert receipt.stages["lost"] == pytest.approx(32 + 0.5 - 28)
    assert receipt.lines["lost"] == from_micro_usd(150)
    assert receipt.price is not None
    assert receipt.price.usd_per_hour == Decimal("0.24")
    assert receipt.metered_usd == sum(receipt.lines.values())
    assert receipt.wall_s > receipt.metered_s + 100  # the night between the attempts
    assert "all 2 attempts, and the work that was lost between them" in receipt.included
    assert receipt.included[0] == (
        "this machine, from the start of each attempt to its end, at $0.12/h, the recipe's own "
        "figure and at $0.24/h, the recipe's own figure"
    )


def test_a_bill_stands_beside_the_metered_figure_and_not_in_its_place(workshop: Any) -> None:
    workshop.whole_run("demo-1")
    before = receipt_of(workshop)
    workshop.ledger.append("demo-1", Billed(micro_usd=1_900, final=False, source="cost explorer"))

    after = receipt_of(workshop)

    assert before.billed_usd is None
    assert (after.billed_usd, after.billed_final) == (Decimal("0.0019"), False)
    assert after.metered_usd == before.metered_usd
    assert after.wall_s == before.wall_s  # the bill came later; the run was over


def test_an_overshoot_is_a_warning_on_the_receipt(workshop: Any) -> None:
    workshop.open("demo-1")
    reservation = workshop.ledger.reserve("demo-1", "teacher_api", 100)
    workshop.ledger.settle(reservation, {"teacher_api": 150})

    (warning,) = receipt_of(workshop).warnings

    assert warning == "reservation demo-1/2 of $0.0001 was passed: it came to $0.0002"


def test_words_in_brackets_are_words_and_no_markup(
    workshop: Any, printed: Callable[..., str]
) -> None:
    workshop.whole_run("demo-1")
    workshop.ledger.append(
        "demo-1", StateChanged(state="failed", reason="no [bold]GPU[/bold] for [7, 8]")
    )

    shown = printed(render_receipt(receipt_of(workshop)))

    assert "no [bold]GPU[/bold] for [7, 8]" in shown
    assert "3 answers of [the teacher] were cut off" in shown


def test_colour_is_for_terminals(workshop: Any, printed: Callable[..., str]) -> None:
    workshop.whole_run("demo-1")

    assert "\x1b[32mdone" in printed(render_receipt(receipt_of(workshop)), colour=True)


def test_a_receipt_outlives_the_runs_folder(workshop: Any) -> None:
    workshop.whole_run("demo-1")
    import shutil

    shutil.rmtree(workshop.home.run("demo-1").path)

    receipt = receipt_of(workshop)

    assert receipt.metered_usd == Decimal("0.001667")
    assert receipt.scores == {}


def test_a_damaged_file_of_the_run_is_named(workshop: Any) -> None:
    run = workshop.whole_run("demo-1")
    run.scores.write_text('{"scores": {"additions": {"value": 2}}}')

    with pytest.raises(InvalidInputError, match=r"scores\.json is not a valid Scores"):
        receipt_of(workshop)


@pytest.mark.parametrize(
    ("teacher", "left_out"),
    [
        ({"kind": "none"}, "what it cost to write the labels"),
        (
            {"kind": "dataset", "model": "x"},
            "what it cost somebody else to have the traces written",
        ),
        ({"kind": "model", "model": "x"}, "making or buying the teacher"),
    ],
)
def test_it_says_who_paid_for_the_teacher(
    workshop: Any, teacher: dict[str, str], left_out: str
) -> None:
    data: dict[str, Any] = {"kind": "generated", "prompt": "{question}", "rows": 20}
    if teacher["kind"] != "model":
        data["completion"] = "{answer}"
    workshop.whole_run("demo-1", recipe={**workshop.recipe, "teacher": teacher, "data": data})

    assert left_out in receipt_of(workshop).not_included


def test_rented_machines_leave_out_what_nobody_metered(workshop: Any) -> None:
    rented = {**workshop.recipe, "hardware": {"local": False}}
    rented["teacher"] = {"kind": "api", "base_url": "https://x.example/v1", "model": "m"}
    workshop.whole_run("demo-1", recipe=rented)
    workshop.ledger.settle(workshop.ledger.reserve("demo-1", "storage", 100), {"storage": 9})

    receipt = receipt_of(workshop)

    assert receipt.not_included == ("egress", "taxes, credits and discounts")
    assert receipt.included[1:] == (
        "the teacher's answers, by their tokens and the endpoint's prices",
        "storage",
    )


def test_a_machine_that_never_was_is_not_on_the_receipt(
    workshop: Any, printed: Callable[..., str]
) -> None:
    """Nor is the hour of an attempt that asked a teacher, and rented nothing."""
    rented = {**workshop.recipe, "hardware": {}}
    run = workshop.open("demo-1", rented)
    workshop.end_attempt(run, [], NO_MACHINE)
    for number, fields in enumerate(
        ({"cloud": "local", "name": "this machine"}, {"cloud": "aws", "name": "aws p5"}), 2
    ):
        workshop.ledger.append(
            "demo-1",
            AttemptStarted(
                attempt=number,
                started_at=workshop.clock.now,
                usd_per_hour=Decimal(40 * (number - 2)),
                price_source="AWS",
                offer=fields,
                reservation=workshop.ledger.reserve("demo-1", "train", 20_000),
            ),
        )
        workshop.end_attempt(run, [], "answered" if number == 2 else NO_MACHINE)
    workshop.ledger.append("demo-1", StateChanged(state="failed"))

    receipt = make_receipt(workshop.ledger.books("demo-1"), run)
    shown = printed(render_receipt(receipt))

    assert receipt.price is None
    assert receipt.included == (
        "rented machines, from the start of each attempt to its end, of which there has been none",
    )
    assert "p5" not in shown
    assert "3: no machine, answered, no machine" in shown
    assert re.search(r"machine +none\n", shown)


def test_a_machine_keeps_its_place_when_none_could_be_had_after_it(workshop: Any) -> None:
    run = workshop.open("demo-1", {**workshop.recipe, "hardware": {}})
    workshop.end_attempt(run, [], "lost")
    workshop.start("demo-1", attempt=2, usd_per_hour="40")
    workshop.end_attempt(run, [], NO_MACHINE)

    receipt = make_receipt(workshop.ledger.books("demo-1"), run)

    assert receipt.price is not None
    assert receipt.price.usd_per_hour == Decimal("0.12")
    assert not any("attempts, and the work" in sentence for sentence in receipt.included)


def test_an_interrupted_attempt_saves_and_loses_nothing(workshop: Any) -> None:
    run = workshop.open("demo-1")
    start = workshop.clock.now
    events = [
        *[e for e in workshop.worker_events(start, 0.99) if e.t <= start + 32],
        Stopping(t=start + 33, attempt=1, reason="interrupt"),
        WorkerEnded(t=start + 35, attempt=1, status="interrupted"),
    ]
    workshop.say(run, *events)
    workshop.end_attempt(run, events, "interrupted")

    stages = receipt_of(workshop).stages

    assert stages == pytest.approx(
        {"boot": 4.0, "generate": 10.0, "train": 19.0, "save": 2.0, "idle": 0.5}
    )
