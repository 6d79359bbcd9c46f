"""A run that its home has lost, or left: another home finds its books, and goes on with it."""

import json
import shutil
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from shaky_store import Fate, Killed
from two_homes import RUN, OneCloud, OneHome, one_home

from launcher.errors import StoodDownError
from launcher.market.offers import LOCAL
from launcher.plans.plan import Plan
from launcher.runs.adopt import find_stored, stored_runs
from launcher.runs.notices import Notice
from launcher.runs.run import drive, open_run, release
from launcher.show_adopt import stored_json
from recipes.errors import InvalidInputError, RefusedError
from recipes.recipe import Recipe
from recipes.rundir import Limits, write_model
from recipes.store import FolderStore
from tracking.entries import AttemptStarted, Git, StateChanged
from tracking.receipt import make_receipt
from tracking.shared import SharedBooks

Clock = Any


@pytest.fixture
def make_home(
    tmp_path: Path, runs: Path, cloud: OneCloud, clock: Clock
) -> Iterator[Callable[[str], OneHome]]:
    made = []

    def make(name: str) -> OneHome:
        made.append(one_home(tmp_path / name, f"{name}@lab", runs, cloud, clock, clock.sleep))
        return made[-1]

    yield make
    for each in made:
        each.ledger.close()


@pytest.fixture
def aws(plan: Plan) -> Plan:
    """The plan, on a machine of AWS."""
    offer = plan.offer.model_copy(update={"cloud": "aws", "region": "us-east-1"})
    return plan.model_copy(update={"offer": offer})


@pytest.fixture
def ada(make_home: Callable[[str], OneHome], recipe: Recipe, aws: Plan, runs: Path) -> OneHome:
    """A home with a run that nobody has driven yet."""
    made = make_home("ada")
    open_run(made.house.home, made.ledger, RUN, recipe, aws, Git(), str(runs / RUN))
    return made


@pytest.fixture
def bob(make_home: Callable[[str], OneHome]) -> OneHome:
    """A home that knows of nothing."""
    return make_home("bob")


class DiedError(BaseException):
    """A process of ours is no more, without a word."""


def dies() -> None:
    raise DiedError


def receipt(of: OneHome) -> dict[str, Any]:
    made: dict[str, Any] = make_receipt(of.ledger.books(RUN), of.run).model_dump(mode="json")
    return made


def finished(ada: OneHome, cloud: OneCloud, clock: Clock) -> None:
    """A run from its launch to its end."""
    clock.on_sleep = cloud.finish
    drive(ada.house, RUN)


def left_alone(ada: OneHome, clock: Clock) -> None:
    """A run under way, whose driver has died."""
    clock.on_sleep = dies
    with pytest.raises(DiedError):
        drive(ada.house, RUN)


def shared(runs: Path) -> SharedBooks:
    found = SharedBooks(FolderStore(runs / RUN), RUN)
    found.catch_up()
    return found


# ---- after a home was lost -------------------------------------------------------------------


def test_the_receipt_of_a_lost_home_is_made_again_from_the_store(
    ada: OneHome, bob: OneHome, cloud: OneCloud, clock: Clock
) -> None:
    finished(ada, cloud, clock)
    before = receipt(ada)
    ada.ledger.close()
    shutil.rmtree(ada.house.home.path)

    new = bob.adoption().take_books(with_student=True)

    assert receipt(bob) == before
    assert before["scores"]["sums"]["value"] == 0.75
    assert new == len(bob.ledger.books(RUN).entries)
    assert (bob.run.student / "config.json").exists()
    assert bob.run.path.stat().st_mode & 0o077 == 0


def test_books_come_once_and_without_the_student_where_it_is_not_wanted(
    ada: OneHome, bob: OneHome, cloud: OneCloud, clock: Clock
) -> None:
    finished(ada, cloud, clock)

    assert bob.adoption().take_books(with_student=False) > 0
    assert not bob.run.student.exists()
    assert bob.adoption().take_books(with_student=True) == 0
    assert bob.run.student.exists()


def test_taking_the_books_of_a_run_under_way_leaves_its_driver_alone(
    ada: OneHome, bob: OneHome, cloud: OneCloud, clock: Clock
) -> None:
    def looks() -> None:
        bob.adoption().take_books(with_student=False)
        clock.on_sleep = cloud.finish

    clock.on_sleep = looks
    drive(ada.house, RUN)

    assert ada.ledger.books(RUN).state == "done"
    with pytest.raises(StoodDownError, match="still adopt"):
        drive(bob.house, RUN)  # books alone are no leave to drive


# ---- taking over -----------------------------------------------------------------------------


def test_a_run_whose_driver_died_is_driven_to_its_end_by_another_home(
    ada: OneHome, bob: OneHome, cloud: OneCloud, clock: Clock, runs: Path
) -> None:
    left_alone(ada, clock)
    bob.adoption().take_over()
    clock.on_sleep = cloud.finish

    drive(bob.house, RUN)

    books = bob.ledger.books(RUN)
    assert (books.state, books.reserved_micro_usd) == ("done", 0)
    assert (cloud.started, cloud.ended) == ([1], [1])
    assert shared(runs).entries == books.shared


def test_an_old_driver_that_wakes_stands_down_and_touches_nothing(
    ada: OneHome, bob: OneHome, cloud: OneCloud, clock: Clock, runs: Path
) -> None:
    def while_ada_sleeps() -> None:
        clock.on_sleep = cloud.finish
        clock.now += 60.0
        bob.adoption().take_over()
        drive(bob.house, RUN)
        clock.on_sleep = lambda: None

    clock.on_sleep = while_ada_sleeps
    with pytest.raises(StoodDownError, match="driven by bob@lab"):
        drive(ada.house, RUN)

    assert (cloud.started, cloud.ended) == ([1], [1])
    assert bob.ledger.books(RUN).state == "done"
    assert ada.ledger.books(RUN).open_attempt is not None  # as it was when ada fell asleep
    for act in (drive, release):
        with pytest.raises(StoodDownError):
            act(ada.again().house, RUN)
    assert shared(runs).entries == bob.ledger.books(RUN).shared


def test_an_old_driver_does_not_rent_again_for_a_machine_that_both_have_lost(
    ada: OneHome, bob: OneHome, cloud: OneCloud, clock: Clock
) -> None:
    def taken_away_while_ada_sleeps() -> None:
        clock.now += 60.0
        cloud.take_away()
        bob.adoption().take_over()
        clock.on_sleep = cloud.finish
        drive(bob.house, RUN)

    clock.on_sleep = taken_away_while_ada_sleeps
    with pytest.raises(StoodDownError):
        drive(ada.house, RUN)

    assert cloud.started == [1, 2]
    assert [attempt.how for attempt in bob.ledger.books(RUN).attempts] == ["lost", "done"]


def test_who_is_overtaken_while_a_machine_comes_leaves_it_to_the_other_home(
    ada: OneHome, bob: OneHome, cloud: OneCloud, clock: Clock
) -> None:
    cloud.on_start = lambda: bob.adoption().take_over()

    with pytest.raises(StoodDownError):
        drive(ada.house, RUN)
    assert (cloud.started, cloud.ended) == ([1], [])
    assert ada.ledger.books(RUN).shared == bob.ledger.books(RUN).shared

    clock.on_sleep = cloud.finish
    drive(bob.house, RUN)
    assert (cloud.started, cloud.ended) == ([1], [1])


def test_who_is_overtaken_while_giving_back_settles_nothing(
    ada: OneHome, bob: OneHome, cloud: OneCloud, clock: Clock, runs: Path
) -> None:
    clock.on_sleep = cloud.finish
    cloud.on_release = lambda: bob.adoption().take_over()

    with pytest.raises(StoodDownError):
        drive(ada.house, RUN)
    assert ada.ledger.books(RUN).spent_micro_usd == 0

    drive(bob.house, RUN)
    assert bob.ledger.books(RUN).spent_micro_usd > 0
    assert shared(runs).entries == bob.ledger.books(RUN).shared


def test_who_is_overtaken_just_before_the_end_gives_nothing_back(
    ada: OneHome, bob: OneHome, cloud: OneCloud, clock: Clock
) -> None:
    def overtaken_and_over() -> None:
        bob.adoption().take_over()
        cloud.finish()

    clock.on_sleep = overtaken_and_over
    with pytest.raises(StoodDownError):
        drive(ada.house, RUN)

    assert cloud.ended == []
    drive(bob.house, RUN)
    assert cloud.ended == [1]


def test_who_is_overtaken_between_two_machines_writes_down_no_second_one(
    ada: OneHome, bob: OneHome, cloud: OneCloud, clock: Clock
) -> None:
    def told(notice: Notice) -> None:
        if notice.kind == "interrupted":
            bob.adoption().take_over()

    ada.house.notify = told
    clock.on_sleep = cloud.take_away
    with pytest.raises(StoodDownError):
        drive(ada.house, RUN)

    assert cloud.started == [1]
    assert len(ada.ledger.books(RUN).attempts) == 1
    clock.on_sleep = cloud.finish
    drive(bob.house, RUN)
    assert [attempt.how for attempt in bob.ledger.books(RUN).attempts] == ["lost", "done"]
    assert cloud.ended == [1, 2]  # ada had settled the first, and bob knew


def test_what_the_old_driver_says_while_it_is_overtaken_is_not_lost(
    ada: OneHome, bob: OneHome, clock: Clock, runs: Path
) -> None:
    left_alone(ada, clock)
    lines = iter([StateChanged(state="saving")])

    def ada_is_faster(operation: str, key: str) -> Fate:
        if operation == "put_bytes" and (line := next(lines, None)):
            ada.ledger.append(RUN, line)
            ada.again().house.mirror.hold()
        return "well"

    bob.store.fate = ada_is_faster
    bob.adoption().take_over()

    assert bob.ledger.books(RUN).state == "saving"
    assert shared(runs).entries == bob.ledger.books(RUN).shared


def test_a_run_goes_back_and_forth_between_homes(
    ada: OneHome, bob: OneHome, cloud: OneCloud, clock: Clock
) -> None:
    left_alone(ada, clock)
    bob.adoption().take_over()
    with pytest.raises(DiedError):
        drive(bob.house, RUN)

    ada.adoption().take_over()
    clock.on_sleep = cloud.finish
    drive(ada.again().house, RUN)

    assert ada.ledger.books(RUN).state == "done"
    with pytest.raises(StoodDownError, match="driven by ada@lab"):
        drive(bob.again().house, RUN)


def test_an_adoption_that_is_killed_anywhere_is_done_again(
    ada: OneHome, bob: OneHome, cloud: OneCloud, clock: Clock, runs: Path
) -> None:
    left_alone(ada, clock)
    for calls in range(1, 100):
        steps = iter(["well"] * calls)
        bob.store.fate = lambda operation, key, steps=steps: next(steps, "killed after")
        try:
            bob.adoption().take_over()
        except Killed:
            continue
        break

    assert calls > 5
    bob.store.fate = lambda operation, key: "well"
    clock.on_sleep = cloud.finish
    drive(bob.house, RUN)
    assert cloud.started == [1]
    assert shared(runs).entries == bob.ledger.books(RUN).shared


def test_the_same_home_goes_on_without_adopting(
    ada: OneHome, cloud: OneCloud, clock: Clock
) -> None:
    left_alone(ada, clock)
    clock.on_sleep = cloud.finish

    drive(ada.again().house, RUN)

    assert cloud.started == [1]


def test_a_run_that_a_living_process_here_drives_is_not_taken_over(
    ada: OneHome, cloud: OneCloud, clock: Clock
) -> None:
    def tries() -> None:
        with pytest.raises(RefusedError, match="another process follows"):
            ada.adoption().take_over()
        cloud.finish()

    clock.on_sleep = tries
    drive(ada.house, RUN)

    assert ada.ledger.books(RUN).state == "done"


def test_a_teacher_that_another_home_was_asking_counts_as_paid_to_the_last(
    ada: OneHome, bob: OneHome
) -> None:
    ada.ledger.reserve(RUN, "teacher_api", 300_000)
    left = start_at_home(ada)
    ada.house.mirror.hold()

    bob.adoption().take_over()

    books = bob.ledger.books(RUN)
    assert left == 300_000
    assert books.lines == {"teacher_api": 300_000}
    assert (books.open_attempt, books.reserved_micro_usd) == (None, 0)


def start_at_home(one: OneHome) -> int:
    """An attempt that asks the teacher from this machine; what is set aside for it."""
    limits = Limits(
        attempt=1, started_at=one.house.clock(), usd_per_hour=Decimal(0), machine_usd=Decimal(0)
    )
    write_model(one.run.limits, limits)
    one.ledger.append(
        RUN,
        AttemptStarted(
            attempt=1,
            started_at=limits.started_at,
            usd_per_hour=Decimal(0),
            price_source="test",
            offer={"cloud": LOCAL, "usd_per_hour": "0", "source": "test"},
            reservation=one.ledger.reserve(RUN, "train", 0),
        ),
    )
    return one.ledger.books(RUN).reserved_micro_usd


# ---- what cannot be adopted ------------------------------------------------------------------


def test_machines_that_only_another_skypilot_can_see_are_not_taken_over(
    make_home: Callable[[str], OneHome], recipe: Recipe, aws: Plan, runs: Path, clock: Clock
) -> None:
    ada, bob = make_home("ada"), make_home("bob")
    offer = aws.offer.model_copy(update={"cloud": "lambda"})
    plan = aws.model_copy(update={"offer": offer})
    open_run(ada.house.home, ada.ledger, RUN, recipe, plan, Git(), str(runs / RUN))
    left_alone(ada, clock)

    with pytest.raises(RefusedError, match="--books-only"):
        bob.adoption().take_over()

    assert bob.ledger.run_ids() == []
    assert shared(runs).driver is not None
    assert shared(runs).driver.host == "ada@lab"
    assert bob.adoption().take_books(with_student=False) > 0


def test_a_copy_of_a_store_is_not_where_a_run_is_taken_over(
    ada: OneHome, bob: OneHome, clock: Clock, runs: Path, tmp_path: Path
) -> None:
    left_alone(ada, clock)
    shutil.copytree(runs, tmp_path / "copy")
    bob.store.inner = FolderStore(tmp_path / "copy" / RUN)

    with pytest.raises(RefusedError, match="its files are kept at"):
        bob.adoption().take_over()
    assert bob.ledger.run_ids() == []


def lose(key: str) -> Callable[[FolderStore], None]:
    return lambda store: store.delete(key)


def garble(key: str) -> Callable[[FolderStore], None]:
    return lambda store: bool(store.put_bytes(key, b"{}\n")) and None


def garble_entry(old: str, new: str) -> Callable[[FolderStore], None]:
    def change(store: FolderStore) -> None:
        for stored in store.entries("books"):
            text = store.get_bytes(stored.key).decode()
            store.put_bytes(stored.key, text.replace(old, new).encode())

    return change


@pytest.mark.parametrize(
    "damage",
    [
        lose("plan.json"),
        garble("plan.json"),
        lose("limits/00000001"),
        garble("limits/00000001"),
        lose("books/00000001.jsonl"),
        garble("books/00000002.jsonl"),
        garble_entry('"reservation":"tiny-1/1"', '"reservation":"tiny-1/7"'),
        garble_entry('"cloud":"aws"', '"clout":"aws"'),
        garble_entry('"student":', '"scholar":'),
    ],
)
def test_of_a_damaged_run_nothing_is_taken(
    ada: OneHome, bob: OneHome, clock: Clock, runs: Path, damage: Callable[[FolderStore], None]
) -> None:
    left_alone(ada, clock)
    damage(FolderStore(runs / RUN))

    for take in (bob.adoption().take_over, lambda: bob.adoption().take_books(with_student=True)):
        with pytest.raises(InvalidInputError, match=r"Nothing was changed here|Restore it"):
            take()

    assert bob.ledger.run_ids() == []
    assert not bob.run.path.exists()


def test_a_ledger_that_says_other_things_of_the_run_is_left_as_it_is(
    ada: OneHome, bob: OneHome, clock: Clock, runs: Path
) -> None:
    left_alone(ada, clock)
    bob.adoption().take_books(with_student=False)
    bob.ledger.append(RUN, StateChanged(state="failed", reason="bob's own idea"))
    ada.ledger.append(RUN, StateChanged(state="saving"))
    ada.again().house.mirror.hold()

    with pytest.raises(InvalidInputError, match="other books"):
        bob.adoption().take_over()

    assert bob.ledger.books(RUN).reason == "bob's own idea"
    assert shared(runs).driver is not None
    assert shared(runs).driver.host == "ada@lab"


# ---- what is there ---------------------------------------------------------------------------


def test_the_runs_of_a_store_are_listed_with_who_drove_them_and_when(
    ada: OneHome, cloud: OneCloud, clock: Clock, runs: Path
) -> None:
    FolderStore(runs).put_bytes("datasets/rows.jsonl", b"{}\n")
    FolderStore(runs).put_bytes("broken-1/books/00000001.jsonl", b"garbage\n")

    def some_seconds_later() -> None:
        clock.now += 12.0
        clock.on_sleep = dies

    clock.on_sleep = some_seconds_later
    with pytest.raises(DiedError):
        drive(ada.house, RUN)

    listed = {one["run_id"]: one for one in stored_json(stored_runs(FolderStore(runs)), {RUN})}

    assert set(listed) == {RUN, "broken-1"}
    assert "damaged" in listed["broken-1"]["fault"]
    told = listed[RUN]
    assert (told["driver"], told["status"], told["known"]) == ("ada@lab", "running", True)
    assert clock() - told["heard_at"] < 60
    assert json.dumps(told)


def test_a_driver_that_spoke_a_moment_ago_is_thought_to_live(
    ada: OneHome, cloud: OneCloud, clock: Clock, runs: Path
) -> None:
    seen = []

    def look() -> None:
        clock.now += 50.0
        seen.append(find_stored(FolderStore(runs), RUN).is_driven(clock()))
        if len(seen) == 15:
            cloud.finish()

    clock.on_sleep = look
    drive(ada.house, RUN)

    assert seen == [True] * 15  # though the ledger said nothing for 13 minutes
    assert not find_stored(FolderStore(runs), RUN).is_driven(clock())


@pytest.mark.parametrize("name", ["tiny-2", "../tiny-1", "", "Tiny"])
def test_a_run_that_is_not_there_is_said(ada: OneHome, runs: Path, name: str) -> None:
    with pytest.raises(InvalidInputError, match="has no books of a run"):
        find_stored(FolderStore(runs), name)
