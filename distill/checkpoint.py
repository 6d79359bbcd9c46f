"""Checkpoints: a folder each, there whole or not at all.

    checkpoints/step-00000200/state.pt    what training needs to go on, as torch.save writes it
    checkpoints/step-00000200/complete    size and checksum of state.pt; written last

Written aside, synced, renamed, and marked; the last two are kept. What a kill or a bad disk left is
passed over, with a warning, for the one before it.
"""

import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any, Literal, cast

import torch
from pydantic import Field

from distill.context import WorkerError
from distill.disk import sync_tree, writing
from recipes.errors import InvalidInputError
from recipes.recipe import Part
from recipes.rundir import read_model, sync_folder, write_model

KEPT = 2
"""Two: should the newest turn out damaged, little is lost."""

STATE, COMPLETE = "state.pt", "complete"


class Marker(Part):
    """The content of `complete`."""

    version: Literal[1] = 1
    step: int = Field(ge=0)
    size_bytes: int = Field(ge=0)
    crc32: int = Field(ge=0)


def save(folder: Path, step: int, state: Mapping[str, Any]) -> int:
    """Write a checkpoint and drop those before the last two; its size [bytes].

    Args:
        folder: the run's `checkpoints`; made where it is missing.
        state: tensors, numbers and texts, in dicts and lists.

    Raises:
        WorkerError: the disk is full; nothing of this checkpoint is left.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    aside, final = folder / f".{_name(step)}.tmp", folder / _name(step)
    for left_by_a_kill in folder.glob(".step-*.tmp"):
        shutil.rmtree(left_by_a_kill)
    with writing("a checkpoint", aside):
        aside.mkdir()
        with (aside / STATE).open("wb") as file:
            checked = _Checked(file)
            torch.save(dict(state), cast(IO[bytes], checked))
        sync_tree(aside)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(aside, final)
        sync_folder(folder)
    with writing("a checkpoint", final):
        marker = Marker(step=step, size_bytes=checked.size, crc32=checked.crc32)
        write_model(final / COMPLETE, marker)
    _drop_all_but_the_last(folder, step)
    return checked.size


def newest(folder: Path, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The state of the newest whole checkpoint; `None` without one.

    Tensors are on the CPU. `warn` is told of each newer one that was passed over.

    Raises:
        WorkerError: a whole one does not go into memory. To begin before it would be to lose it.
    """
    for path in _newest_first(folder):
        try:
            _check(path)
            return _load(path)
        except (InvalidInputError, OSError, ValueError, UnpicklingError) as error:
            warn(f"the checkpoint {path.name} is passed over: {_first_line(error)}")
    return None


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-[0-9]*"), key=_step, reverse=True)


def _check(path: Path) -> None:
    """
    Raises:
        ValueError: it is not whole, or damaged.
        InvalidInputError: its marker is.
    """
    if not (path / COMPLETE).exists():
        raise ValueError("it was not finished")
    marker = read_model(path / COMPLETE, Marker)
    size = crc32 = 0
    with (path / STATE).open("rb") as file:
        for chunk in _chunks(file):
            size += len(chunk)
            crc32 = zlib.crc32(chunk, crc32)
    if (size, crc32) != (marker.size_bytes, marker.crc32):
        raise ValueError(f"{STATE} is damaged: {size} bytes of {marker.size_bytes}, or altered")


def _load(path: Path) -> dict[str, Any]:
    """
    Raises:
        UnpicklingError: it is no state.
        WorkerError: memory ran out, or whatever else is no fault of a file that is whole.
    """
    try:
        state: dict[str, Any] = torch.load(path / STATE, map_location="cpu", weights_only=True)
    except (MemoryError, OSError, RuntimeError) as error:
        size_gb = (path / STATE).stat().st_size / 1e9
        raise WorkerError(
            "checkpoint",
            f"the checkpoint {path.name} of {size_gb:.3g} GB is whole and could not be loaded: "
            f"{_first_line(error)}",
            "Resume where there is more memory (of the machine, not of its GPUs); it is kept.",
        ) from error
    return state


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0]


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: file.read(2**24), b"")


def _drop_all_but_the_last(folder: Path, step: int) -> None:
    """Later steps go too: training went back behind them, because they were damaged."""
    found = _newest_first(folder)
    so_far = [path for path in found if _step(path) <= step]
    for path in found:
        if path not in so_far[:KEPT]:
            # The marker first: half a folder must not pass for a whole one.
            (path / COMPLETE).unlink(missing_ok=True)
            shutil.rmtree(path)


class _Checked:
    """Sums up what goes through to a file, so that nothing has to be read again."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0
        self.crc32 = 0

    def write(self, content: bytes) -> int:
        self.size += len(content)
        self.crc32 = zlib.crc32(content, self.crc32)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()
