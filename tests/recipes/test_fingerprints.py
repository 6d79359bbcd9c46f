"""Files and folders are told apart by their content, and a large one is read once."""

import json
import os
from pathlib import Path

import pytest

from recipes.errors import InvalidInputError
from recipes.fingerprints import (
    LARGE_BYTES,
    file_fingerprint,
    fingerprint,
    input_fingerprints,
)
from recipes.loading import with_changes
from recipes.recipe import Recipe

GENERATED = {"kind": "generated", "rows": 3, "prompt": "{question}", "completion": "{answer}"}


def recipe(data: dict[str, object]) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "r",
            "teacher": {"kind": "none"},
            "student": {"kind": "pretrained", "model": "a/b"},
            "data": data,
            "training": {"steps": 1, "batch_size": 1, "learning_rate": 1e-5},
            "budget": {"usd": 1},
        }
    )


def settle(memory: Path) -> None:
    """As if what is remembered had been written a minute later."""
    for kept in memory.iterdir():
        later_ns = kept.stat().st_mtime_ns + 60_000_000_000
        os.utime(kept, ns=(later_ns, later_ns))


def pretend(memory: Path, sha256: str) -> None:
    """Make the memory say something else, to see whether it is asked."""
    (kept,) = memory.iterdir()
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"sha256": sha256}))


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    with path.open("wb") as file:
        file.truncate(LARGE_BYTES)
    return path


def test_one_byte_makes_another_file_whatever_its_size_and_its_date(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("1")
    before, dates = file_fingerprint(path), path.stat()

    path.write_text("2")
    os.utime(path, ns=(dates.st_atime_ns, dates.st_mtime_ns))

    assert file_fingerprint(path) != before


def test_the_same_content_elsewhere_is_the_same(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "x").write_text("1")

    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")


def test_a_folder_counts_names_and_contents_of_all_below_it(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    seen = {fingerprint(folder)}
    (folder / "sub" / "x").write_text("1")
    seen.add(fingerprint(folder))
    (folder / "sub" / "x").rename(folder / "sub" / "y")
    seen.add(fingerprint(folder))
    (folder / "sub" / "y").write_text("2")
    seen.add(fingerprint(folder))

    assert len(seen) == 4


def test_a_large_file_is_read_once(tmp_path: Path, large: Path) -> None:
    memory = tmp_path / "memory"
    file_fingerprint(large, memory)
    pretend(memory, "remembered")
    settle(memory)

    assert file_fingerprint(large, memory) == "remembered"
    assert file_fingerprint(large) != "remembered"


def test_a_large_file_is_read_again_after_a_change_that_hides_its_date(
    tmp_path: Path, large: Path
) -> None:
    memory, dates = tmp_path / "memory", large.stat()
    before = file_fingerprint(large, memory)
    settle(memory)

    with large.open("r+b") as file:
        file.write(b"other")
    os.utime(large, ns=(dates.st_atime_ns, dates.st_mtime_ns))

    assert large.stat().st_size == dates.st_size
    assert file_fingerprint(large, memory) != before


def test_what_was_read_right_after_a_change_is_not_believed(tmp_path: Path, large: Path) -> None:
    """It may have changed again within the same tick of its dates."""
    memory = tmp_path / "memory"
    true = file_fingerprint(large, memory)
    pretend(memory, "too soon")
    changed_ns = large.stat().st_ctime_ns
    for kept in memory.iterdir():
        os.utime(kept, ns=(changed_ns, changed_ns + 1_000_000_000))

    assert file_fingerprint(large, memory) == true


def test_a_memory_that_is_damaged_or_cannot_be_written_costs_time_only(
    tmp_path: Path, large: Path
) -> None:
    memory, no_folder = tmp_path / "memory", tmp_path / "file"
    true = file_fingerprint(large, memory)
    settle(memory)
    for kept in memory.iterdir():
        kept.write_text("{")
    no_folder.write_text("")

    assert file_fingerprint(large, memory) == true
    assert file_fingerprint(large, no_folder) == true


def test_a_recipes_files_and_folders_are_named_by_their_fields(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text("{}\n")
    (tmp_path / "model").mkdir()
    jsonl = {"kind": "jsonl", "path": str(tmp_path / "d.jsonl"), "prompt": "x", "completion": "y"}
    of_files = with_changes(recipe(jsonl), {"student.model": str(tmp_path / "model")})

    assert input_fingerprints(recipe(GENERATED)) == {}
    assert input_fingerprints(of_files) == {
        "data.path": file_fingerprint(tmp_path / "d.jsonl"),
        "student.model": fingerprint(tmp_path / "model"),
    }


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    jsonl = {"kind": "jsonl", "path": str(tmp_path / "none"), "prompt": "x", "completion": "y"}

    with pytest.raises(InvalidInputError, match=r"^data\.path: .*none cannot be read"):
        input_fingerprints(recipe(jsonl))
