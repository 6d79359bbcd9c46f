"""Shared by the worker's tests: small recipes, small models, and the world of a stage."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from distill.context import Context, Stop
from recipes.recipe import NewStudent, Recipe
from recipes.rundir import EventLog, Limits, RunDir

CHARACTERS = "0123456789+=>,;"


@pytest.fixture
def small_student() -> NewStudent:
    return NewStudent(
        characters=CHARACTERS, layers=1, hidden_size=16, heads=2, intermediate_size=16
    )


@pytest.fixture
def model_folder(tmp_path: Path, small_student: NewStudent) -> Path:
    """An ordinary Hugging Face folder, with weights by chance."""
    return save_new_model(tmp_path / "model", small_student)


def save_new_model(folder: Path, shape: NewStudent, seed: int = 0) -> Path:
    import torch

    from distill.models import new_student

    torch.manual_seed(seed)
    model, tokenizer = new_student(shape)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def new_model(small_student: NewStudent) -> Callable[[Path, int], Path]:
    """Saves a model with the weights of a seed."""
    return lambda folder, seed: save_new_model(folder, small_student, seed)


@pytest.fixture
def make_recipe(small_student: NewStudent) -> Callable[..., Recipe]:
    """A recipe of 20 additions; fields given replace its own."""

    def make(**fields: Any) -> Recipe:
        recipe = {
            "name": "test",
            "teacher": {"kind": "none"},
            "student": small_student,
            "data": {
                "kind": "generated",
                "prompt": "{question}=",
                "completion": "{answer}",
                "rows": 20,
            },
            "training": {"steps": 2, "batch_size": 4, "learning_rate": 1e-3, "dtype": "float32"},
            "hardware": {"local": True, "usd_per_hour": "0.12"},
            "budget": {"usd": "1"},
        }
        return Recipe.model_validate(recipe | fields)

    return make


@pytest.fixture
def make_context(tmp_path: Path) -> Iterator[Callable[..., Context]]:
    """The world of a stage, in a run's folder of its own; limits given replace those of none."""
    logs: list[EventLog] = []

    def make(
        recipe: Recipe, folder: str = "run", stop: Stop | None = None, **limits: Any
    ) -> Context:
        run = RunDir(tmp_path / folder)
        run.path.mkdir(exist_ok=True)
        none = {"attempt": 1, "started_at": 0.0, "usd_per_hour": 0, "machine_usd": Decimal(0)}
        checked = Limits.model_validate(none | limits)
        log = EventLog(run.events, checked.attempt)
        logs.append(log)
        return Context(run, recipe, checked, log, stop or Stop(checked), "cpu")

    yield make
    for log in logs:
        log.close()
