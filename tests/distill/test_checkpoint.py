"""Checkpoints are there whole or not at all, and a damaged one is passed over."""

import errno
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from distill import checkpoint
from distill.context import WorkerError


def state(number: int) -> dict[str, Any]:
    return {"steps": number, "weights": {"w": torch.full((1000,), float(number))}}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def read(folder: Path) -> tuple[int | None, list[str]]:
    warnings: list[str] = []
    found = checkpoint.newest(folder, warnings.append)
    return (found["steps"] if found else None), warnings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With checkpoints of steps 10 and 20."""
    path = tmp_path / "checkpoints"
    checkpoint.save(path, 10, state(10))
    checkpoint.save(path, 20, state(20))
    return path


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may be above 2,000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_was_saved_comes_back(folder: Path) -> None:
    found = checkpoint.newest(folder, pytest.fail)

    assert found is not None
    assert found["steps"] == 20
    assert torch.equal(found["weights"]["w"], torch.full((1000,), 20.0))


def test_without_any_there_is_nothing_and_no_warning(tmp_path: Path) -> None:
    assert read(tmp_path / "checkpoints") == (None, [])


def test_the_last_two_are_kept(folder: Path) -> None:
    checkpoint.save(folder, 30, state(30))

    assert names(folder) == ["step-00000020", "step-00000030"]


def test_the_size_is_that_of_the_file(folder: Path) -> None:
    size = checkpoint.save(folder, 30, state(30))

    assert size == (folder / "step-00000030/state.pt").stat().st_size


def test_one_without_its_marker_is_passed_over_and_said(folder: Path) -> None:
    (folder / "step-00000020/complete").unlink()

    step, warnings = read(folder)

    assert step == 10
    assert warnings == ["the checkpoint step-00000020 is passed over: it was not finished"]


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "gone", "marker", "empty marker"])
def test_a_damaged_one_is_passed_over_for_the_one_before(folder: Path, damage: str) -> None:
    file, marker = folder / "step-00000020/state.pt", folder / "step-00000020/complete"
    content = bytearray(file.read_bytes())
    match damage:
        case "flip":
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
        case "cut":
            file.write_bytes(content[:-1])
        case "grow":
            file.write_bytes(content + b"x")
        case "gone":
            file.unlink()
        case "marker":
            marker.write_bytes(b"\x00{")
        case "empty marker":
            marker.write_bytes(b"")

    step, warnings = read(folder)

    assert step == 10
    assert len(warnings) == 1
    assert "step-00000020" in warnings[0]


def test_content_that_is_no_state_is_passed_over_even_if_its_checksum_fits(folder: Path) -> None:
    import zlib

    (folder / "step-00000020/state.pt").write_bytes(b"no state")
    marker = checkpoint.Marker(step=20, size_bytes=8, crc32=zlib.crc32(b"no state"))
    (folder / "step-00000020/complete").write_text(marker.model_dump_json())

    assert read(folder)[0] == 10


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_whole_one_for_which_memory_does_not_suffice_is_not_passed_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("torch.load", full)

    with pytest.raises(WorkerError, match=r"step-00000020 of .* GB is whole .* more memory"):
        checkpoint.newest(folder, pytest.fail)

    assert names(folder) == ["step-00000010", "step-00000020"]


def test_when_all_are_damaged_training_begins_anew_and_each_is_named(folder: Path) -> None:
    for path in folder.iterdir():
        (path / "state.pt").write_bytes(b"")

    step, warnings = read(folder)

    assert step is None
    assert len(warnings) == 2


def test_what_a_kill_left_half_written_is_no_checkpoint_and_goes_away(folder: Path) -> None:
    half = folder / ".step-00000030.tmp"
    half.mkdir()
    (half / "state.pt").write_bytes(b"half")

    assert read(folder) == (20, [])
    checkpoint.save(folder, 30, state(30))
    assert names(folder) == ["step-00000020", "step-00000030"]


def test_after_a_damaged_one_training_goes_on_before_it_and_it_goes_away(folder: Path) -> None:
    (folder / "step-00000020/complete").unlink()

    checkpoint.save(folder, 15, state(15))

    assert names(folder) == ["step-00000010", "step-00000015"]


def test_the_same_step_can_be_saved_again_over_a_damaged_one(folder: Path) -> None:
    (folder / "step-00000020/complete").unlink()

    checkpoint.save(folder, 20, state(20))

    assert read(folder) == (20, [])


def test_a_full_disk_is_said_and_leaves_nothing_behind(folder: Path, small_disk: None) -> None:
    with pytest.raises(WorkerError) as error:
        checkpoint.save(folder, 30, state(30))

    assert error.value.code == "disk_full"
    assert "no room to write a checkpoint" in error.value.message
    assert read(folder) == (20, [])
    assert names(folder) == ["step-00000010", "step-00000020"]
