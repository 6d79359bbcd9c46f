"""A machine's last word lies in the run's store, or is not said at all."""

from decimal import Decimal
from pathlib import Path

import pytest

from distill.__main__ import main
from recipes.rundir import Limits, RunDir, write_model
from recipes.store import open_store
from recipes.stored_run import leaving


def limits(store: Path | None) -> Limits:
    return Limits(
        attempt=2,
        started_at=0.0,
        usd_per_hour=Decimal(1),
        machine_usd=Decimal(1),
        store=None if store is None else str(store),
    )


def test_each_machine_of_an_attempt_says_when_it_goes(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    write_model(RunDir(tmp_path / "run").limits, limits(tmp_path / "store"))

    codes = [main(["leaving", str(tmp_path / "run"), node, f"180000000{node}"]) for node in "01"]

    assert codes == [0, 0]
    store = open_store(str(tmp_path / "store"))
    assert leaving(store, 2) == [1_800_000_000.0, 1_800_000_001.0]
    assert leaving(store, 1) == []


def test_where_there_is_no_store_or_no_run_nothing_is_left_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    write_model(RunDir(tmp_path / "run").limits, limits(None))

    assert main(["leaving", str(tmp_path / "run"), "0", "1800000000"]) == 0
    assert main(["leaving", str(tmp_path / "nowhere"), "0", "1800000000"]) != 0
    assert capsys.readouterr().err.startswith("Error: ")


@pytest.mark.parametrize("words", [("x", "1"), ("0", "soon"), ("0",)])
def test_what_makes_no_sense_is_refused_with_how_to_say_it(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["leaving", "run", *words]) == 2
    assert "usage: " in capsys.readouterr().err
