"""What tells the content of a file or a folder from any other, whatever its name and its dates.

SHA-256 of every byte: about a second for 1 GB. Who asks again and again gives a folder in which the
digests of large files are remembered; then such a file is read once, and again when its dates, its
size or its inode have changed (also when a link to it was made or removed). A program can set the
date of a change, but not that of the inode's.
"""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from recipes.errors import InvalidInputError
from recipes.paths import with_paths
from recipes.recipe import Part, Recipe
from recipes.rundir import read_model, write_atomically

LARGE_BYTES = 2**24
"""Smaller files are read each time: that takes 20 ms at most."""

SETTLED_NS = 2_000_000_000
"""A file that was changed so shortly before it was read may change again within the same tick of
its dates: such a digest is not remembered [ns]."""


class _Remembered(Part):
    """What a large file was when it was read, and the digest of it."""

    size: int
    inode: int
    modified_ns: int
    changed_ns: int
    sha256: str


def input_fingerprints(recipe: Recipe, memory: Path | None = None) -> dict[str, str]:
    """Of each data file and model folder that a recipe names, by its field. Hub ids have none.

    Args:
        recipe: with its paths resolved.
        memory: a folder for what is remembered of large files.

    Raises:
        InvalidInputError: one of them cannot be read.
    """
    found: dict[str, str] = {}

    def note(field: str, path: str) -> str:
        try:
            source = Path(path)
            of = fingerprint if source.is_dir() else file_fingerprint
            found[field] = of(source, memory)
        except OSError as error:
            raise InvalidInputError(f"{field}: {path} cannot be read: {error.strerror}") from error
        return path

    with_paths(recipe, note, note)
    return found


def fingerprint(folder: Path, memory: Path | None = None) -> str:
    """Hash of the names and contents of all files below a folder.

    Raises:
        OSError: one of them cannot be read.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    all_of_them = {str(path.relative_to(folder)): file_fingerprint(path, memory) for path in files}
    return hashlib.sha256(json.dumps(all_of_them, sort_keys=True).encode()).hexdigest()


def file_fingerprint(path: Path, memory: Path | None = None) -> str:
    """Hash of a file's content.

    Raises:
        OSError: it cannot be read.
    """
    if memory is None or path.stat().st_size < LARGE_BYTES:
        return _read(path)
    kept = memory / f"{hashlib.sha256(bytes(path.resolve())).hexdigest()[:32]}.json"
    known = _remembered(kept)
    if known is not None and known == _as_it_is(path, known.sha256):
        return known.sha256
    before = _as_it_is(path, "")
    sha256 = _read(path)
    if before == _as_it_is(path, ""):
        with suppress(OSError):  # it saves time, and must never cost a run
            memory.mkdir(mode=0o700, parents=True, exist_ok=True)
            read = before.model_copy(update={"sha256": sha256})
            write_atomically(kept, read.model_dump_json().encode())
    return sha256


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _as_it_is(path: Path, sha256: str) -> _Remembered:
    """A file's dates at this moment, beside the digest that it had or has."""
    now = path.stat()
    return _Remembered(
        size=now.st_size,
        inode=now.st_ino,
        modified_ns=now.st_mtime_ns,
        changed_ns=now.st_ctime_ns,
        sha256=sha256,
    )


def _remembered(kept: Path) -> _Remembered | None:
    """`None` where nothing is, or where it was written too soon to be believed."""
    try:
        known = read_model(kept, _Remembered)
        settled = kept.stat().st_mtime_ns - known.changed_ns >= SETTLED_NS
    except (InvalidInputError, OSError):
        return None
    return known if settled else None
