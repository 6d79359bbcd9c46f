import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.errors import InvalidInputError
from tracking.home import home, new_run_id

SUNDAY = 1_795_318_260.0  # 2026-11-22 03:31 UTC
Y2000 = 946_684_800.0


def test_the_home_is_where_the_variable_says_and_is_nobody_elses(tmp_path: Path) -> None:
    found = home({"STILLHOUSE_HOME": str(tmp_path / "a" / "b")})

    assert found.path == tmp_path / "a" / "b"
    assert found.path.stat().st_mode & 0o777 == 0o700
    assert found.runs.stat().st_mode & 0o777 == 0o700
    assert found.ledger == found.path / "ledger.db"
    assert found.run("x-1").path == found.runs / "x-1"


@pytest.mark.parametrize("environment", [{}, {"STILLHOUSE_HOME": ""}])
def test_without_the_variable_it_is_below_the_persons_own_home(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    assert home(environment).path == tmp_path / ".stillhouse"


def test_a_relative_home_does_not_move_with_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert home({"STILLHOUSE_HOME": "here"}).path == tmp_path / "here"


def test_a_file_where_the_home_belongs_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")

    with pytest.raises(InvalidInputError, match=r"file cannot be used as the home.*Set STILL"):
        home({"STILLHOUSE_HOME": str(tmp_path / "file")})
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("named", ["{}/what?", "{}/#1", "~nobody-of-that-name/home"])
def test_a_home_that_cannot_be_one_is_named_in_the_error(tmp_path: Path, named: str) -> None:
    with pytest.raises(InvalidInputError, match="Set STILLHOUSE_HOME"):
        home({"STILLHOUSE_HOME": named.format(tmp_path)})


def test_an_id_tells_the_recipe_and_when() -> None:
    assert re.fullmatch(r"quickstart-261122-0331-[2-9a-z]{4}", new_run_id("quickstart", SUNDAY))


@given(
    name=st.from_regex(r"[a-z0-9][a-z0-9-]{0,39}", fullmatch=True),
    now=st.floats(min_value=0, max_value=4_000_000_000),
)
def test_every_id_may_name_a_cluster(name: str, now: float) -> None:
    run_id = new_run_id(name, now)

    assert re.fullmatch(r"[a-z][a-z0-9-]*[a-z0-9]", run_id)
    assert len(run_id) <= 60


@given(
    times=st.lists(
        st.integers(min_value=0, max_value=30_000_000).map(lambda minute: Y2000 + minute * 60.0),
        min_size=2,
        unique=True,
    )
)
def test_ids_of_one_recipe_sort_by_time(times: list[float]) -> None:
    ids = [new_run_id("s1", now) for now in sorted(times)]

    assert ids == sorted(ids)


def test_ids_of_one_minute_differ() -> None:
    ids = {new_run_id("s1", SUNDAY) for _ in range(50)}

    assert len(ids) >= 49  # one pair in 750 such tests may meet; two pairs never will
