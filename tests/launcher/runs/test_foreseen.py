"""A run whose own speed takes it past a limit is told of while it goes on, and once."""

from collections.abc import Iterator
from typing import Any

from launcher.plans.plan import Plan
from launcher.runs.follow import follow
from launcher.runs.run import drive, open_run
from recipes.recipe import Recipe
from recipes.rundir import Progress, StageStarted
from tracking.entries import Git

# The house, its machine and its view are of conftest.
House = Any
ScriptedMachine = Any
SilentView = Any
Worker = Any


def at_a_step_in(seconds: float) -> Any:
    """A worker whose steps take so long."""

    def slow(worker: Worker) -> Iterator[None]:
        worker.boot()
        worker.say(StageStarted, stage="train")
        for step in range(1, 41):
            worker.clock.now += seconds
            worker.say(Progress, stage="train", done=step, total=100, unit="steps")
            yield
        worker.finish()

    return slow


def driven(house: House, recipe: Recipe, plan: Plan) -> list[str]:
    open_run(house.home, house.ledger, "tiny-1", recipe, plan, Git())
    drive(house, "tiny-1")
    return [text for text in house.view.said if "at this speed" in text]


def test_a_slow_run_is_warned_of_once_with_what_it_will_come_to(
    house: House, recipe: Recipe, plan: Plan, machine: ScriptedMachine
) -> None:
    machine.scripts = [at_a_step_in(20.0)]  # 100 steps are 2,000 s at $3.60/h; the budget is $1

    (said,) = driven(house, recipe, plan)

    assert "the run comes to $2." in said
    assert "its budget is $1.00" in said
    assert "`still budget tiny-1 --raise USD`" in said
    assert any("in the end" in line for line in house.view.shown)


def test_a_run_that_keeps_its_pace_is_not_warned_of(
    house: House, recipe: Recipe, plan: Plan, machine: ScriptedMachine
) -> None:
    machine.scripts = [at_a_step_in(5.0)]

    assert driven(house, recipe, plan) == []


def test_who_looks_on_is_warned_too(
    house: House, recipe: Recipe, plan: Plan, machine: ScriptedMachine, view: SilentView
) -> None:
    machine.scripts = [at_a_step_in(20.0)]
    looked: list[str] = []
    began = house.clock()
    seen = view.show

    def look(watched: Any, now: float) -> None:
        seen(watched, now)
        if watched.done == 30 and not looked:
            looked.append("yes")
            view.said.clear()
            house.interrupts = lambda: 1  # has seen enough after one look
            try:
                follow(house, "tiny-1", since=began)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at below
                looked.append(str(error))
            house.interrupts = lambda: 0

    view.show = look
    driven(house, recipe, plan)

    assert "goes on without you" in looked[1]
    assert any("the run comes to $2." in text for text in view.said)
