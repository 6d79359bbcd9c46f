"""Books in a run store: every line comes back, and of two writers one comes first."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback_s3 import LoopbackS3
from shaky_store import ShakyStore

from recipes.errors import InvalidInputError
from recipes.store import FolderStore, StoreUnreachableError
from recipes.store_s3 import S3Store
from tracking.entries import AttemptStarted, Noted, Opened, StateChanged
from tracking.shared import Driver, Said, SharedBooks

ADA = Driver(home="0a", host="ada@laptop", pid=1)
BOB = Driver(home="0b", host="bob@desk", pid=2)
OPENED = Said(1000.25, Opened(recipe={"name": "demo"}, budget_micro_usd=100))
RUNNING = Said(1001.5, StateChanged(state="running", reason="a machine"))
FIRST = "books/00000001.jsonl"


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def read(store: FolderStore | ShakyStore) -> SharedBooks:
    shared = SharedBooks(store, "a")
    shared.catch_up()
    return shared


def test_what_was_said_is_read_by_another_and_on_from_where_he_was(store: FolderStore) -> None:
    ada, bob = SharedBooks(store, "a"), SharedBooks(store, "a")
    assert ada.append([Said(1000.0, ADA), OPENED])
    bob.catch_up()
    assert ada.append([RUNNING])
    bob.catch_up()

    assert bob.said == [Said(1000.0, ADA), OPENED, RUNNING]
    assert bob.entries == [(1000.25, OPENED.what), (1001.5, RUNNING.what)]
    assert bob.books().state == "running"


def test_of_two_who_write_one_comes_first_and_the_other_finds_it(store: FolderStore) -> None:
    ada, bob = SharedBooks(store, "a"), SharedBooks(store, "a")
    assert ada.append([Said(1000.0, ADA), OPENED])
    bob.catch_up()

    assert bob.append([Said(1002.0, BOB)])
    assert not ada.append([RUNNING])
    ada.catch_up()

    assert ada.driver == BOB
    assert ada.said == bob.said


def test_lines_whose_answer_was_lost_are_found_and_not_said_twice(store: FolderStore) -> None:
    lost = ShakyStore(store, lambda op, key: "answer lost" if op == "put_bytes" else "well")
    ada = SharedBooks(lost, "a")

    with pytest.raises(StoreUnreachableError):
        ada.append([Said(1000.0, ADA), OPENED])
    lost.fate = lambda op, key: "well"

    assert not ada.append([Said(1000.0, ADA), OPENED])
    ada.catch_up()
    assert ada.said == [Said(1000.0, ADA), OPENED]


def test_an_attempt_is_of_the_home_that_wrote_last_before_it(store: FolderStore) -> None:
    shared = SharedBooks(store, "a")
    shared.append([Said(1.0, ADA), OPENED, Said(2.0, started(1))])
    shared.append([Said(3.0, BOB), Said(4.0, started(2))])

    assert (shared.author(1), shared.author(2), shared.author(3)) == (ADA, BOB, None)


def started(attempt: int) -> AttemptStarted:
    return AttemptStarted(
        attempt=attempt, started_at=1.0, usd_per_hour=Decimal(1), price_source="test"
    )


def test_many_runs_of_a_store_are_read_without_opening_each(store: FolderStore) -> None:
    below = SharedBooks(store, "a", below="a")
    below.append([Said(1.0, ADA), OPENED])

    assert store.exists(f"a/{FIRST}")
    assert read(FolderStore(Path(store.url) / "a")).entries == below.entries


# ---- damage


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda text: "garbage\n", "line 1 of the books cannot be read"),
        (lambda text: text[:-20], "its last line is cut off"),
        (lambda text: text.replace('"version":1', '"version":2'), "line 1 of the books cannot"),
        (lambda text: text.replace('"opened"', '"of tomorrow"'), "line 2 of the books cannot"),
        (lambda text: text.replace('"run":"a"', '"run":"b"'), "line 1 is about 'b' and not a"),
        (lambda text: text.split("\n", 1)[1], "line 2 stands where line 1 should"),
        (lambda text: "", "its last line is cut off"),
    ],
)
def test_damaged_lines_are_named_and_never_guessed(
    store: FolderStore, damage: Callable[[str], str], what: str
) -> None:
    SharedBooks(store, "a").append([Said(1.0, ADA), OPENED, RUNNING])
    store.put_bytes(FIRST, damage(store.get_bytes(FIRST).decode()).encode())

    with pytest.raises(InvalidInputError) as damaged:
        read(store)

    assert what in str(damaged.value)
    assert FIRST in str(damaged.value)


def test_a_missing_piece_is_noticed(store: FolderStore) -> None:
    shared = SharedBooks(store, "a")
    for said in (Said(1.0, ADA), OPENED, RUNNING):
        shared.append([said])
    store.delete("books/00000002.jsonl")

    with pytest.raises(InvalidInputError, match=r"00000003\.jsonl does not follow on number 1"):
        read(store)


def test_books_that_open_no_run_are_no_books(store: FolderStore) -> None:
    shared = SharedBooks(store, "a")
    shared.append([Said(1.0, ADA), RUNNING])

    with pytest.raises(InvalidInputError, match="no whole books"):
        shared.books()


@given(noise=st.binary(max_size=80), cut=st.integers(0, 600))
def test_whatever_a_stranger_has_written_is_read_as_lines_or_refused_with_its_place(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, cut: int
) -> None:
    store = FolderStore(tmp_path_factory.mktemp("store"))
    SharedBooks(store, "a").append([Said(1.0, ADA), OPENED, Said(2.0, Noted(key="k", value="v"))])
    whole = store.get_bytes(FIRST)
    store.put_bytes(FIRST, whole[:cut] + noise + whole[cut:])

    lines, refused = 0, ""
    try:
        lines = len(read(store).said)
    except InvalidInputError as error:
        refused = str(error)
    assert lines == 3 or FIRST in refused  # noise may stand within a text


def test_in_a_bucket_they_are_the_same(s3: LoopbackS3) -> None:
    bucket = s3.bucket()
    ada = SharedBooks(S3Store(bucket, "runs/a", s3.client()), "a")
    bob = SharedBooks(S3Store(bucket, "runs", s3.client()), "a", below="a")
    assert ada.append([Said(1.0, ADA), OPENED])
    bob.catch_up()

    assert bob.append([Said(2.0, BOB)])
    assert not ada.append([RUNNING])
    ada.catch_up()

    assert ada.said == bob.said == [Said(1.0, ADA), OPENED, Said(2.0, BOB)]
