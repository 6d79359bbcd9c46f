"""Books that come from elsewhere: taken in whole, as they were, or not at all."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import InvalidInputError, RefusedError
from tracking.books import MLFLOW_RUN
from tracking.entries import (
    AttemptEnded,
    AttemptStarted,
    Billed,
    BudgetRaised,
    Entry,
    Extended,
    Noted,
    Opened,
    Reserved,
    Settled,
    StateChanged,
)
from tracking.ledger import Ledger, OverBudgetError
from tracking.replay import fault_in

OPENED = Opened(recipe={"name": "demo"}, budget_micro_usd=100)


class Clock:
    """Moves on by a second at each look."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "here.db", clock=Clock(9000.0)) as made:
        yield made


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Ledger]:
    """Another home's, with a run under way."""
    with Ledger(tmp_path / "there.db", clock=Clock()) as made:
        made.open_run("a", OPENED)
        reservation = made.reserve("a", "train", 60)
        made.append("a", attempt(reservation), StateChanged(state="running"))
        yield made


def attempt(reservation: str | None, number: int = 1) -> AttemptStarted:
    return AttemptStarted(
        attempt=number,
        started_at=1003.25,
        usd_per_hour=Decimal("3.60"),
        price_source="test",
        reservation=reservation,
    )


def test_books_taken_in_are_those_of_the_other_home_to_the_moment(
    here: Ledger, there: Ledger
) -> None:
    new = here.take_in("a", there.books("a").shared)

    theirs, ours = there.books("a"), here.books("a")
    assert new == 4
    assert [(one.at, one.entry) for one in ours.entries] == theirs.shared
    assert (ours.state, ours.reserved_micro_usd) == (theirs.state, 60)


def test_taking_in_again_brings_what_is_new_and_nothing_twice(here: Ledger, there: Ledger) -> None:
    here.take_in("a", there.books("a").shared)
    there.settle("a/1", {"train": 55}, AttemptEnded(attempt=1, ended_at=1004.0, how="done"))

    assert here.take_in("a", there.books("a").shared) == 2
    assert here.take_in("a", there.books("a").shared) == 0
    assert here.books("a").spent_micro_usd == 55


def test_an_older_copy_takes_nothing_away(here: Ledger, there: Ledger) -> None:
    older = there.books("a").shared
    there.append("a", BudgetRaised(micro_usd=5))
    here.take_in("a", there.books("a").shared)

    assert here.take_in("a", older) == 0
    assert here.books("a").budget_micro_usd == 105


def test_what_a_home_keeps_for_itself_is_neither_shared_nor_in_the_way(
    here: Ledger, there: Ledger
) -> None:
    here.take_in("a", there.books("a").shared)
    for ledger, mlflow in ((here, "ours"), (there, "theirs")):
        ledger.append("a", Noted(key=MLFLOW_RUN, value=mlflow))
    here.append("a", Billed(micro_usd=7, final=False, source="AWS"))
    there.append("a", StateChanged(state="failed"))

    assert here.take_in("a", there.books("a").shared) == 1
    assert here.books("a").mlflow_run_id == "ours"
    assert here.books("a").state == "failed"


def test_a_run_that_stands_here_otherwise_is_refused_and_nothing_changes(
    here: Ledger, there: Ledger
) -> None:
    here.take_in("a", there.books("a").shared)
    here.append("a", StateChanged(state="done"))
    there.append("a", StateChanged(state="failed"), BudgetRaised(micro_usd=1))

    with pytest.raises(InvalidInputError, match="other books of a: entry 5 is state_changed here"):
        here.take_in("a", there.books("a").shared)

    assert here.books("a").state == "done"
    assert here.books("a").budget_micro_usd == 100


def test_the_budget_holds_for_what_is_reserved_after_it(here: Ledger, there: Ledger) -> None:
    here.take_in("a", there.books("a").shared)

    with pytest.raises(OverBudgetError):
        here.reserve("a", "train", 41)
    assert here.reserve("a", "train", 40) == "a/2"


def test_an_overshoot_is_taken_in_and_shown(here: Ledger, there: Ledger) -> None:
    there.settle("a/1", {"train": 130})

    here.take_in("a", there.books("a").shared)

    (overshoot,) = here.books("a").overshoots
    assert (overshoot.reserved_micro_usd, overshoot.settled_micro_usd) == (60, 130)
    assert here.books("a").free_micro_usd == -30


RESERVED = Reserved(reservation="a/1", line="train", micro_usd=60)


@pytest.mark.parametrize(
    ("entries", "fault"),
    [
        ([], "does not open the run"),
        ([StateChanged(state="done")], "does not open the run"),
        ([OPENED, OPENED], "there twice"),
        ([OPENED, Reserved(reservation="a/1", line="train", micro_usd=101)], "$0.0001 of the"),
        ([OPENED, RESERVED, Extended(reservation="a/1", micro_usd=41)], "of the budget is free"),
        ([OPENED, Reserved(reservation="a/2", line="train", micro_usd=1)], "out of turn"),
        ([OPENED, Reserved(reservation="b/1", line="train", micro_usd=1)], "out of turn"),
        ([OPENED, Extended(reservation="a/1", micro_usd=1)], "adds to a/1"),
        ([OPENED, Settled(reservation="a/1", lines={})], "settles a/1, which is not open"),
        ([OPENED, RESERVED, Settled(reservation="a/1", lines={})] * 2, "there twice"),
        ([OPENED, attempt(None)], "nothing pays for"),
        ([OPENED, attempt("a/1")], "nothing pays for"),
        ([OPENED, AttemptEnded(attempt=1, ended_at=1.0, how="done")], "was not started"),
        (
            [OPENED, RESERVED, attempt("a/1"), AttemptEnded(attempt=1, ended_at=0.5, how="done")],
            "ends attempt 1 before it started",
        ),
    ],
)
def test_what_our_ledger_would_have_refused_does_not_get_in(
    here: Ledger, entries: list[Entry], fault: str
) -> None:
    with pytest.raises(InvalidInputError) as refused:
        here.take_in("a", [(1.0, entry) for entry in entries])

    assert fault in str(refused.value)
    assert here.run_ids() == []


Act = tuple[str, int]


@given(
    acts=st.lists(
        st.tuples(st.sampled_from(["reserve", "extend", "settle", "raise"]), st.integers(0, 150)),
        max_size=12,
    )
)
@settings(max_examples=40)
def test_whatever_a_ledger_has_allowed_another_one_takes_in(acts: list[Act]) -> None:
    with (
        TemporaryDirectory() as folder,
        Ledger(Path(folder, "there.db"), Clock()) as there,
        Ledger(Path(folder, "here.db"), Clock()) as here,
    ):
        for ledger in (there, here):
            ledger._db.execute("PRAGMA synchronous = OFF")
        there.open_run("a", OPENED)
        for act in acts:
            _try(there, *act)

        books = there.books("a")
        assert fault_in("a", [one.entry for one in books.entries]) is None
        here.take_in("a", books.shared)
        assert here.books("a").shared == books.shared


def _try(ledger: Ledger, act: str, amount: int) -> None:
    reservations = ledger.books("a").reservations
    try:
        if act == "raise":
            ledger.append("a", BudgetRaised(micro_usd=amount + 1))
        elif act == "reserve":
            ledger.reserve("a", "train", amount)
        elif act == "extend" and reservations:
            ledger.extend(reservations[-1].id, amount)
        elif reservations:
            ledger.settle(reservations[0].id, {"train": amount})
    except RefusedError:
        return
