"""Bad days of a rented machine: the real worker, run store and launcher; only the cloud is ours.

What needs the real SkyPilot is in tests/cloudlab/test_still_bad_days.py.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from loopback_s3 import LoopbackS3
from process_cluster import OFFER, ProcessCluster, rented

from launcher.machines.mail import StoreMail
from launcher.plans.plan import Plan
from launcher.runs.house import House
from launcher.runs.run import drive, open_run
from recipes.errors import StillhouseError
from recipes.recipe import Recipe
from recipes.rundir import (
    CheckpointLoaded,
    CheckpointStored,
    Event,
    read_events,
    write_model,
)
from recipes.store_s3 import S3Store
from tracking.books import Books
from tracking.entries import Git

pytestmark = pytest.mark.slow

RECIPE = {
    "name": "tiny",
    "student": {
        "kind": "new",
        "characters": "0123456789+=",
        "layers": 1,
        "hidden_size": 16,
        "heads": 2,
        "intermediate_size": 16,
    },
    "training": {
        "steps": 2000,
        "batch_size": 2,
        "learning_rate": 0.01,
        "dtype": "float32",
        "threads": 1,
        "checkpoint_every_steps": 40,
    },
    "hardware": {"accelerators": "H100:1"},
    "budget": {"usd": "20"},
}


@dataclass
class Scene:
    """A run on one rented machine, and an S3 that can be made to fail."""

    house: House
    s3: LoopbackS3
    cluster: ProcessCluster

    def open(self, recipe: Recipe, plan: Plan, bucket: str) -> None:
        url = f"s3://{bucket}/tiny-1"
        open_run(self.house.home, self.house.ledger, "tiny-1", recipe, plan, Git(), url)

    @property
    def books(self) -> Books:
        return self.house.ledger.books("tiny-1")

    def events(self, kind: type[Event]) -> list[Any]:
        found = read_events(self.house.home.run("tiny-1").events)
        return [event for event, _ in found if isinstance(event, kind)]

    def meanwhile(self, do: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=do)
        thread.start()
        return thread


@pytest.fixture
def tiny(recipe: Recipe) -> Recipe:
    return Recipe.model_validate({**recipe.model_dump(), **RECIPE})


@pytest.fixture
def scene(house: House, tiny: Recipe, plan: Plan, s3: LoopbackS3) -> Iterator[Scene]:
    bucket = s3.bucket()
    cluster = ProcessCluster(s3.environ())
    mail = StoreMail(lambda _url: S3Store(bucket, "tiny-1", s3.client()))
    ours = replace(
        house,
        backend=rented(cluster, mail),
        next_offer=lambda _plan, _books: OFFER,
        clock=time.time,
        sleep=lambda _s: time.sleep(0.05),
    )
    scene = Scene(ours, s3, cluster)
    scene.open(tiny, plan, bucket)
    yield scene
    cluster.take_away()


def wait_for_checkpoint(scene: Scene) -> None:
    deadline = time.monotonic() + 120
    while not scene.events(CheckpointStored):
        assert time.monotonic() < deadline, "no checkpoint was stored"
        time.sleep(0.05)


def lost_while(scene: Scene, *words: str) -> None:
    """Drive the run; its first machine, once it has stored a checkpoint, is taken away while it
    sends what has these words."""

    def take_away() -> None:
        wait_for_checkpoint(scene)
        fault = scene.s3.add(*words, kind="hang")
        assert fault.met.wait(60)
        scene.cluster.take_away()
        scene.s3.take_away(fault)

    thread = scene.meanwhile(take_away)
    drive(scene.house, "tiny-1")
    thread.join()


def test_a_machine_lost_while_it_sends_a_checkpoint_costs_no_more_than_that_checkpoint(
    scene: Scene,
) -> None:
    lost_while(scene, "PUT", "checkpoints/step-")

    assert [attempt.how for attempt in scene.books.attempts] == ["lost", "done"]
    (loaded,) = scene.events(CheckpointLoaded)
    stored = [e.step for e in scene.events(CheckpointStored) if e.attempt == 1]
    assert loaded.step == max(stored) >= 40


def test_a_machine_lost_while_it_sends_the_finished_student_is_followed_by_one_that_sends_it(
    scene: Scene,
) -> None:
    lost_while(scene, "PUT", "/student")

    assert [attempt.how for attempt in scene.books.attempts] == ["lost", "done"]
    assert scene.books.state == "done"
    run = scene.house.home.run("tiny-1")
    assert (run.student / "model.safetensors").stat().st_size > 0


def test_a_machine_on_which_nothing_moves_is_given_back_and_the_run_goes_on_later(
    scene: Scene,
) -> None:
    def freeze() -> None:
        wait_for_checkpoint(scene)
        scene.cluster.freeze()
        scene.house.patience_s = 1.0

    thread = scene.meanwhile(freeze)
    with pytest.raises(StillhouseError, match="still resume"):
        drive(scene.house, "tiny-1")
    thread.join()
    scene.house.patience_s = 900.0
    assert scene.books.reserved_micro_usd == 0
    assert not scene.cluster.is_up("")

    drive(scene.house, "tiny-1")

    assert scene.books.state == "done"
    assert len(scene.events(CheckpointLoaded)) == 1


def test_a_store_that_is_away_for_a_while_costs_no_checkpoint_and_no_machine(
    scene: Scene,
) -> None:
    def away_for_a_while() -> None:
        wait_for_checkpoint(scene)
        fault = scene.s3.add("/", kind="503")
        assert fault.met.wait(60)
        time.sleep(5.0)
        scene.s3.take_away(fault)

    thread = scene.meanwhile(away_for_a_while)
    drive(scene.house, "tiny-1")
    thread.join()

    assert [attempt.how for attempt in scene.books.attempts] == ["done"]
    assert (scene.house.home.run("tiny-1").student / "model.safetensors").stat().st_size > 0


def test_a_worker_that_cannot_do_its_work_ends_the_run_with_its_own_words(
    scene: Scene, tiny: Recipe
) -> None:
    run = scene.house.home.run("tiny-1")
    without_plus = tiny.student.model_copy(update={"characters": "0123456789="})
    write_model(run.recipe, tiny.model_copy(update={"student": without_plus}))

    with pytest.raises(StillhouseError, match="characters"):
        drive(scene.house, "tiny-1")

    assert scene.books.state == "failed"
    assert "characters" in scene.books.reason
    assert [attempt.how for attempt in scene.books.attempts] == ["failed"]
    assert scene.books.reserved_micro_usd == 0
    assert not scene.cluster.is_up("")
