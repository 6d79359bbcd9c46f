import pickle
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from recipes.errors import InvalidInputError, RefusedError
from tracking.books import Recorded, fold
from tracking.database import LedgerError
from tracking.entries import (
    AttemptEnded,
    AttemptStarted,
    Billed,
    BudgetRaised,
    Noted,
    Opened,
    Repriced,
    Reserved,
    Settled,
    StateChanged,
    Teardown,
)
from tracking.ledger import Ledger, OverBudgetError, RecordedTwiceError

DOLLAR = 1_000_000
ROOT = Path(__file__).parents[2]


def opened(budget: int = DOLLAR, name: str = "demo") -> Opened:
    return Opened(recipe={"name": name}, budget_micro_usd=budget)


class Clock:
    """Moves on by a second at each look."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.db", clock=Clock()) as made:
        yield made


# ---- reserve and settle


def test_what_is_settled_replaces_what_was_reserved(ledger: Ledger) -> None:
    ledger.open_run("a", opened())
    reservation = ledger.reserve("a", "train", 600_000, "the first hour")

    before = ledger.books("a")
    ledger.settle(reservation, {"train": 100_000, "boot": 50_000})
    after = ledger.books("a")

    assert (before.spent_micro_usd, before.reserved_micro_usd) == (0, 600_000)
    assert [known.why for known in before.reservations] == ["the first hour"]
    assert (after.spent_micro_usd, after.reserved_micro_usd) == (150_000, 0)
    assert after.lines == {"train": 100_000, "boot": 50_000}
    assert after.free_micro_usd == 850_000


def test_a_reservation_above_the_budget_is_refused_with_all_four_figures(ledger: Ledger) -> None:
    ledger.open_run("a", opened())
    ledger.settle(ledger.reserve("a", "teacher_api", 300_000), {"teacher_api": 250_000})
    ledger.reserve("a", "train", 600_000)
    entries = len(ledger.books("a").entries)

    with pytest.raises(OverBudgetError) as refused:
        ledger.reserve("a", "evaluate", 150_001)

    assert str(refused.value) == (
        "$0.1500 more would pass the budget of $1.00: $0.2500 is spent and $0.6000 reserved. "
        "Nothing was bought. Raise the budget, or do less"
    )
    assert len(ledger.books("a").entries) == entries
    assert ledger.reserve("a", "evaluate", 150_000)  # to the very micro-dollar


def test_errors_survive_the_way_between_processes() -> None:
    for error in (OverBudgetError(4, 3, 2, 1), RecordedTwiceError("a", "the entry opened")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), str(error))
        assert again.exit_code == RefusedError.exit_code == 3


def test_a_reservation_is_settled_once(ledger: Ledger) -> None:
    ledger.open_run("a", opened())
    reservation = ledger.reserve("a", "train", 1000)
    ledger.settle(reservation, {"train": 1000})

    with pytest.raises(RecordedTwiceError, match=r"settled/a/1 of a already"):
        ledger.settle(reservation, {"train": 1000})
    with pytest.raises(RecordedTwiceError):
        ledger.release(reservation)
    with pytest.raises(RecordedTwiceError, match=r"settlement a/1"):
        ledger.extend(reservation, 1)

    assert ledger.books("a").spent_micro_usd == 1000


def test_what_was_not_bought_is_released_and_free_again(ledger: Ledger) -> None:
    ledger.open_run("a", opened())
    ledger.release(ledger.reserve("a", "train", DOLLAR))

    assert ledger.books("a").lines == {}
    assert ledger.books("a").free_micro_usd == DOLLAR


def test_a_lease_is_extended_within_the_budget_only(ledger: Ledger) -> None:
    ledger.open_run("a", opened())
    lease = ledger.reserve("a", "train", 400_000)
    ledger.extend(lease, 500_000, "the next hour")

    with pytest.raises(OverBudgetError):
        ledger.extend(lease, 100_001)

    assert [known.micro_usd for known in ledger.books("a").reservations] == [900_000]
    ledger.settle(lease, {"train": 900_000})
    assert ledger.books("a").overshoots == ()


def test_more_than_was_reserved_is_recorded_truthfully_and_shown(ledger: Ledger) -> None:
    ledger.open_run("a", opened())
    reservation = ledger.reserve("a", "train", 900_000)
    ledger.settle(reservation, {"train": 900_000, "idle": 200_000})

    books = ledger.books("a")

    assert books.spent_micro_usd == 1_100_000
    assert books.free_micro_usd == -100_000
    (overshoot,) = books.overshoots
    assert (overshoot.reserved_micro_usd, overshoot.settled_micro_usd) == (900_000, 1_100_000)
    with pytest.raises(OverBudgetError):
        ledger.reserve("a", "save", 1)


def test_a_raised_budget_can_be_reserved(ledger: Ledger) -> None:
    ledger.open_run("a", opened())
    ledger.append("a", BudgetRaised(micro_usd=500_000))

    assert ledger.reserve("a", "train", 1_500_000)
    assert ledger.books("a").budget_micro_usd == 1_500_000


def test_budgets_of_two_runs_do_not_touch(ledger: Ledger) -> None:
    ledger.open_run("a", opened())
    ledger.open_run("b", opened(budget=5))
    ledger.reserve("a", "train", DOLLAR)

    assert ledger.reserve("b", "train", 5) == "b/1"


def test_an_amount_below_zero_is_never_written(ledger: Ledger) -> None:
    ledger.open_run("a", opened())
    reservation = ledger.reserve("a", "train", 10)

    with pytest.raises(ValueError, match="greater than or equal to 0"):
        ledger.reserve("a", "train", -1)
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        ledger.settle(reservation, {"train": -5})

    assert ledger.books("a").free_micro_usd == DOLLAR - 10


# ---- the rest of the books


def test_books_tell_a_runs_whole_life(ledger: Ledger) -> None:
    ledger.open_run("a", opened())
    lease = ledger.reserve("a", "boot", 5000)
    ledger.append(
        "a",
        StateChanged(state="provisioning"),
        AttemptStarted(
            attempt=1,
            started_at=10.0,
            usd_per_hour=Decimal("23.92"),
            price_source="aws",
            price_as_of=5.0,
            offer={"name": "p5"},
            reservation=lease,
        ),
    )
    halfway = ledger.books("a")
    ledger.append(
        "a",
        AttemptEnded(attempt=1, ended_at=20.0, how="lost"),
        StateChanged(state="failed", reason="the zone is empty"),
        Teardown(proved=None, detail="no network"),
        Teardown(proved=True),
        Billed(micro_usd=7, final=True, source="cost explorer"),
        Noted(key="mlflow_run_id", value="old"),
        Noted(key="mlflow_run_id", value="f00"),
    )
    books = ledger.books("a")

    assert halfway.open_attempt is not None
    assert halfway.open_attempt.usd_per_hour == Decimal("23.92")
    assert halfway.teardown is None
    assert halfway.billed is None
    assert not halfway.over
    assert books.open_attempt is None
    assert [(one.number, one.ended_at, one.how) for one in books.attempts] == [(1, 20.0, "lost")]
    assert [step.state for step in books.states] == ["planned", "provisioning", "failed"]
    assert (books.state, books.reason, books.over) == ("failed", "the zone is empty", True)
    assert books.teardown == Teardown(proved=True)
    assert books.billed == Billed(micro_usd=7, final=True, source="cost explorer")
    assert books.mlflow_run_id == "f00"


def test_an_attempt_knows_every_price_that_was_seen(ledger: Ledger) -> None:
    ledger.open_run("a", opened())
    begun = {"started_at": 10.0, "usd_per_hour": Decimal(20), "price_source": "aws"}
    for number in (1, 2):
        ledger.append("a", AttemptStarted.model_validate({"attempt": number} | begun))
    change = {"at": 70.0, "usd_per_hour": Decimal(30), "source": "aws"}
    early = {"at": 5.0, "usd_per_hour": Decimal(25), "source": "aws"}

    ledger.append("a", Repriced.model_validate({"attempt": 1} | change))
    ledger.append("a", Repriced.model_validate({"attempt": 2} | early))

    ledger.append("a", Repriced.model_validate({"attempt": 1} | change | {"at": 65.0}))  # its clock

    first, second = ledger.books("a").attempts
    assert [price.since for price in first.prices.changes] == [10.0, 70.0, 70.0]
    assert second.prices.changes == ((10.0, Decimal(20)), (10.0, Decimal(25)))


def test_entries_recorded_together_stand_together_or_not_at_all(ledger: Ledger) -> None:
    ledger.open_run("a", opened())
    ledger.append("a", AttemptEnded(attempt=1, ended_at=1.0, how="done"))

    with pytest.raises(RecordedTwiceError):
        ledger.append(
            "a",
            StateChanged(state="running"),
            AttemptEnded(attempt=1, ended_at=2.0, how="done"),
        )

    assert ledger.books("a").state == "planned"


def test_an_attempt_ends_and_is_settled_in_one_step_or_not_at_all(ledger: Ledger) -> None:
    ledger.open_run("a", opened())
    first, second = (ledger.reserve("a", "train", 10) for _ in range(2))
    end = AttemptEnded(attempt=1, ended_at=1.0, how="done")
    ledger.settle(first, {"train": 4}, end)

    with pytest.raises(RecordedTwiceError, match="attempt_ended/1"):
        ledger.settle(second, {"train": 5}, end)

    books = ledger.books("a")
    assert books.spent_micro_usd == 4
    assert [known.id for known in books.reservations] == [second]


def test_two_launchers_cannot_start_the_same_attempt(ledger: Ledger) -> None:
    start = AttemptStarted(
        attempt=2, started_at=0.0, usd_per_hour=Decimal(1), price_source="recipe"
    )
    ledger.open_run("a", opened())
    ledger.append("a", start)

    with Ledger(ledger.path) as other, pytest.raises(RecordedTwiceError, match="another process"):
        other.append("a", start)


def test_money_cannot_be_recorded_past_its_checks(ledger: Ledger) -> None:
    ledger.open_run("a", opened())

    with pytest.raises(TypeError, match="reserved has a method of its own"):
        ledger.append("a", Reserved(reservation="a/1", line="train", micro_usd=DOLLAR * 9))


def test_an_id_is_given_once(ledger: Ledger) -> None:
    ledger.open_run("a", opened())

    with pytest.raises(RecordedTwiceError):
        ledger.open_run("a", opened(budget=9 * DOLLAR))

    assert ledger.books("a").budget_micro_usd == DOLLAR


def test_what_is_unknown_is_named(ledger: Ledger) -> None:
    ledger.open_run("a", opened())

    with pytest.raises(InvalidInputError, match="no run 'b'"):
        ledger.append("b", StateChanged(state="running"))
    with pytest.raises(InvalidInputError, match="no run 'b'"):
        ledger.books("b")
    with pytest.raises(InvalidInputError, match="no run 'b'"):
        ledger.reserve("b", "train", 1)
    with pytest.raises(InvalidInputError, match="no reservation 'a/7'"):
        ledger.settle("a/7", {})


def test_books_begin_with_an_opening_and_are_of_one_run() -> None:
    first = Recorded(1, "a", 0.0, opened())
    other = Recorded(2, "b", 0.0, StateChanged(state="running"))

    with pytest.raises(ValueError, match="opens the run"):
        fold([other, first])
    with pytest.raises(ValueError, match="opens the run"):
        fold([])
    with pytest.raises(ValueError, match="entries of b"):
        fold([first, other])


# ---- finding a run


def test_books_that_were_read_before_show_what_another_process_has_written_since(
    ledger: Ledger,
) -> None:
    ledger.open_run("r-1", opened())
    before = ledger.books("r-1")

    with Ledger(ledger.path) as other:
        reservation = other.reserve("r-1", "train", 700)
        assert ledger.books("r-1").reserved_micro_usd == 700
        other.settle(reservation, {"train": 600})

    assert ledger.books("r-1").spent_micro_usd == 600
    assert ledger.books("r-1") is ledger.books("r-1")
    assert before.spent_micro_usd == before.reserved_micro_usd == 0


def test_books_that_were_read_amid_a_write_that_failed_are_forgotten(ledger: Ledger) -> None:
    ledger.open_run("r-1", opened())

    with suppress(InterruptedError), ledger._writing():
        ledger._insert("r-1", BudgetRaised(micro_usd=DOLLAR))
        assert ledger.books("r-1").budget_micro_usd == 2 * DOLLAR
        raise InterruptedError

    assert ledger.books("r-1").budget_micro_usd == DOLLAR
    ledger.append("r-1", StateChanged(state="running"))
    assert ledger.books("r-1").state == "running"


def test_runs_come_newest_first(ledger: Ledger) -> None:
    for run_id in ("m", "z", "a"):
        ledger.open_run(run_id, opened())
    ledger.append("m", StateChanged(state="running"))

    assert [books.run_id for books in ledger.runs()] == ["a", "z", "m"]
    assert ledger.run_ids() == ["a", "z", "m"]
    assert ledger.resolve("latest") == "a"


def test_a_run_is_found_by_its_beginning(ledger: Ledger) -> None:
    for run_id in ("quick-1", "quick-12", "slow-1"):
        ledger.open_run(run_id, opened())

    assert ledger.resolve("slow") == "slow-1"
    assert ledger.resolve("quick-1") == "quick-1"  # a whole id, though another begins with it
    with pytest.raises(InvalidInputError, match=r"'qui' may be any of quick-12, quick-1\. Give"):
        ledger.resolve("qui")
    with pytest.raises(InvalidInputError, match=r"no run begins with 'x'. There are slow-1, "):
        ledger.resolve("x")
    with pytest.raises(InvalidInputError, match="no run begins with ''"):
        ledger.resolve("")


def test_a_long_list_of_candidates_is_cut_and_counted(ledger: Ledger) -> None:
    for number in range(13):
        ledger.open_run(f"r-{number:02}", opened())

    with pytest.raises(InvalidInputError, match=r"r-12, .*, r-03 and 3 more\. Give"):
        ledger.resolve("r")


def test_without_runs_there_is_no_latest(ledger: Ledger) -> None:
    with pytest.raises(InvalidInputError, match="no runs yet"):
        ledger.resolve("latest")


# ---- the file


def test_the_file_is_for_its_owner_only_and_synced_in_full(ledger: Ledger) -> None:
    ledger.open_run("a", opened())
    files = sorted(ledger.path.parent.iterdir())

    assert {path.name: path.stat().st_mode & 0o777 for path in files} == {
        "ledger.db": 0o600,
        "ledger.db-shm": 0o600,
        "ledger.db-wal": 0o600,
    }
    assert ledger._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert ledger._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize(
    "command",
    ["UPDATE entries SET data = '{}'", "DELETE FROM entries", "UPDATE entries SET at = 0"],
)
def test_nobody_changes_what_stands_there(ledger: Ledger, command: str) -> None:
    ledger.open_run("a", opened())

    with sqlite3.connect(ledger.path) as db, pytest.raises(sqlite3.IntegrityError) as refused:
        db.execute(command)
    db.close()

    assert str(refused.value) == "the ledger is append-only"
    assert ledger.books("a").budget_micro_usd == DOLLAR


@pytest.mark.parametrize("content", [b"", b"my diary, " * 100, b"SQLite format 4\x00" * 40])
def test_a_file_that_is_no_ledger_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(content)

    with pytest.raises(InvalidInputError, match=r"ledger\.db is no ledger.*move it away") as error:
        Ledger(path)

    assert error.value.exit_code == 2
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_somebody_elses_database_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE recipes (cake TEXT)")
    db.close()
    content = path.read_bytes()

    with pytest.raises(InvalidInputError, match="database of something else"):
        Ledger(path)

    assert path.read_bytes() == content


def test_a_newer_ledger_is_left_to_a_newer_stillhouse(ledger: Ledger) -> None:
    ledger._db.execute("PRAGMA user_version = 2")

    with pytest.raises(InvalidInputError, match=r"ledger version 2; this one knows 1.*update"):
        Ledger(ledger.path)


def test_a_damaged_ledger_is_said_to_be_so(ledger: Ledger) -> None:
    ledger.open_run("a", opened())
    ledger.close()
    content = bytearray(ledger.path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    ledger.path.write_bytes(content)

    with Ledger(ledger.path) as damaged, pytest.raises(InvalidInputError, match="is damaged"):
        damaged.books("a")


def test_an_entry_of_an_unknown_kind_is_named_by_its_number(ledger: Ledger) -> None:
    ledger.open_run("a", opened())
    ledger._db.execute("INSERT INTO entries (run_id, at, kind, data) VALUES ('a', 0, 'x', '{}')")

    with pytest.raises(InvalidInputError, match=r"entry 2 \(x\) cannot be read"):
        ledger.books("a")


def test_a_folder_where_the_ledger_belongs_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="Is a directory"):
        Ledger(tmp_path)


def test_a_ledger_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot be made: No such file"):
        Ledger(tmp_path / "missing" / "ledger.db")


def test_a_writer_that_never_lets_go_is_an_error_and_not_a_hang(ledger: Ledger) -> None:
    ledger.open_run("a", opened())
    hog = sqlite3.connect(ledger.path, isolation_level=None)
    hog.execute("BEGIN IMMEDIATE")

    with (
        Ledger(ledger.path, patience_s=0.05) as impatient,
        pytest.raises(LedgerError, match=r"database is locked\. Nothing was recorded"),
    ):
        impatient.reserve("a", "train", 1)

    hog.close()
    assert ledger.reserve("a", "train", 1)


def test_an_interrupted_write_leaves_nothing_behind(tmp_path: Path) -> None:
    class Interrupting(Clock):
        def __call__(self) -> float:
            if self.now == 1002:
                self.now += 1
                raise KeyboardInterrupt
            return super().__call__()

    with Ledger(tmp_path / "ledger.db", clock=Interrupting()) as ledger:
        ledger.open_run("a", opened())

        with pytest.raises(KeyboardInterrupt):
            ledger.append("a", StateChanged(state="running"), StateChanged(state="saving"))

        assert ledger.books("a").state == "planned"
        ledger.append("a", StateChanged(state="done"))


# ---- whatever happens, in whatever order


class Spending(RuleBasedStateMachine):
    """Any sequence of reserving, extending, settling and releasing keeps within the budget."""

    reservations: Bundle[str] = Bundle("reservations")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.ledger = Ledger(Path(self.folder.name) / "ledger.db", clock=Clock())
        self.ledger.open_run("a", opened(budget=1000))
        self.open: dict[str, int] = {}
        self.spent = 0

    @rule(target=reservations, amount=st.integers(0, 1200))
    def reserve(self, amount: int) -> str:
        fits = self.spent + sum(self.open.values()) + amount <= 1000
        try:
            reservation = self.ledger.reserve("a", "train", amount)
        except OverBudgetError:
            assert not fits
            return "a/0"
        assert fits
        self.open[reservation] = amount
        return reservation

    @rule(reservation=reservations, amount=st.integers(0, 400))
    def extend(self, reservation: str, amount: int) -> None:
        fits = self.spent + sum(self.open.values()) + amount <= 1000
        try:
            self.ledger.extend(reservation, amount)
        except OverBudgetError:
            assert reservation in self.open
            assert not fits
        except (RecordedTwiceError, InvalidInputError):
            assert reservation not in self.open
        else:
            assert fits
            self.open[reservation] += amount

    @rule(
        reservation=reservations, share=st.fractions(0, 1), line=st.sampled_from(["boot", "lost"])
    )
    def settle(self, reservation: str, share: float, line: str) -> None:
        spent = int(self.open.get(reservation, 0) * share)
        try:
            self.ledger.settle(reservation, {line: spent})  # type: ignore[dict-item]
        except (RecordedTwiceError, InvalidInputError):
            assert reservation not in self.open
        else:
            del self.open[reservation]
            self.spent += spent

    @invariant()
    def books_agree_and_stay_within_the_budget(self) -> None:
        books = self.ledger.books("a")
        assert books.spent_micro_usd == self.spent == sum(books.lines.values())
        assert {known.id: known.micro_usd for known in books.reservations} == self.open
        assert books.spent_micro_usd + books.reserved_micro_usd <= books.budget_micro_usd
        assert books.overshoots == ()

    def teardown(self) -> None:
        self.ledger.close()
        self.folder.cleanup()


TestSpending = Spending.TestCase
TestSpending.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


@given(amounts=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=20))
def test_totals_are_the_sums_of_what_was_settled(amounts: list[tuple[int, int]]) -> None:
    entries = [Recorded(1, "a", 0.0, opened())]
    for number, (train, lost) in enumerate(amounts):
        reservation = f"a/{number}"
        settled = Settled(reservation=reservation, lines={"train": train, "lost": lost})
        reserved = Reserved(reservation=reservation, line="train", micro_usd=50)
        for entry in (reserved, settled):
            entries.append(Recorded(len(entries) + 1, "a", 0.0, entry))

    books = fold(entries)

    assert books.spent_micro_usd == sum(train + lost for train, lost in amounts)
    assert len(books.overshoots) == sum(train + lost > 50 for train, lost in amounts)


# ---- several at once

RESERVER = """
import sys
from pathlib import Path
from tracking.ledger import Ledger, OverBudgetError
with Ledger(Path(sys.argv[1])) as ledger:
    for number in range(40):
        try:
            reservation = ledger.reserve("a", "train", 70)
        except OverBudgetError:
            break
        if number % 2:
            ledger.settle(reservation, {"train": 30})
        print(reservation, flush=True)
"""


def start(code: str, path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_processes_that_reserve_at_once_never_pass_the_budget_together(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        ledger.open_run("a", opened(budget=4000))

        processes = [start(RESERVER, path) for _ in range(4)]
        outputs = [process.communicate(timeout=60)[0].split() for process in processes]

        assert [process.returncode for process in processes] == [0, 0, 0, 0]
        books = ledger.books("a")
    given = [reservation for output in outputs for reservation in output]
    assert len(given) == len(set(given)) == books.reservation_count
    assert books.spent_micro_usd + books.reserved_micro_usd <= 4000
    assert books.free_micro_usd < 70  # they stopped because it was used up


OPENER = """
import sys
from pathlib import Path
from tracking.entries import Opened
from tracking.ledger import Ledger
path, _, name = sys.argv[1].rpartition("#")
with Ledger(Path(path)) as ledger:
    ledger.open_run(name, Opened(recipe={}, budget_micro_usd=1))
"""


def test_processes_that_make_the_ledger_at_once_make_one(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"

    processes = [start(OPENER, Path(f"{path}#{number}")) for number in range(6)]

    assert [process.wait(timeout=60) for process in processes] == [0] * 6
    for process in processes:
        process.communicate()
    with Ledger(path) as ledger:
        assert sorted(ledger.run_ids()) == ["0", "1", "2", "3", "4", "5"]
    assert list(tmp_path.iterdir()) == [path]


def test_threads_take_turns(ledger: Ledger) -> None:
    ledger.open_run("a", opened())

    def spend() -> None:
        for _ in range(10):
            ledger.settle(ledger.reserve("a", "train", 5), {"train": 3})

    threads = [threading.Thread(target=spend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ledger.books("a").spent_micro_usd == 4 * 10 * 3


SPENDER = """
import sys
from pathlib import Path
from tracking.entries import Noted, StateChanged
from tracking.ledger import Ledger
with Ledger(Path(sys.argv[1])) as ledger:
    while True:
        reservation = ledger.reserve("a", "train", 10)
        ledger.settle(reservation, {"train": 4, "lost": 3})
        ledger.append("a", Noted(key="x", value=reservation), Noted(key="y", value=reservation))
        print(reservation, flush=True)
"""


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_the_ledger_whole(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    moments = random.Random(11)
    acknowledged: list[str] = []
    with Ledger(path) as ledger:
        ledger.open_run("a", opened(budget=10**12))
    for _ in range(20):
        process = start(SPENDER, path)
        assert process.stdout is not None
        acknowledged.append(process.stdout.readline().strip())  # it writes by now
        time.sleep(moments.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        acknowledged += process.communicate()[0].split()

        with Ledger(path) as ledger:
            assert ledger._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            books = ledger.books("a")
        settled = books.reservation_count - len(books.reservations)
        assert books.spent_micro_usd == 7 * settled
        assert settled >= len(acknowledged)  # nothing that was confirmed is gone
        assert books.notes.get("x") == books.notes.get("y")  # written together
    assert len(acknowledged) > 20
