"""How much time is set aside for ending in good order, while a training goes on."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from stand_in_learner import keeper_of

from distill.keeper import CARE, Keeper
from recipes.recipe import Recipe
from recipes.rundir import Limits

PARAMETERS = 10**9

TRAINING = {"steps": 1000, "batch_size": 4, "learning_rate": 1e-3, "dtype": "bfloat16"}

STUDENT_S = CARE * (0.5 + 12 / 6 + 20)
"""2 bytes of the 12 of a checkpoint are written, then sent while the student is scored."""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_keeper(make_recipe: Callable[..., Recipe], clock: Clock) -> Callable[..., Keeper]:
    """Of 1000 steps on a machine whose money ends after 10,000 s; limits given replace its own."""

    def make(**changed: Any) -> Keeper:
        limits = {
            "attempt": 1,
            "started_at": 0,
            "usd_per_hour": Decimal(36),
            "machine_usd": Decimal(100),
            "evaluation_s": 30,
            "save_s": 12,
            "upload_s": 20,
            "store": "s3://bucket/one",
        }
        return keeper_of(
            make_recipe(training=TRAINING),
            Limits.model_validate(limits | changed),
            clock,
            parameters=PARAMETERS,
            steps=1000,
        )

    return make


def test_the_student_has_time_to_be_written_and_stored(make_keeper: Callable[..., Keeper]) -> None:
    assert make_keeper().reserve_s(3.0) == pytest.approx(3.0 + STUDENT_S)


def test_a_student_that_answers_for_longer_than_it_is_sent_has_time_for_that(
    make_keeper: Callable[..., Keeper],
) -> None:
    keeper = make_keeper(evaluation_s=600)

    assert keeper.reserve_s(3.0) == pytest.approx(3.0 + CARE * 2.5 + 600)


def test_at_home_nothing_has_to_be_sent(make_keeper: Callable[..., Keeper]) -> None:
    assert make_keeper(store=None).reserve_s(0.0) == pytest.approx(CARE * 2.5 + 30)


def test_no_checkpoint_is_counted_while_the_steps_that_are_left_fit_before_the_limit(
    make_keeper: Callable[..., Keeper], clock: Clock
) -> None:
    keeper = make_keeper()
    clock.now = 5_000.0

    assert keeper.reserve_s(4.9) == pytest.approx(4.9 + STUDENT_S)
    # 12 s to write it, and six times the 20 s of a student to store it.
    assert keeper.reserve_s(5.0) == pytest.approx(5.0 + STUDENT_S + 12 + 120)


def test_a_checkpoint_that_takes_long_beside_what_it_saves_is_not_counted(
    make_keeper: Callable[..., Keeper], clock: Clock
) -> None:
    keeper = make_keeper()
    clock.now = 4 * 132 - 1.0
    assert keeper.reserve_s(60.0) == pytest.approx(60.0 + STUDENT_S)
    clock.now = 4 * 132 + 1.0
    assert keeper.reserve_s(60.0) == pytest.approx(60.0 + STUDENT_S + 132)


def test_limits_of_an_older_launcher_leave_a_guess_by_the_size(
    make_keeper: Callable[..., Keeper],
) -> None:
    """12 and 2 bytes a parameter at 300 MB/s."""
    keeper = make_keeper(save_s=None, upload_s=None, evaluation_s=None)

    likely_s = 0.5 + (0.5 + 40) / 6 + 2 / 0.3
    assert keeper.reserve_s(0.0) == pytest.approx(CARE * likely_s, rel=1e-3)


def test_limits_without_these_figures_are_read() -> None:
    written = '{"attempt":1,"started_at":0,"usd_per_hour":1,"machine_usd":1}'

    limits = Limits.model_validate_json(written)

    assert (limits.save_s, limits.upload_s) == (None, None)
