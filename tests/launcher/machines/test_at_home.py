"""A teacher behind an API is asked at home: its key never lies on a rented machine.

The real launcher code, run store and worker; the "rented machine" is a process of its own here,
started from the bundle, without the key and without this machine's folders.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from loopback_teacher import LoopbackTeacher, loopback_teacher
from process_cluster import OFFER, ProcessCluster, rented

from launcher.machines.at_home import HOME, TeacherAtHome
from launcher.machines.local import LocalMachine
from launcher.plans.plan import Plan
from launcher.plans.teacher_price import with_teacher_api
from launcher.runs.house import House
from launcher.runs.run import drive, open_run, release
from recipes.recipe import Recipe
from recipes.rundir import Limits, WorkerEnded, read_events, read_model, write_model
from tracking.books import Books
from tracking.entries import Git

KEY = "sk-marked-secret-4711"

API = {
    "name": "asks",
    "teacher": {
        "kind": "api",
        "model": "big",
        "usd_per_million_input_tokens": "3",
        "usd_per_million_output_tokens": "15",
        "sampling": {"max_new_tokens": 8},
    },
    "data": {"kind": "generated", "rows": 12, "prompt": "{question}="},
    "training": {"steps": 4, "batch_size": 2, "learning_rate": 0.01, "dtype": "float32"},
    "hardware": {"accelerators": "H100:1"},
    "budget": {"usd": "20"},
}


@pytest.fixture
def endpoint() -> Iterator[LoopbackTeacher]:
    with loopback_teacher() as teacher:
        yield teacher


@pytest.fixture
def api_recipe(recipe: Recipe, endpoint: LoopbackTeacher) -> Recipe:
    teacher = API["teacher"] | {"base_url": endpoint.url}  # type: ignore[operator]
    return Recipe.model_validate({**recipe.model_dump(), **API, "teacher": teacher})


@pytest.fixture
def real(house: House, api_recipe: Recipe, plan: Plan, tmp_path: Path) -> Iterator[House]:
    """A house whose home worker and rented worker are real; its run `asks-1` is open."""
    environ = {**os.environ, "OPENAI_API_KEY": KEY, "OMP_NUM_THREADS": "1"}
    cluster = ProcessCluster()
    counted = plan.model_copy(update={"prompt_bytes": 100, "units": {**plan.units, "generate": 12}})
    priced = with_teacher_api(counted, api_recipe)
    open_run(house.home, house.ledger, "asks-1", api_recipe, priced, Git(), str(tmp_path / "store"))
    yield replace(
        house,
        backend=TeacherAtHome(LocalMachine(house.home.path, environ), rented(cluster)),
        next_offer=lambda _plan, _books: OFFER,
        clock=time.time,
        sleep=lambda _s: time.sleep(0.05),
    )
    cluster.take_away()


@pytest.mark.slow
def test_answers_are_bought_at_home_and_learnt_from_on_the_rented_machine(
    real: House, endpoint: LoopbackTeacher, tmp_path: Path
) -> None:
    drive(real, "asks-1")

    books = real.ledger.books("asks-1")
    assert [(a.how, a.offer["name"]) for a in books.attempts] == [
        ("answered", HOME.name),
        ("done", OFFER.name),
    ]
    assert books.lines["teacher_api"] == 12 * (11 * 3 + 5 * 15)
    assert endpoint.asked == [f"Bearer {KEY}"] * 12
    assert books.reserved_micro_usd == 0
    sent = [*(tmp_path / "store").rglob("*"), *(real.home.run("asks-1").path / "bundle").rglob("*")]
    assert [path for path in sent if path.is_file() and KEY.encode() in path.read_bytes()] == []


# ---- whose turn it is ------------------------------------------------------------------------


class Place:
    """A backend that only says that it was asked."""

    rented = True
    closing_s = 7.0

    def __init__(self, name: str, said: list[str]) -> None:
        self._name = name
        self._said = said

    def __getattr__(self, method: str) -> Callable[..., None]:
        return lambda *_: self._said.append(f"{self._name} {method}")


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ("generate", ["home start", "home look", "home kill", "home release"]),
        (None, ["rented start", "rented look", "rented release"]),
    ],
)
def test_only_an_attempt_that_asks_the_teacher_runs_here(
    house: House, recipe: Recipe, plan: Plan, only: Any, expected: list[str]
) -> None:
    said: list[str] = []
    home: Any = Place("home", said)
    away: Any = Place("rented", said)
    backend = TeacherAtHome(home, away)
    open_run(house.home, house.ledger, "tiny-1", recipe, plan, Git())
    run = house.home.run("tiny-1")
    limits = Limits(
        attempt=1, started_at=0.0, usd_per_hour=Decimal(1), machine_usd=Decimal(1), only=only
    )
    write_model(run.limits, limits)

    backend.start(run, OFFER)
    backend.look(run)
    backend.release(run, 1)

    assert said == expected
    assert backend.closing_s == 7.0


@pytest.mark.slow
def test_giving_everything_back_ends_a_worker_that_is_asking_and_leaves_no_money_set_aside(
    real: House, endpoint: LoopbackTeacher
) -> None:
    def only_look_once(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive(replace(real, sleep=only_look_once), "asks-1")
    assert real.ledger.books("asks-1").reserved_micro_usd > 0

    release(real, "asks-1")

    books: Books = real.ledger.books("asks-1")
    run = real.home.run("asks-1")
    assert books.reserved_micro_usd == 0
    assert read_model(run.limits, Limits).only == "generate"
    assert [e for e, _ in read_events(run.events) if isinstance(e, WorkerEnded)] == []
