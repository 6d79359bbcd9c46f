"""A ledger that a disk, or somebody, has changed: an error that says so, and never a traceback."""

import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import InvalidInputError, StillhouseError
from tracking.entries import ENTRIES, Noted, Opened, StateChanged
from tracking.ledger import Ledger

DOLLAR = 1_000_000


def fill(path: Path) -> bytes:
    """A ledger with two runs, whole in one file."""
    opened = Opened(recipe={"name": "tiny"}, budget_micro_usd=5 * DOLLAR)
    with Ledger(path, lambda: 1_800_000_000.0) as ledger:
        for run_id in ("a", "b"):
            ledger.open_run(run_id, opened)
            ledger.append(run_id, Noted(key="store", value="s3://bucket"))
            reservation = ledger.reserve(run_id, "train", DOLLAR)
            ledger.settle(reservation, {"train": DOLLAR // 2})
            ledger.append(run_id, StateChanged(state="done"))
    return path.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return fill(tmp_path_factory.mktemp("ledger") / "ledger.db")


def use(path: Path) -> None:
    """Everything that commands do with a ledger; each may fail, and only in our words."""
    with suppress(StillhouseError), Ledger(path, lambda: 1_800_000_001.0, 0.1) as ledger:
        asked: tuple[Callable[[], object], ...] = (
            ledger.runs,
            ledger.run_ids,
            lambda: ledger.resolve("latest"),
            lambda: [look(ledger, run_id) for run_id in ledger.run_ids()],
            lambda: ledger.append("a", StateChanged(state="failed", reason="why")),
            lambda: ledger.settle(ledger.reserve("b", "train", 1), {}),
        )
        for ask in asked:
            with suppress(StillhouseError):
                ask()


def look(ledger: Ledger, run_id: str) -> None:
    books = ledger.books(run_id)
    assert books.spent_micro_usd + books.reserved_micro_usd + books.free_micro_usd == (
        books.budget_micro_usd
    )
    assert books.states


@settings(max_examples=150)
@given(st.data())
def test_a_ledger_with_bytes_changed_or_cut_off_is_read_or_refused(
    whole: bytes, data: st.DataObject
) -> None:
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(1, 8))] = data.draw(st.binary(max_size=8))
    cut = data.draw(st.none() | st.integers(0, len(content)))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        path.write_bytes(content[:cut])
        use(path)


ENTRY_TEXTS = [
    *("{}", "", "[]", "null", "{" * 500, '{"state": "done"}', '{"key": "store", "value": ""}'),
    *('{"micro_usd": -1}', '{"micro_usd": 1}', '{"reservation": "b/1", "lines": {"train": 5}}'),
    '{"reservation": "x", "line": "train", "micro_usd": 5000000000}',
    '{"attempt": 7, "ended_at": -1e300, "how": "lost"}',
]


@settings(max_examples=150)
@given(
    st.sampled_from([*ENTRIES, "x"]),
    st.sampled_from(["a", "b", "nobody", ""]),
    st.sampled_from(ENTRY_TEXTS) | st.text(max_size=20),
    st.floats(allow_nan=False),
)
def test_a_ledger_with_a_row_of_somebody_elses_is_read_or_refused(
    whole: bytes, kind: str, run_id: str, text: str, at: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        path.write_bytes(whole)
        db = sqlite3.connect(path)
        with db:
            db.execute(
                "INSERT INTO entries (run_id, at, kind, data) VALUES (?, ?, ?, ?)",
                (run_id, at, kind, text.replace("\0", "").encode(errors="replace").decode()),
            )
        db.close()
        use(path)


def test_a_run_whose_opening_is_gone_is_named_with_the_ledger(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(whole)
    db = sqlite3.connect(path)
    with db:
        db.execute(
            "INSERT INTO entries (run_id, at, kind, data) VALUES ('c', 0, 'state_changed', ?)",
            (StateChanged(state="done").model_dump_json(),),
        )
    db.close()

    with Ledger(path) as ledger, pytest.raises(InvalidInputError, match=r"ledger\.db.*opens"):
        ledger.runs()
