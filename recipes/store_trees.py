"""Folders in a run store: there whole or not at all, and replaced in one step.

    student/complete                               the manifest: every file, its size, its sha256
    student/6f0c1d2a9e8b7a65/model.safetensors     a file, below the start of its sha256

The manifest is written last; what it does not name does not count, and a tree without a manifest
does not exist. A tree that is stored anew lies beside the old one until its manifest is there.
"""

import hashlib
import os
import shutil
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError

from recipes.recipe import Part
from recipes.rundir import sync_folder
from recipes.store import NotStoredError, Store, StoreError, is_key

MANIFEST = "complete"

SMALL_BYTES = 2**20
"""Files up to this are compared by their content, and larger ones by their size [bytes]."""


LONGEST_NAME = 200
"""Of a file or folder; file systems take 255, and a file has more in its name until it is whole
[bytes]."""


class DamagedError(StoreError):
    """What is stored is not what its manifest says."""


def _plain(path: str) -> str:
    if not is_key(path):
        raise ValueError("leads out of its folder")
    if any(len(name.encode()) > LONGEST_NAME for name in path.split("/")):
        raise ValueError("is longer than the name of a file may be")
    return path


def _apart(files: "tuple[StoredFile, ...]") -> "tuple[StoredFile, ...]":
    """No two of one name, and none that would be the folder of another."""
    paths = {file.path for file in files}
    above = {parent.as_posix() for path in paths for parent in PurePosixPath(path).parents}
    if len(paths) < len(files) or paths & above:
        raise ValueError("has two files in one place")
    return files


class StoredFile(Part):
    path: Annotated[str, AfterValidator(_plain)]
    """In the folder, with `/`."""
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Tree(Part):
    """A manifest."""

    version: Literal[1] = 1
    files: Annotated[tuple[StoredFile, ...], AfterValidator(_apart)]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def put_tree(store: Store, folder: Path, name: str) -> Tree:
    """Store the files of `folder` as the tree `name`, in place of what it was.

    Raises:
        StoreError: one of them changed meanwhile; the tree is what it was.
        OSError: one of them cannot be read, or there is no such folder.
    """
    before = _looks(folder)
    tree = Tree(files=tuple(_described(folder, path) for path in before))
    for file in tree.files:
        store.put_file(folder / file.path, _key(name, file))
    if _looks(folder) != before:
        raise StoreError(f"{folder} changed while it was stored", "It has to be stored again.")
    store.put_bytes(f"{name}/{MANIFEST}", tree.model_dump_json(indent=2).encode())
    wanted = {_key(name, file) for file in tree.files} | {f"{name}/{MANIFEST}"}
    for entry in store.entries(name):
        if entry.key not in wanted:
            store.delete(entry.key)
    return tree


def read_tree(store: Store, name: str) -> Tree | None:
    """The manifest of a tree; `None` where there is none, or a torn one."""
    try:
        return Tree.model_validate_json(store.get_bytes(f"{name}/{MANIFEST}"))
    except (NotStoredError, ValidationError):
        return None


def whole_tree(store: Store, name: str) -> Tree | None:
    """The same, if all its files are stored too, judged by their sizes."""
    tree = read_tree(store, name)
    sizes = dict(store.entries(name)) if tree else {}
    if tree and all(sizes.get(_key(name, file)) == file.size_bytes for file in tree.files):
        return tree
    return None


def holds(store: Store, folder: Path, name: str) -> bool:
    """Whether the tree `name` is whole and like this folder."""
    tree = whole_tree(store, name)
    return tree is not None and is_like(folder, tree)


def is_like(folder: Path, tree: Tree, *, thorough: bool = False) -> bool:
    """Whether a folder has the files of a manifest; large ones are only read if `thorough`."""
    if not folder.is_dir() or {file.path for file in tree.files} != set(_looks(folder)):
        return False
    return all(_is_file(folder, file, thorough) for file in tree.files)


def get_tree(store: Store, name: str, into: Path) -> Tree:
    """Bring a tree home as the folder `into`, in place of what stands there.

    Every file is checked before anything is replaced.

    Raises:
        NotStoredError: there is no such tree.
        DamagedError: a file is missing, or is not what the manifest says.
        OSError: there is no room here.
    """
    tree = read_tree(store, name)
    if tree is None:
        raise NotStoredError(f"{store.url}/{name} is not there, or not whole", "Look for another.")
    aside = into.with_name(f".{into.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        _fetch(store, name, tree, aside)
    except (NotStoredError, DamagedError) as error:
        shutil.rmtree(aside)
        if read_tree(store, name) != tree:  # replaced while it was fetched
            return get_tree(store, name, into)
        raise DamagedError(
            f"{store.url}/{name} is damaged: {error.what}", "Take another."
        ) from error
    _put_in_place(aside, into)
    return tree


def _key(name: str, file: StoredFile) -> str:
    return f"{name}/{file.sha256[:16]}/{file.path}"


def _looks(folder: Path) -> dict[str, tuple[int, int]]:
    """Size [bytes] and time of the last change [ns] of each file, by path."""
    folder.stat()
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _described(folder: Path, path: str) -> StoredFile:
    with (folder / path).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return StoredFile(path=path, size_bytes=os.fstat(file.fileno()).st_size, sha256=sha256)


def _is_file(folder: Path, file: StoredFile, thorough: bool) -> bool:
    if thorough or file.size_bytes <= SMALL_BYTES:
        return _described(folder, file.path) == file
    return (folder / file.path).stat().st_size == file.size_bytes


def _fetch(store: Store, name: str, tree: Tree, aside: Path) -> None:
    aside.mkdir(mode=0o700, parents=True)
    for file in tree.files:
        path = aside / file.path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        store.get_file(_key(name, file), path)
        if _described(aside, file.path) != file:
            raise DamagedError(f"{file.path} is not what its manifest says", "Take another.")
    for path in (aside, *aside.rglob("*")):
        if path.is_dir():
            sync_folder(path)


def _put_in_place(aside: Path, into: Path) -> None:
    old = into.with_name(f".{into.name}.old.tmp")
    shutil.rmtree(old, ignore_errors=True)
    if into.exists():
        os.replace(into, old)
    os.replace(aside, into)
    sync_folder(into.parent)
    shutil.rmtree(old, ignore_errors=True)
