"""`still adopt`, from the command line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shaky_store import Killed
from two_homes import RUN, OneCloud, OneHome, one_home

from launcher.outside import Outside
from launcher.plans.plan import Plan
from launcher.runs.run import drive, open_run
from recipes.errors import StillhouseError
from recipes.recipe import Recipe
from recipes.rundir import WorkerEnded
from tracking.entries import Git, StateChanged

Clock = Any
Still = Any


@pytest.fixture
def ada(
    tmp_path: Path, runs: Path, cloud: OneCloud, recipe: Recipe, plan: Plan, clock: Clock
) -> Iterator[OneHome]:
    """Another home, with a run that it has opened."""
    made = one_home(tmp_path / "ada", "ada@lab", runs, cloud, clock, clock.sleep)
    offer = plan.offer.model_copy(update={"cloud": "aws", "region": "us-east-1"})
    rented = plan.model_copy(update={"offer": offer})
    open_run(made.house.home, made.ledger, RUN, recipe, rented, Git(), str(runs / RUN))
    yield made
    made.ledger.close()


@pytest.fixture
def bob(outside: Outside, cloud: OneCloud) -> Outside:
    """This home, which sees the same cloud, and whose launcher is its own watcher."""
    outside._backend = cloud
    return outside


def left_alone(ada: OneHome, clock: Clock) -> None:
    def dies() -> None:
        raise Killed

    clock.on_sleep = dies
    with pytest.raises(Killed):
        drive(ada.house, RUN)


def test_a_store_lists_its_runs_for_people_and_for_programs(
    ada: OneHome, still: Still, clock: Clock, runs: Path
) -> None:
    left_alone(ada, clock)

    text, as_json = still("adopt", runs), still("adopt", runs, "--json")

    assert text.exit_code == 0, text.stderr
    assert "ada@lab" in text.stdout
    (told,) = json.loads(as_json.stdout)
    assert (told["run_id"], told["driver"], told["known"]) == (RUN, "ada@lab", False)
    assert told["budget_usd"] == "1.000000"
    assert told["reserved_usd"] == "1.000000"


def test_an_empty_store_says_so(still: Still, runs: Path) -> None:
    runs.mkdir()
    result = still("adopt", runs)

    assert (result.exit_code, result.stdout) == (0, "")
    assert "no runs of ours" in result.stderr


def test_a_run_that_is_over_comes_with_its_receipt_and_student(
    ada: OneHome, still: Still, bob: Outside, cloud: OneCloud, clock: Clock, runs: Path
) -> None:
    clock.on_sleep = cloud.finish
    drive(ada.house, RUN)

    result = still("adopt", runs, RUN, "--json")

    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["scores"]["sums"]["value"] == 0.75
    assert (bob.home.run(RUN).student / "config.json").exists()
    assert json.loads(still("show", RUN, "--json").stdout) == json.loads(result.stdout)


def test_a_run_that_nobody_drives_is_taken_over_and_driven_to_its_end(
    ada: OneHome, still: Still, bob: Outside, cloud: OneCloud, clock: Clock, runs: Path
) -> None:
    left_alone(ada, clock)
    clock.now += 3600.0
    cloud.rented = False  # here the command drives by itself, without a watcher of its own
    clock.on_sleep = cloud.finish

    result = still("adopt", runs, RUN)

    assert result.exit_code == 0, result.stderr
    assert "is driven from here" in result.stderr
    assert bob.ledger.books(RUN).state == "done"
    assert (cloud.started, cloud.ended) == ([1], [1])


def test_a_run_whose_driver_lives_is_taken_over_only_where_a_person_says_so(
    ada: OneHome, still: Still, bob: Outside, clock: Clock, runs: Path
) -> None:
    left_alone(ada, clock)

    result = still("adopt", runs, RUN)

    assert result.exit_code == 3
    assert "ada@lab drives tiny-1 now" in result.stderr
    assert bob.ledger.run_ids() == []


def test_a_run_that_failed_and_lost_its_home_can_be_resumed_by_another_one(
    ada: OneHome, still: Still, bob: Outside, cloud: OneCloud, clock: Clock, runs: Path
) -> None:
    def fails() -> None:
        cloud.say(WorkerEnded, status="failed")
        ada.house.backend.look = lambda run: "ended"  # type: ignore[method-assign]

    clock.on_sleep = fails
    with pytest.raises(StillhouseError):
        drive(ada.house, RUN)
    del ada.house.backend.look
    clock.now += 86400.0

    adopted = still("adopt", runs, RUN)

    assert adopted.exit_code == 0, adopted.stderr
    assert f"still resume {RUN}" in adopted.stderr
    cloud.rented = False  # the command drives by itself
    clock.on_sleep = cloud.finish
    resumed = still("resume", RUN)
    assert resumed.exit_code == 0, resumed.stderr
    assert bob.ledger.books(RUN).state == "done"


def test_a_run_that_is_over_and_may_still_cost_is_taken_over_and_not_started(
    ada: OneHome, still: Still, bob: Outside, cloud: OneCloud, clock: Clock, runs: Path
) -> None:
    left_alone(ada, clock)
    ada.ledger.append(RUN, StateChanged(state="failed", reason="the cloud did not answer"))
    ada.again().house.mirror.hold()
    clock.now += 3600.0

    result = still("adopt", runs, RUN)

    assert result.exit_code == 6
    assert "still down tiny-1" in result.stderr
    assert cloud.started == [1]
    clock.on_sleep = lambda: None
    assert still("down", RUN).exit_code == 0
    assert cloud.ended == [1]


def test_a_run_that_another_home_drives_is_not_resumed_and_its_budget_not_raised_here(
    ada: OneHome, still: Still, bob: Outside, clock: Clock, runs: Path
) -> None:
    left_alone(ada, clock)
    assert still("adopt", runs, RUN, "--books-only").exit_code == 0

    for words in (("resume", RUN), ("watch", RUN), ("budget", RUN, "--raise", "1"), ("down", RUN)):
        result = still(*words)
        assert result.exit_code == 3, words
        assert "driven by ada@lab" in result.stderr
    assert bob.ledger.books(RUN).budget_micro_usd == 1_000_000


@pytest.mark.parametrize("words", [["ftp://somewhere"], ["s3://b u c k e t", RUN]])
def test_what_is_no_store_is_said(still: Still, words: list[str]) -> None:
    result = still("adopt", *words)

    assert result.exit_code == 2
    assert "is no run store" in result.stderr


def test_a_run_that_is_not_there_is_said_with_how_to_list_them(still: Still, runs: Path) -> None:
    runs.mkdir()
    result = still("adopt", runs, "nobody-1")

    assert result.exit_code == 2
    assert "lists all" in result.stderr


def test_a_folder_that_does_not_exist_is_no_store_without_runs(
    still: Still, tmp_path: Path
) -> None:
    result = still("adopt", tmp_path / "strore")

    assert result.exit_code == 2
    assert "strore: no such folder" in result.stderr
    assert not (tmp_path / "strore").exists()
