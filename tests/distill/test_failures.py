"""Failures: each kind has a code of its own and says what to change."""

import errno
from collections.abc import Callable
from typing import Any

import pytest
import torch

from distill.context import WorkerError
from distill.disk import is_disk_full
from distill.failures import as_worker_error
from recipes.errors import InvalidInputError
from recipes.recipe import Recipe


def test_our_own_errors_stay_as_they_are(make_recipe: Callable[..., Recipe]) -> None:
    error = WorkerError("code", "message", "remedy")

    assert as_worker_error(error, "train", make_recipe()) is error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_memory_that_runs_out_says_which_number_to_lower(
    make_recipe: Callable[..., Recipe], error: Exception
) -> None:
    recipe = make_recipe()

    assert as_worker_error(error, "train", recipe).code == "out_of_memory"
    assert "micro_batch_size (is 4)" in as_worker_error(error, "train", recipe).remedy
    assert "sampling.batch_size" in as_worker_error(error, "generate", recipe).remedy
    assert "evaluation" in as_worker_error(error, "evaluate", recipe).remedy


@pytest.mark.parametrize(
    ("fields", "remedy"),
    [
        ({"micro_batch_size": 1}, "gradient_checkpointing"),
        ({"micro_batch_size": 1, "gradient_checkpointing": True}, "more GPUs"),
    ],
)
def test_what_is_as_small_as_can_be_is_not_what_to_lower(
    make_recipe: Callable[..., Recipe], fields: dict[str, Any], remedy: str
) -> None:
    training = {"steps": 1, "batch_size": 4, "learning_rate": 1e-3} | fields

    error = as_worker_error(MemoryError(), "train", make_recipe(training=training))

    assert remedy in error.remedy
    assert "micro_batch_size (" not in error.remedy


def test_a_full_disk_is_found_behind_other_errors(make_recipe: Callable[..., Recipe]) -> None:
    def raised() -> Exception:
        try:
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            except OSError:
                raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904 - as torch.save does
        except RuntimeError as error:
            return error

    assert as_worker_error(raised(), "train", make_recipe()).code == "disk_full"
    assert is_disk_full(Exception("I/O error: No space left on device (os error 28)"))
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied"))


def test_bad_input_and_faults_are_told_apart(make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe()

    invalid = as_worker_error(InvalidInputError("recipe.json is bad"), None, recipe)
    fault = as_worker_error(KeyError("surprise"), "train", recipe)

    assert (invalid.code, invalid.message) == ("invalid_input", "recipe.json is bad")
    assert (fault.code, fault.message) == ("fault", "KeyError: 'surprise'")
    assert "traceback" in fault.remedy
