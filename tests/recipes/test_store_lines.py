"""Files of lines in a store: every line once, in order, whoever is killed or comes between."""

import tempfile
import threading
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback_s3 import LoopbackS3
from shaky_store import Fate, Killed, ShakyStore

from recipes import store_lines
from recipes.store import FolderStore, Store, StoreError, StoreUnreachableError
from recipes.store_lines import LineReader, LineSender, agrees
from recipes.store_s3 import Patience, S3Store


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return FolderStore(tmp_path / "store")
    s3: LoopbackS3 = request.getfixturevalue("s3")
    return S3Store(s3.bucket(), "runs/one", s3.client())


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The file that is sent."""
    (tmp_path / "worker").mkdir()
    return tmp_path / "worker" / "events.jsonl"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The file that is fetched."""
    return tmp_path / "events.jsonl"


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def stored(store: Store) -> str:
    return b"".join(store.get_bytes(entry.key) for entry in store.entries("events")).decode()


def test_lines_arrive_once_and_in_order(store: Store, here: Path, there: Path) -> None:
    sender, reader = LineSender(store, "events", here), LineReader(store, "events", there)

    for round in range(3):
        append(here, f"{round} one\n{round} two\n")
        assert sender.send() == 12
        assert sender.send() == 0
        assert reader.fetch() == 12
        assert reader.fetch() == 0

    assert there.read_text() == here.read_text()
    assert [entry.key for entry in store.entries("events")] == [
        "events/000000000000000.jsonl",
        "events/000000000000012.jsonl",
        "events/000000000000024.jsonl",
    ]


def test_a_line_goes_when_it_is_whole(store: Store, here: Path) -> None:
    sender = LineSender(store, "events", here)
    assert sender.send() == 0, "a file that is not there yet"

    append(here, "one\ntw")
    sender.send()
    assert stored(store) == "one\n"

    append(here, "o\n")
    sender.send()
    assert stored(store) == "one\ntwo\n"


def test_another_sender_goes_on_where_the_first_was_killed(store: Store, here: Path) -> None:
    append(here, "one\ntwo\n")
    LineSender(store, "events", here).send()
    append(here, "three\n")
    LineSender(store, "events", here).send()

    assert LineSender(store, "events", here).send() == 0
    assert stored(store) == "one\ntwo\nthree\n"


def test_another_reader_goes_on_where_the_first_was_killed_be_it_in_mid_line(
    store: Store, here: Path, there: Path
) -> None:
    for text in ("one\ntwo\n", "three\nfour\n", "five\n"):
        append(here, text)
        LineSender(store, "events", here).send()
    whole = here.read_bytes()

    for size in range(len(whole) + 1):
        there.write_bytes(whole[:size])
        LineReader(store, "events", there).fetch()
        assert there.read_bytes() == whole


def test_much_goes_in_chunks_that_end_with_a_line(
    store: Store, here: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_lines, "CHUNK_BYTES", 10)
    append(here, "one\ntwo\nthree\n" + "x" * 25 + "\nfive\n" + "y" * 10)

    LineSender(store, "events", here).send()
    LineReader(store, "events", there).fetch()

    assert [entry.size_bytes for entry in store.entries("events")] == [8, 6, 26, 5]
    assert there.read_text() == "one\ntwo\nthree\n" + "x" * 25 + "\nfive\n"


def test_an_answer_that_is_lost_does_not_double_a_line(here: Path, tmp_path: Path) -> None:
    lost = iter(["answer lost", "fails"])
    shaky = ShakyStore(
        FolderStore(tmp_path / "store"),
        lambda operation, key: next(lost, "well") if operation == "put_bytes" else "well",
    )
    sender = LineSender(shaky, "events", here)
    append(here, "one\n")
    for _ in range(2):
        with pytest.raises(StoreUnreachableError):
            sender.send()
        append(here, "more\n")  # what is tried again is what was tried before

    sender.send()

    assert stored(shaky.inner) == "one\nmore\nmore\n"


def test_an_answer_lost_on_the_wire_does_not_double_a_line(s3: LoopbackS3, here: Path) -> None:
    store = S3Store(s3.bucket(), "", s3.client(), Patience(sleep=lambda seconds: None))
    s3.add("PUT", "events", kind="lost", times=1)
    append(here, "one\n")

    LineSender(store, "events", here).send()

    assert stored(store) == "one\n"


def test_of_two_senders_each_line_is_there_once_and_each_ones_lines_in_order(
    store: Store, tmp_path: Path
) -> None:
    files = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]

    def send(path: Path) -> None:
        sender = LineSender(store, "events", path)
        for number in range(15):
            append(path, f"{path.stem} {number}\n")
            sender.send()

    with ThreadPool(2) as pool:
        pool.map(send, files)

    lines = stored(store).splitlines()
    for path in files:
        assert [line for line in lines if path.stem in line] == path.read_text().splitlines()


def test_a_sender_finds_its_place_behind_lines_of_somebody_else(
    store: Store, here: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.jsonl"
    append(here, "mine 1\n")
    LineSender(store, "events", here).send()
    append(other, "theirs 1\ntheirs 2\n")
    LineSender(store, "events", other).send()
    append(here, "mine 2\n")
    LineSender(store, "events", here).send()

    append(here, "mine 3\n")
    LineSender(store, "events", here).send()

    assert stored(store) == "mine 1\ntheirs 1\ntheirs 2\nmine 2\nmine 3\n"


def test_whoever_finds_lines_of_somebody_else_may_give_way(
    store: Store, here: Path, tmp_path: Path
) -> None:
    class Enough(Exception):
        pass

    def give_way() -> None:
        raise Enough

    append(here, "mine 1\n")
    sender = LineSender(store, "events", here, give_way)
    sender.send()
    other = tmp_path / "other.jsonl"
    append(other, "mine 1\ntheirs\n")
    LineSender(store, "events", other).send()

    append(here, "mine 2\n")
    with pytest.raises(Enough):
        sender.send()

    assert stored(store) == "mine 1\ntheirs\n"


def test_a_second_reader_of_one_file_waits_for_the_first(
    here: Path, there: Path, tmp_path: Path
) -> None:
    store = FolderStore(tmp_path / "store")
    append(here, "one\ntwo\n")
    LineSender(store, "events", here).send()
    second = threading.Thread(target=LineReader(store, "events", there).fetch)

    def in_between(operation: str, key: str) -> Fate:
        if operation == "get_bytes":
            second.start()
            second.join(0.1)
            assert second.is_alive()
        return "well"

    LineReader(ShakyStore(store, in_between), "events", there).fetch()
    second.join()

    assert there.read_text() == "one\ntwo\n"


def test_a_gap_is_an_error_that_says_what_is_missing(store: Store, here: Path, there: Path) -> None:
    for text in ("one\n", "two\n", "three\n"):
        append(here, text)
        LineSender(store, "events", here).send()
    store.delete("events/000000000000004.jsonl")

    with pytest.raises(StoreError, match="bytes 4 to 8 are missing"):
        LineReader(store, "events", there).fetch()
    assert there.read_text() == "one\n"


@pytest.mark.parametrize("content", [b"torn", b"", b"\xff"])
def test_a_chunk_without_a_last_line_is_an_error(store: Store, there: Path, content: bytes) -> None:
    store.put_bytes("events/000000000000000.jsonl", content)

    if content:
        with pytest.raises(StoreError, match="is damaged"):
            LineReader(store, "events", there).fetch()
    else:
        assert LineReader(store, "events", there).fetch() == 0
    assert there.read_bytes() == b""


def test_what_is_not_a_chunk_is_not_read(store: Store, there: Path) -> None:
    for key in ("events/notes.txt", "events/000000000000000.jsonl.bak", "events/a/b.jsonl"):
        store.put_bytes(key, b"something\n")

    assert LineReader(store, "events", there).fetch() == 0


@pytest.mark.parametrize(
    ("local", "agreeing"),
    [
        ("", True),
        ("one\n", True),
        ("one\ntwo\nthr", True),
        ("one\ntwo\nthree\nfour\n", True),
        ("one\nother\n", False),
        ("other\n", False),
        ("one\ntwo\nother\n", False),
    ],
)
def test_a_file_agrees_while_it_is_a_beginning_of_what_is_stored_or_goes_on_behind_it(
    store: Store, here: Path, there: Path, local: str, agreeing: bool
) -> None:
    for text in ("one\n", "two\nthree\n"):
        append(here, text)
        LineSender(store, "events", here).send()
    there.write_text(local)

    assert agrees(store, "events", there) == agreeing


# ---- any sequence ----------------------------------------------------------------------------

FATES: tuple[Fate, ...] = ("well", "fails", "answer lost", "killed before", "killed after")


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[str, int, Fate]]:
    """Of a worker and its reader: what is done, at which operation it is interrupted, and how."""
    kinds = st.sampled_from(["write", "send", "fetch", "new sender", "new reader"])
    return draw(st.lists(st.tuples(kinds, st.integers(0, 3), st.sampled_from(FATES)), max_size=30))


def interruptions(at: int, fate: Fate) -> Iterator[Fate]:
    for _ in range(at):
        yield "well"
    yield fate


@settings(max_examples=60)
@given(steps())
def test_after_any_sequence_of_crashes_every_line_is_there_once_and_in_order(
    sequence: list[tuple[str, int, Fate]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        here, there = Path(name, "here.jsonl"), Path(name, "there.jsonl")
        shaky = ShakyStore(FolderStore(Path(name, "store")))
        sender, reader = LineSender(shaky, "events", here), LineReader(shaky, "events", there)
        written = 0
        for kind, at, fate in sequence:
            fates = interruptions(at, fate)
            shaky.fate = lambda operation, key, fates=fates: next(fates, "well")  # type: ignore[misc]
            try:
                match kind:
                    case "write":
                        written += 1
                        append(here, f"line {written}\n")
                    case "send":
                        sender.send()
                    case "fetch":
                        reader.fetch()
                    case "new sender":
                        sender = LineSender(shaky, "events", here)
                    case "new reader":
                        with there.open("ab") as file:  # killed while it wrote
                            file.write(b'{"torn')
                        reader = LineReader(shaky, "events", there)
            except StoreUnreachableError:
                pass
            except Killed:
                sender = LineSender(shaky, "events", here)
                reader = LineReader(shaky, "events", there)
        shaky.fate = lambda operation, key: "well"

        sender.send()
        reader.fetch()

        assert there.read_text().splitlines() == [f"line {n + 1}" for n in range(written)]
