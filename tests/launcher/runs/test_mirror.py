"""The books in the store: there before anything is begun; a store that is away ends nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from two_homes import RUN, OneCloud, OneHome, one_home

from launcher.errors import StoodDownError
from launcher.plans.plan import Plan
from launcher.runs.mirror import AWAY_S, EVERY_S
from launcher.runs.run import drive, open_run
from recipes.errors import StillhouseError
from recipes.recipe import Recipe
from recipes.store import FolderStore, StoreUnreachableError
from tracking.books import MLFLOW_RUN
from tracking.entries import Git, Noted
from tracking.shared import SharedBooks

Clock = Any


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "runs" / RUN)


@pytest.fixture
def cloud(tmp_path: Path, store: FolderStore, clock: Clock) -> OneCloud:
    return OneCloud(tmp_path / "nodes", store, clock)


@pytest.fixture
def ada(
    tmp_path: Path, recipe: Recipe, plan: Plan, store: FolderStore, cloud: OneCloud, clock: Clock
) -> Iterator[OneHome]:
    made = one_home(tmp_path / "ada", "ada@lab", tmp_path / "runs", cloud, clock, clock.sleep)
    offer = plan.offer.model_copy(update={"cloud": "aws", "region": "us-east-1"})
    rented = plan.model_copy(update={"offer": offer})
    open_run(made.house.home, made.ledger, RUN, recipe, rented, Git(), store.url)
    yield made
    made.ledger.close()


def stored(store: FolderStore) -> SharedBooks:
    found = SharedBooks(store, RUN)
    found.catch_up()
    return found


def away(operation: str, key: str) -> str:
    return "fails"


def there(operation: str, key: str) -> str:
    return "well"


def counted(calls: list[str]) -> Callable[[str, str], str]:
    def count(operation: str, key: str) -> str:
        calls.append(f"{operation} {key}")
        return "well"

    return count


def test_a_machine_is_known_in_the_store_before_it_is_asked_for(
    ada: OneHome, cloud: OneCloud, store: FolderStore, clock: Clock
) -> None:
    known = []

    def look() -> None:
        books = stored(store).books()
        known.append((books.open_attempt is not None, books.reserved_micro_usd))
        assert store.exists("limits/00000001")
        assert store.exists("plan.json")

    cloud.on_start = look
    clock.on_sleep = cloud.finish
    drive(ada.house, RUN)

    assert known == [(True, ada.ledger.books(RUN).budget_micro_usd)]
    assert stored(store).entries == ada.ledger.books(RUN).shared


def test_where_the_store_is_away_nothing_is_begun(
    ada: OneHome, cloud: OneCloud, store: FolderStore
) -> None:
    ada.store.fate = away

    with pytest.raises(StoreUnreachableError):
        drive(ada.house, RUN)

    assert cloud.started == []
    assert ada.ledger.books(RUN).reserved_micro_usd == 0


def test_a_store_that_goes_away_is_said_once_and_the_run_goes_on_and_is_told_later(
    ada: OneHome, cloud: OneCloud, store: FolderStore, clock: Clock
) -> None:
    passed = iter(range(1000))

    def time_passes() -> None:
        match next(passed):
            case 0:
                ada.store.fate = away
            case 300:
                ada.store.fate = there
            case 400:
                cloud.finish()

    clock.on_sleep = time_passes
    drive(ada.house, RUN)

    assert [text[:28] for text in ada.said] == [
        "the books are not in the run",
        "the books are in the run sto",
    ]
    assert stored(store).entries == ada.ledger.books(RUN).shared


def test_a_run_ends_and_is_settled_while_the_store_does_not_answer(
    ada: OneHome, cloud: OneCloud, clock: Clock
) -> None:
    def ends() -> None:
        ada.store.fate = away
        cloud.finish()

    clock.on_sleep = ends
    drive(ada.house, RUN)

    assert ada.ledger.books(RUN).state == "done"
    assert cloud.ended == [1]


def test_a_damaged_mirror_is_no_reason_to_leave_a_machine_alone(
    ada: OneHome, cloud: OneCloud, store: FolderStore, clock: Clock
) -> None:
    def damaged() -> None:
        store.put_bytes("books/00000099.jsonl", b"garbage\n")
        clock.now += EVERY_S
        cloud.finish()

    clock.on_sleep = damaged
    drive(ada.house, RUN)

    assert ada.ledger.books(RUN).state == "done"
    assert "does not follow on" in ada.said[0]


def test_the_store_is_asked_every_ten_seconds_and_told_of_nothing_twice(
    ada: OneHome, clock: Clock
) -> None:
    ada.house.mirror.hold()
    calls: list[str] = []
    ada.store.fate = counted(calls)

    for _ in range(29):
        clock.now += 1.0
        ada.house.mirror.keep()

    assert calls == ["entries books"] * 2


def test_a_store_that_is_away_is_not_asked_at_each_look(ada: OneHome, clock: Clock) -> None:
    calls: list[str] = []
    ada.store.fate = lambda operation, key: (calls.append(key), "fails")[1]

    for _ in range(int(AWAY_S) - 1):
        ada.house.mirror.keep()
        ada.house.mirror.hold()
        clock.now += 1.0
    assert len(calls) == 1

    with pytest.raises(StillhouseError):
        ada.house.mirror.hold(must=True)  # asked at once, where the answer decides


def test_an_answer_that_was_lost_is_no_other_home(ada: OneHome, store: FolderStore) -> None:
    lost = iter(["answer lost"])
    ada.store.fate = lambda operation, key: next(lost, "well") if "books/" in key else "well"

    ada.house.mirror.hold()
    ada.house.mirror.hold(must=True)

    assert stored(store).entries == ada.ledger.books(RUN).shared


def test_two_processes_of_one_home_do_not_take_each_other_for_strangers(
    ada: OneHome, store: FolderStore
) -> None:
    first = ada.house.mirror
    first.hold()
    second = ada.again().house.mirror
    second.hold()
    ada.ledger.append(RUN, Noted(key="a", value="1"))

    first.hold(must=True)
    second.hold(must=True)

    assert stored(store).entries == ada.ledger.books(RUN).shared


def test_who_has_stood_down_stays_down_whatever_the_store_says_later(
    ada: OneHome, tmp_path: Path, cloud: OneCloud, clock: Clock
) -> None:
    ada.house.mirror.hold()
    bob = one_home(tmp_path / "bob", "bob@lab", tmp_path / "runs", cloud, clock, clock.sleep)
    bob.adoption().take_over()
    bob.ledger.close()
    with pytest.raises(StoodDownError):
        ada.house.mirror.hold()

    ada.store.fate = away

    with pytest.raises(StoodDownError, match=r"still adopt .*/runs tiny-1"):
        ada.house.mirror.hold()


def test_what_is_of_this_home_alone_is_not_told(ada: OneHome, store: FolderStore) -> None:
    ada.ledger.append(RUN, Noted(key=MLFLOW_RUN, value="f00dface"))

    ada.house.mirror.hold()

    assert "f00dface" not in store.get_bytes("books/00000001.jsonl").decode()
    assert MLFLOW_RUN not in stored(store).books().notes
