"""A run, from its first entry in the ledger to its last."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import NoCapacityError, ProvisionError
from launcher.machines.local import Follower
from launcher.plans.plan import Plan
from launcher.runs.house import House
from launcher.runs.run import drive, open_run
from launcher.runs.wishes import make_wish
from recipes.errors import (
    InterruptedRunError,
    RefusedError,
    StillhouseError,
    StoppedError,
)
from recipes.recipe import Recipe
from recipes.rundir import Done, Failed, WorkerEnded, write_model
from recipes.store import StoreUnreachableError
from tracking.entries import BudgetRaised, Git

# The worker and the machine are of conftest; tests see them only through their fixtures.
Worker = Any
ScriptedMachine = Any


def test_a_launcher_killed_while_the_worker_goes_on_is_taken_over(
    house: House, run_id: str, machine: ScriptedMachine
) -> None:
    class KilledError(BaseException):
        pass

    def killed(seconds: float) -> None:
        raise KilledError

    patient, house.sleep = house.sleep, killed
    with pytest.raises(KilledError):
        drive(house, run_id)
    assert house.ledger.books(run_id).open_attempt is not None
    house.sleep = patient

    drive(house, run_id)

    assert len(machine.starts) == 1
    assert house.ledger.books(run_id).state == "done"


def test_a_run_that_is_done_is_not_started_again(
    house: House, run_id: str, machine: ScriptedMachine
) -> None:
    drive(house, run_id)
    spent = house.ledger.books(run_id).spent_micro_usd

    drive(house, run_id)

    assert len(machine.starts) == 1
    assert house.ledger.books(run_id).spent_micro_usd == spent


def test_a_run_stopped_at_its_budget_says_how_far_it_came_and_goes_on_when_it_is_raised(
    house: House, run_id: str, machine: ScriptedMachine
) -> None:
    def stops(worker: Worker) -> Iterator[None]:
        worker.boot()
        worker.train(990.0)
        done = Done(status="stopped", reason="budget", steps=50, of_steps=100, finished_at=1.0)
        write_model(worker.run.done, done)
        worker.say(WorkerEnded, status="stopped")
        yield

    machine.scripts = [stops, *machine.scripts]
    with pytest.raises(StoppedError, match="after 50 of 100 steps; the student"):
        drive(house, run_id)
    assert house.ledger.books(run_id).state == "stopped"

    house.ledger.append(run_id, BudgetRaised(micro_usd=500_000))
    drive(house, run_id)

    assert machine.withdrawn == 1
    assert house.ledger.books(run_id).state == "done"
    assert machine.starts[1].machine_usd > 0


def test_ctrl_c_asks_the_worker_to_save_and_a_second_one_ends_it(
    house: House, run_id: str, machine: ScriptedMachine
) -> None:
    def deaf(worker: Worker) -> Iterator[None]:
        worker.boot()
        while True:
            yield

    machine.scripts = [deaf]
    presses = iter([0, 1, 1])
    house.interrupts = lambda: next(presses, 2)

    with pytest.raises(StillhouseError):
        drive(house, run_id)

    assert (machine.saves, machine.kills) == (1, 1)


def test_an_interrupted_worker_leaves_a_run_that_can_be_resumed(
    house: House, run_id: str, machine: ScriptedMachine
) -> None:
    def saves(worker: Worker) -> Iterator[None]:
        worker.boot()
        worker.train(1.0)
        worker.say(WorkerEnded, status="interrupted")
        yield

    machine.scripts = [saves, *machine.scripts]
    with pytest.raises(InterruptedRunError, match="still resume tiny-1"):
        drive(house, run_id)
    assert house.ledger.books(run_id).state == "interrupted"

    drive(house, run_id)
    assert house.ledger.books(run_id).state == "done"


def test_a_worker_that_fails_passes_on_what_happened_and_what_to_change(
    house: House, run_id: str, machine: ScriptedMachine
) -> None:
    def fails(worker: Worker) -> Iterator[None]:
        worker.boot()
        worker.say(Failed, code="nan", message="the loss is not a number", remedy="Lower the rate")
        worker.say(WorkerEnded, status="failed")
        yield

    machine.scripts = [fails]

    with pytest.raises(StillhouseError, match=r"not a number\. Lower the rate"):
        drive(house, run_id)
    assert house.ledger.books(run_id).state == "failed"


def test_two_processes_do_not_drive_one_run(house: House, run_id: str) -> None:
    with (
        Follower(house.home.run(run_id)),
        pytest.raises(RefusedError, match="another process follows tiny-1"),
    ):
        drive(house, run_id)


def test_a_run_folder_is_closed_to_others(house: House, run_id: str) -> None:
    folder: Path = house.home.run(run_id).path
    assert folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())


# ---- machines that are rented ----------------------------------------------------------------


def taken_away(worker: Worker) -> Iterator[None]:
    worker.boot()
    yield
    worker.train(10.0)
    yield


def test_a_machine_that_is_taken_away_is_followed_by_another_in_the_same_run(
    house: House, run_id: str, machine: ScriptedMachine, clock: Any
) -> None:
    machine.rented = True
    machine.sight = "lost"
    machine.scripts = [taken_away, *machine.scripts]

    drive(house, run_id)

    books = house.ledger.books(run_id)
    assert [attempt.how for attempt in books.attempts] == ["lost", "done"]
    assert books.state == "done"
    assert machine.releases == 2  # each machine was given back before the next was rented


def test_where_too_little_is_left_after_a_machine_was_lost_the_run_says_so_and_is_over(
    house: House, run_id: str, machine: ScriptedMachine, plan: Plan
) -> None:
    def costs_nearly_all(worker: Worker) -> Iterator[None]:
        worker.boot()
        worker.train(990.0)
        yield

    machine.rented = True
    machine.sight = "lost"
    machine.scripts = [costs_nearly_all, *machine.scripts]
    offers = iter([plan.offer, plan.offer.model_copy(update={"cloud": "aws"})])
    house.next_offer = lambda _plan, _books: next(offers)

    with pytest.raises(InterruptedRunError, match="not enough to begin"):
        drive(house, run_id)

    books = house.ledger.books(run_id)
    assert books.state == "interrupted"
    assert "--raise" in books.reason


@pytest.mark.parametrize(
    "fault", [StillhouseError("events.jsonl cannot be read"), OSError(28, "No space left")]
)
def test_a_fault_of_ours_in_mid_run_gives_the_machine_back_and_settles_it(
    house: House, run_id: str, machine: ScriptedMachine, clock: Any, fault: Exception
) -> None:
    def cannot_look(run: Any) -> Any:
        raise fault

    machine.rented = True
    machine.look = cannot_look

    with pytest.raises(type(fault)):
        drive(house, run_id)

    books = house.ledger.books(run_id)
    assert machine.releases == 1
    assert books.open_attempt is None
    assert books.reserved_micro_usd == 0


def test_each_attempt_may_rent_something_else(
    house: House, run_id: str, machine: ScriptedMachine, plan: Plan
) -> None:
    dearer = plan.offer.model_copy(update={"usd_per_hour": Decimal("7.20")})
    offers = iter([plan.offer, dearer])
    house.next_offer = lambda plan, books: next(offers)
    machine.rented = True
    machine.sight = "lost"
    machine.scripts = [taken_away, *machine.scripts]

    drive(house, run_id)

    assert [limits.usd_per_hour for limits in machine.starts] == [Decimal("3.60"), Decimal("7.20")]


def test_when_no_offer_has_a_machine_the_run_says_what_was_tried_and_nothing_runs(
    house: House, run_id: str, machine: ScriptedMachine, plan: Plan
) -> None:
    house.next_offer = lambda plan, books: None if books.attempts else plan.offer

    def none(run: Any, offer: Any) -> None:
        raise NoCapacityError("none")

    machine.start = none

    with pytest.raises(ProvisionError, match="tried this machine"):
        drive(house, run_id)

    books = house.ledger.books(run_id)
    assert books.state == "failed"
    assert books.reserved_micro_usd == 0
    assert machine.releases == 1


def test_a_rented_worker_that_does_not_move_is_ended(
    house: House, run_id: str, machine: ScriptedMachine, clock: Any
) -> None:
    def hangs(worker: Worker) -> Iterator[None]:
        worker.boot()
        while True:
            yield

    machine.rented = True
    machine.scripts = [hangs]
    house.patience_s = 60.0
    began = clock.now

    with pytest.raises(StillhouseError):
        drive(house, run_id)

    assert machine.kills == 1
    assert 60.0 < clock.now - began < 70.0


@pytest.mark.parametrize(("wish", "saves", "kills"), [("stop", 1, 0), ("down", 0, 1)])
def test_a_wish_left_by_another_process_is_granted_and_ends_the_run(
    house: House, run_id: str, machine: ScriptedMachine, wish: Any, saves: int, kills: int
) -> None:
    def listens(worker: Worker) -> Iterator[None]:
        worker.boot()
        make_wish(worker.run, wish)
        while not machine.saves:
            yield
        worker.say(WorkerEnded, status="interrupted")

    machine.rented = True
    machine.scripts = [listens]

    with pytest.raises(StillhouseError):
        drive(house, run_id)

    assert (machine.saves, machine.kills) == (saves, kills)
    assert len(machine.starts) == 1


def test_a_wish_to_save_is_passed_on_when_the_store_is_back(
    house: House, run_id: str, machine: ScriptedMachine
) -> None:
    def listens(worker: Worker) -> Iterator[None]:
        worker.boot()
        make_wish(worker.run, "stop")
        while not machine.saves:
            yield
        worker.say(WorkerEnded, status="interrupted")

    machine.rented = True
    machine.deaf = 3
    machine.scripts = [listens]

    with pytest.raises(InterruptedRunError):
        drive(house, run_id)

    assert (machine.deaf, machine.saves, machine.kills) == (0, 1, 0)


def test_a_wish_to_end_is_granted_by_giving_back_also_where_the_worker_cannot_be_killed(
    house: House, run_id: str, machine: ScriptedMachine
) -> None:
    def goes_on(worker: Worker) -> Iterator[None]:
        worker.boot()
        make_wish(worker.run, "down")
        while True:
            yield

    machine.rented = True
    machine.scripts = [goes_on]
    machine.kill = lambda run: None

    with pytest.raises(StillhouseError):
        drive(house, run_id)

    assert machine.releases == 1
    assert house.ledger.books(run_id).open_attempt is None


def test_a_wish_that_comes_with_the_teachers_last_answers_rents_nothing(
    house: House, recipe: Recipe, plan: Plan, machine: ScriptedMachine
) -> None:
    def answers(worker: Worker) -> Iterator[None]:
        worker.boot()
        make_wish(worker.run, "stop")
        yield
        worker.say(WorkerEnded, status="answered")

    machine.rented = True
    machine.scripts = [answers, *machine.scripts]
    open_run(house.home, house.ledger, "asks-1", recipe, plan, Git())

    with pytest.raises(InterruptedRunError, match="still resume asks-1"):
        drive(house, "asks-1")

    assert len(machine.starts) == 1


# ---- a budget that is raised -----------------------------------------------------------------


def stops_at(reason: str) -> Callable[[Worker], Iterator[None]]:
    def script(worker: Worker) -> Iterator[None]:
        worker.boot()
        worker.train(900.0)
        worker.run.student.mkdir()
        done = Done(status="stopped", reason=reason, steps=50, of_steps=100, finished_at=1.0)
        write_model(worker.run.done, done)
        worker.say(WorkerEnded, status="stopped")
        yield

    return script


def test_a_budget_that_was_raised_while_it_ran_out_lets_the_run_go_on_by_itself(
    house: House, run_id: str, machine: ScriptedMachine
) -> None:
    def raised(worker: Worker) -> Iterator[None]:
        yield from stops_at("budget")(worker)
        house.ledger.append(run_id, BudgetRaised(micro_usd=500_000))

    machine.scripts = [raised, *machine.scripts]

    drive(house, run_id)

    assert house.ledger.books(run_id).state == "done"
    assert len(machine.starts) == 2


def test_money_lets_no_run_go_on_that_stopped_at_its_hours_and_takes_nothing_from_it(
    house: House, run_id: str, machine: ScriptedMachine
) -> None:
    machine.scripts = [stops_at("deadline")]
    with pytest.raises(StoppedError):
        drive(house, run_id)
    house.ledger.append(run_id, BudgetRaised(micro_usd=500_000))

    with pytest.raises(StoppedError):
        drive(house, run_id)

    assert house.home.run(run_id).student.exists()
    assert len(machine.starts) == 1


def test_what_a_run_stopped_with_stays_until_the_next_machine_can_be_had(
    house: House, run_id: str, machine: ScriptedMachine
) -> None:
    def away(run: Any) -> None:
        raise StoreUnreachableError("the store is away", "Try again.")

    scripts, machine.scripts = machine.scripts, [stops_at("budget")]
    with pytest.raises(StoppedError):
        drive(house, run_id)
    house.ledger.append(run_id, BudgetRaised(micro_usd=500_000))
    withdraw, machine.withdraw = machine.withdraw, away

    with pytest.raises(StoreUnreachableError):
        drive(house, run_id)

    run = house.home.run(run_id)
    assert (run.student.exists(), run.done.exists()) == (True, True)
    machine.withdraw, machine.scripts = withdraw, scripts
    drive(house, run_id)
    assert house.ledger.books(run_id).state == "done"
