"""Folders and checkpoints in a store: whole or not there, replaced in one step, never lost."""

import json
from pathlib import Path

import pytest
from loopback_s3 import LoopbackS3
from pydantic import ValidationError
from shaky_store import Fate, Killed, ShakyStore

from recipes.store import FolderStore, NotStoredError, Store, StoreError
from recipes.store_checkpoints import (
    checkpoints,
    newest_checkpoint,
    pull_checkpoint,
    push_checkpoint,
)
from recipes.store_s3 import S3Store
from recipes.store_trees import (
    DamagedError,
    Tree,
    get_tree,
    holds,
    put_tree,
    read_tree,
    whole_tree,
)


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return FolderStore(tmp_path / "store")
    s3: LoopbackS3 = request.getfixturevalue("s3")
    return S3Store(s3.bucket(), "runs/one", s3.client())


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return write(tmp_path / "student", {"model.safetensors": b"weights", "deep/er.json": b"{}"})


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def read(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def checkpoint(folder: Path, step: int, content: bytes = b"state") -> Path:
    return write(folder / f"step-{step:08d}", {"state.pt": content, "complete": b"%d" % step})


def spoil(store: FolderStore, key_part: str, content: bytes | None) -> None:
    """Alter, or remove, what is stored under the one key that contains `key_part`."""
    (key,) = [entry.key for entry in store.entries() if key_part in entry.key]
    if content is None:
        store.delete(key)
    else:
        store.put_bytes(key, content)


# ---- trees -----------------------------------------------------------------------------------


def test_a_tree_comes_home_as_it_went(store: Store, student: Path, tmp_path: Path) -> None:
    put_tree(store, student, "student")
    write(tmp_path / "home" / "student", {"older.bin": b"older"})

    tree = get_tree(store, "student", tmp_path / "home" / "student")

    assert read(tmp_path / "home" / "student") == read(student)
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["student"]
    assert tree.size_bytes == len(b"weights{}")
    assert holds(store, student, "student")


def test_a_new_version_replaces_the_old_one_and_leaves_nothing_of_it(
    store: Store, student: Path, tmp_path: Path
) -> None:
    put_tree(store, student, "student")
    (student / "deep" / "er.json").unlink()
    write(student, {"model.safetensors": b"other weights"})
    assert not holds(store, student, "student")

    put_tree(store, student, "student")
    get_tree(store, "student", tmp_path / "home")

    assert read(tmp_path / "home") == {"model.safetensors": b"other weights"}
    assert len(store.entries("student")) == 2


@pytest.mark.parametrize("fate", ["killed before", "killed after"])
@pytest.mark.parametrize("operation_number", range(4))
def test_a_kill_while_a_tree_is_replaced_leaves_the_old_one_or_the_new_one(
    student: Path, tmp_path: Path, fate: Fate, operation_number: int
) -> None:
    store = FolderStore(tmp_path / "store")
    before = put_tree(store, student, "student")
    write(student, {"model.safetensors": b"other weights"})
    done = []

    def killed(operation: str, key: str) -> Fate:
        done.append(operation)
        return fate if len(done) == operation_number + 1 else "well"

    with pytest.raises(Killed):
        put_tree(ShakyStore(store, killed), student, "student")

    tree = get_tree(store, "student", tmp_path / "home")
    is_new = ("put_bytes" in done[:-1]) or (done[-1] == "put_bytes" and fate == "killed after")
    assert (tree != before) == is_new
    weights = b"other weights" if is_new else b"weights"
    assert read(tmp_path / "home") == {"model.safetensors": weights, "deep/er.json": b"{}"}


def test_a_tree_without_a_manifest_does_not_exist(store: Store, tmp_path: Path) -> None:
    store.put_bytes("student/0123456789abcdef/model.safetensors", b"weights")

    assert read_tree(store, "student") is None
    with pytest.raises(NotStoredError, match="student is not there, or not whole"):
        get_tree(store, "student", tmp_path / "student")
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize("manifest", [b"", b'{"version":1,"files":[{"pa', b"\xff\x00", b"[]"])
def test_a_torn_manifest_is_none(store: Store, manifest: bytes) -> None:
    store.put_bytes("student/complete", manifest)

    assert read_tree(store, "student") is None
    assert whole_tree(store, "student") is None


@pytest.mark.parametrize("content", [b"weightz", b"weight", None])
def test_a_damaged_file_is_noticed_and_what_stands_here_stays(
    student: Path, tmp_path: Path, content: bytes | None
) -> None:
    store = FolderStore(tmp_path / "store")
    put_tree(store, student, "student")
    spoil(store, "model.safetensors", content)
    home = write(tmp_path / "home", {"older.bin": b"older"})

    with pytest.raises(DamagedError, match=r"student is damaged: .*model\.safetensors"):
        get_tree(store, "student", home)

    assert read(home) == {"older.bin": b"older"}
    assert not (tmp_path / ".home.tmp").exists()


def test_a_tree_that_is_replaced_while_it_comes_home_comes_as_the_new_one(
    student: Path, tmp_path: Path
) -> None:
    store = FolderStore(tmp_path / "store")
    put_tree(store, student, "student")

    def replaced(operation: str, key: str) -> Fate:
        if operation == "get_file" and shaky.fate is replaced:
            shaky.fate = lambda operation, key: "well"
            write(student, {"model.safetensors": b"other weights"})
            put_tree(store, student, "student")
        return "well"

    shaky = ShakyStore(store, replaced)
    # The first file, deep/er.json, has come when the second is found to be gone.
    get_tree(shaky, "student", tmp_path / "home")

    assert read(tmp_path / "home")["model.safetensors"] == b"other weights"


def test_a_folder_that_changes_while_it_is_stored_is_not_taken_for_whole(
    student: Path, tmp_path: Path
) -> None:
    def appending(operation: str, key: str) -> Fate:
        if operation == "put_file":
            with (student / "deep" / "er.json").open("ab") as file:
                file.write(b"more")
        return "well"

    store = FolderStore(tmp_path / "store")
    with pytest.raises(StoreError, match="changed while it was stored"):
        put_tree(ShakyStore(store, appending), student, "student")
    assert read_tree(store, "student") is None


@pytest.mark.parametrize("path", ["../evil", "/etc/passwd", "a/../../evil", "", "a\0b", "./a"])
def test_a_manifest_cannot_write_outside_its_folder(
    store: Store, tmp_path: Path, path: str
) -> None:
    manifest = {"version": 1, "files": [{"path": path, "size_bytes": 1, "sha256": "0" * 64}]}
    with pytest.raises(ValidationError):
        Tree.model_validate(manifest)
    store.put_bytes("student/complete", json.dumps(manifest).encode())

    assert read_tree(store, "student") is None


def test_a_missing_folder_is_not_stored_as_an_empty_one(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        put_tree(store, tmp_path / "missing", "student")
    assert store.entries() == []


# ---- checkpoints -----------------------------------------------------------------------------


def test_the_last_two_are_kept(store: Store, tmp_path: Path) -> None:
    for step in (100, 200, 300, 1000):
        push_checkpoint(store, checkpoint(tmp_path, step))

    assert [stored.step for stored in checkpoints(store)] == [1000, 300]
    assert {entry.key.split("/")[1] for entry in store.entries("checkpoints")} == {
        "step-00000300",
        "step-00001000",
    }


def test_the_newest_comes_home(store: Store, tmp_path: Path) -> None:
    for step in (100, 200):
        push_checkpoint(store, checkpoint(tmp_path, step, b"state of %d" % step))

    folder = pull_checkpoint(store, tmp_path / "home", pytest.fail)

    assert folder == tmp_path / "home" / "step-00000200"
    assert read(folder) == {"state.pt": b"state of 200", "complete": b"200"}


def test_without_a_checkpoint_nothing_comes_home(store: Store, tmp_path: Path) -> None:
    assert newest_checkpoint(store) is None
    assert pull_checkpoint(store, tmp_path / "home", pytest.fail) is None
    assert not (tmp_path / "home").exists()


def test_a_torn_one_is_passed_over(store: Store, tmp_path: Path) -> None:
    push_checkpoint(store, checkpoint(tmp_path, 100))
    store.put_bytes("checkpoints/step-00000200/0123456789abcdef/state.pt", b"no manifest yet")
    store.put_bytes("checkpoints/step-00000300/complete", b'{"version":1,"fi')

    newest = newest_checkpoint(store)

    assert newest is not None
    assert newest.name == "step-00000100"


@pytest.mark.parametrize("content", [b"statf", b"stat", None])
def test_a_damaged_one_is_passed_over_for_the_one_before(
    tmp_path: Path, content: bytes | None
) -> None:
    store = FolderStore(tmp_path / "store")
    push_checkpoint(store, checkpoint(tmp_path, 100))
    push_checkpoint(store, checkpoint(tmp_path, 200))
    (state,) = [e.key for e in store.entries("checkpoints/step-00000200") if "state" in e.key]
    if content is None:
        store.delete(state)
    else:
        store.put_bytes(state, content)
    warnings: list[str] = []

    folder = pull_checkpoint(store, tmp_path / "home", warnings.append)

    assert folder == tmp_path / "home" / "step-00000100"
    # By its size it is seen at once not to be whole; only other bytes have to be told.
    assert len(warnings) == (content == b"statf")
    assert all("step-00000200 is damaged" in warning for warning in warnings)


def test_a_damaged_one_is_mended_when_training_comes_by_again(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    for step in (100, 200):
        push_checkpoint(store, checkpoint(tmp_path, step))
    (state,) = [e.key for e in store.entries("checkpoints/step-00000200") if "state" in e.key]
    store.put_bytes(state, b"statf")

    push_checkpoint(store, tmp_path / "step-00000200")

    folder = pull_checkpoint(store, tmp_path / "home", pytest.fail)
    assert folder is not None
    assert folder.name == "step-00000200"


def test_older_ones_stay_until_two_whole_ones_follow(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    for step in (100, 200):
        push_checkpoint(store, checkpoint(tmp_path, step))
    spoil(store, "step-00000200/complete", b"torn")

    push_checkpoint(store, checkpoint(tmp_path, 300))

    assert [stored.step for stored in checkpoints(store)] == [300, 100]


def test_later_ones_of_another_machine_stay(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    for step in (300, 100, 200):
        push_checkpoint(store, checkpoint(tmp_path, step))

    assert [stored.step for stored in checkpoints(store)] == [300, 200, 100]


def test_one_that_is_here_already_is_not_fetched_again(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    here = checkpoint(tmp_path / "home", 100)
    push_checkpoint(store, here)
    unreadable = ShakyStore(store, lambda operation, key: fails_to_read(operation))

    assert pull_checkpoint(unreadable, tmp_path / "home", pytest.fail) == here

    (here / "state.pt").write_bytes(b"statf")  # but one that is damaged here is
    pull_checkpoint(store, tmp_path / "home", pytest.fail)
    assert (here / "state.pt").read_bytes() == b"state"


def fails_to_read(operation: str) -> Fate:
    return "fails" if operation == "get_file" else "well"


@pytest.mark.parametrize("fate", ["killed before", "killed after", "fails", "answer lost"])
def test_whatever_happens_at_whichever_moment_a_whole_checkpoint_is_there(
    tmp_path: Path, fate: Fate
) -> None:
    """Every operation of a push is interrupted once, in every way."""
    for number in range(20):
        store = FolderStore(tmp_path / f"store-{number}")
        for step in (100, 200):
            push_checkpoint(store, checkpoint(tmp_path, step))
        count = 0

        def interrupted(operation: str, key: str, number: int = number) -> Fate:
            nonlocal count
            count += 1
            return fate if count == number + 1 else "well"

        try:
            push_checkpoint(ShakyStore(store, interrupted), checkpoint(tmp_path, 300))
        except (Killed, StoreError):
            newest = newest_checkpoint(store)
            assert newest is not None
            assert newest.step in (200, 300)
            assert len(checkpoints(store)) >= 2
            continue
        assert number >= 8, "fewer operations than a push has"
        return
    pytest.fail("a push has no end")
