"""What is told of a run: which news, once each, and with which figures."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from launcher.machines.backend import Released
from launcher.runs.house import House
from launcher.runs.notices import Notice, as_json
from launcher.runs.run import drive, release
from recipes.errors import InterruptedRunError, StillhouseError, StoppedError, TeardownUnprovedError
from recipes.rundir import ApiUsage, Done, Failed, WorkerEnded, write_model
from tracking.database import LedgerError
from tracking.entries import BudgetRaised

# The worker and the machine are of conftest; tests see them only through their fixtures.
Worker = Any
ScriptedMachine = Any

BUDGET_S = 1000.0
"""The budget of $1 is enough for so many seconds of the recipe's machine."""


@pytest.fixture
def told(house: House) -> list[Notice]:
    notices: list[Notice] = []
    house.notify = notices.append
    return notices


def kinds(told: list[Notice]) -> list[str]:
    return [notice.kind for notice in told]


def trains(*seconds: float) -> Any:
    """A worker that trains so long between one look of the launcher and the next."""

    def script(worker: Worker) -> Iterator[None]:
        worker.boot()
        yield
        for each in seconds:
            worker.train(each)
            yield
        worker.finish()

    return script


def is_taken_away(worker: Worker) -> Iterator[None]:
    worker.boot()
    yield
    worker.train(10.0)
    worker.say(WorkerEnded, status="interrupted")
    yield


def test_a_run_is_told_when_it_starts_and_when_it_is_done_with_its_dollars(
    house: House, run_id: str, told: list[Notice]
) -> None:
    drive(house, run_id)

    assert kinds(told) == ["started", "done"]
    books = house.ledger.books(run_id)
    assert told[-1].spent_usd * 1_000_000 == books.spent_micro_usd > 0
    assert told[-1].text == "tiny-1 is done; `still show tiny-1` has its receipt " + (
        f"[done; ${told[-1].spent_usd:.4f} of $1.00 spent]"
    )


def test_in_json_dollars_are_strings_and_the_run_has_its_id(
    house: House, run_id: str, told: list[Notice]
) -> None:
    drive(house, run_id)

    message = json.loads(json.dumps(as_json(told[0])))
    assert set(message) == {"run_id", "kind", "text", "spent_usd", "budget_usd", "time"}
    assert (message["run_id"], message["kind"]) == ("tiny-1", "started")
    assert (message["spent_usd"], message["budget_usd"]) == ("0.000000", "1.000000")


def test_each_share_of_the_budget_is_told_once_while_the_run_goes_on(
    house: House, run_id: str, told: list[Notice], machine: ScriptedMachine
) -> None:
    machine.scripts = [trains(495.0, 10.0, 10.0, 300.0, 10.0, 190.0)]

    drive(house, run_id)

    assert kinds(told) == ["started", "budget_50", "budget_80", "budget_100", "done"]
    half = told[1]
    assert 0.50 <= half.spent_usd < 0.52  # what runs is counted, not only what is settled
    assert "50 % of the budget" in half.text


def test_shares_passed_at_once_are_told_as_one(
    house: House, run_id: str, told: list[Notice], machine: ScriptedMachine
) -> None:
    machine.scripts = [trains(0.85 * BUDGET_S, 1.0)]

    drive(house, run_id)

    assert kinds(told) == ["started", "budget_80", "done"]


def test_a_teacher_behind_an_api_counts_before_it_is_settled(
    house: House, run_id: str, told: list[Notice], machine: ScriptedMachine
) -> None:
    def asks(worker: Worker) -> Iterator[None]:
        worker.boot()
        worker.say(ApiUsage, micro_usd=600_000, input_tokens=1, output_tokens=1)
        yield
        yield
        worker.finish()

    machine.scripts = [asks]

    drive(house, run_id)

    assert "budget_50" in kinds(told)


def test_who_drives_on_after_a_restart_does_not_tell_the_same_share_again(
    house: House, run_id: str, told: list[Notice], machine: ScriptedMachine
) -> None:
    def dies(worker: Worker) -> Iterator[None]:
        yield from trains(600.0, 1.0)(worker)
        worker.run.done.unlink()

    machine.scripts = [dies, trains(1.0, 1.0)]
    with pytest.raises(StillhouseError):
        drive(house, run_id)
    assert "budget_50" in kinds(told)
    told.clear()

    drive(house, run_id)

    assert kinds(told) == ["started", "done"]


def test_a_budget_that_was_raised_is_told_by_its_own_shares(
    house: House, run_id: str, told: list[Notice], machine: ScriptedMachine
) -> None:
    machine.scripts = [trains(810.0, 1.0)]
    drive(house, run_id)
    assert "budget_80" in kinds(told)
    told.clear()
    house.ledger.append(run_id, BudgetRaised(micro_usd=3_000_000))
    house.home.run(run_id).done.unlink()
    machine.scripts = [trains(1300.0, 1.0)]

    drive(house, run_id)

    assert kinds(told) == ["started", "budget_50", "done"]
    assert "of $4.00" in told[1].text


def test_a_machine_taken_away_is_told_and_that_the_run_goes_on(
    house: House, run_id: str, told: list[Notice], machine: ScriptedMachine
) -> None:
    machine.rented = True
    machine.scripts = [is_taken_away, trains(1.0)]

    drive(house, run_id)

    assert kinds(told) == ["started", "interrupted", "started", "done"]
    assert "attempt 2" in told[2].text


def test_a_failure_is_told_in_the_words_of_its_error_and_not_at_any_length(
    house: House, run_id: str, told: list[Notice], machine: ScriptedMachine
) -> None:
    def fails(worker: Worker) -> Iterator[None]:
        worker.boot()
        worker.say(
            Failed, code="bad_data", message="the data is bad" + 9_000 * "!", remedy="Mend it"
        )
        worker.say(WorkerEnded, status="failed")
        yield

    machine.scripts = [fails]

    with pytest.raises(StillhouseError):
        drive(house, run_id)

    assert kinds(told) == ["started", "failed"]
    assert "the data is bad" in told[-1].text
    assert len(told[-1].text) < 1_200


def test_a_stop_at_the_budget_and_one_by_a_person_are_both_told(
    house: House, run_id: str, told: list[Notice], machine: ScriptedMachine
) -> None:
    def saves(worker: Worker) -> Iterator[None]:
        worker.boot()
        worker.say(WorkerEnded, status="interrupted")
        yield

    def stops(worker: Worker) -> Iterator[None]:
        worker.boot()
        done = Done(status="stopped", reason="budget", steps=5, of_steps=100, finished_at=1.0)
        write_model(worker.run.done, done)
        worker.say(WorkerEnded, status="stopped")
        yield

    machine.scripts = [saves, stops]
    with pytest.raises(InterruptedRunError):
        drive(house, run_id)
    with pytest.raises(StoppedError):
        drive(house, run_id)

    assert kinds(told) == ["started", "stopped", "started", "stopped"]
    assert "at its budget" in told[-1].text


def test_a_teardown_that_nobody_could_prove_is_told_with_what_to_do(
    house: House, run_id: str, told: list[Notice], machine: ScriptedMachine
) -> None:
    machine.released = Released(proved=None, detail="AWS could not be asked")

    with pytest.raises(TeardownUnprovedError):
        drive(house, run_id)
    with pytest.raises(TeardownUnprovedError):
        release(house, run_id)

    assert kinds(told) == ["started", "teardown_unproved", "teardown_unproved"]
    assert "still down tiny-1" in told[-1].text


def test_a_ledger_that_cannot_take_a_notice_does_not_stop_the_run(
    house: House, run_id: str, told: list[Notice], machine: ScriptedMachine
) -> None:
    append = house.ledger.append

    def busy(run: str, *entries: Any) -> None:
        if any(entry.kind == "noted" for entry in entries):
            raise LedgerError("the ledger is locked")
        append(run, *entries)

    house.ledger.append = busy  # type: ignore[method-assign]
    machine.scripts = [trains(600.0, 1.0)]

    drive(house, run_id)

    assert kinds(told) == ["started", "done"]


def test_a_run_that_nobody_is_told_of_has_no_notice_in_its_books(
    house: House, run_id: str, machine: ScriptedMachine
) -> None:
    machine.scripts = [trains(600.0, 1.0)]

    drive(house, run_id)

    assert house.ledger.books(run_id).notes == {}
