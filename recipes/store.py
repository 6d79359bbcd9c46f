"""The run store: where a run's files live besides the machine's own disk.

A local folder, or `s3://bucket/prefix` at any S3-compatible endpoint; for those who use them both
are the same: names (keys) with `/` in them that stand for bytes. What is put is there whole or not
at all, and seen by whoever looks next. What is kept there of a run, and how:

    store.py              what a store is, and the folder
    store_s3.py           S3
    store_trees.py        folders with a manifest
    store_checkpoints.py  the last two checkpoints
    store_lines.py        files that grow, line by line
    stored_run.py         the whole of a run, and how it is brought home
"""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

from recipes.errors import InvalidInputError, StillhouseError
from recipes.rundir import sync_folder

PATIENCE_S = 90.0
"""How long a store that does not answer is asked again [s] …"""

WHILE_SOMEBODY_WAITS_S = 10.0
"""… and while a person waits for it [s]."""

MOST_BYTES_AT_ONCE = 2**28
"""Largest object that is read into memory [bytes]: a stranger may have written it."""


class StoreError(StillhouseError):
    """The run store did not do what was asked of it."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what, remedy)
        self.what, self.remedy = self.args

    def __str__(self) -> str:
        return f"{self.what}. {self.remedy}"


class StoreUnreachableError(StoreError):
    """It gave no answer, or said that it is busy: this passes, and asking again makes sense."""


class NotStoredError(StoreError):
    """Nothing is stored under that key."""


class Entry(NamedTuple):
    """Something that is stored."""

    key: str
    size_bytes: int


class Unfinished(NamedTuple):
    """An upload that was begun and never ended. S3 charges for its parts until it is aborted."""

    key: str
    upload: str
    """What tells it from other uploads to the same key."""


class Store(Protocol):
    """Bytes under keys. Safe to use from several threads and processes.

    Every method may raise StoreError, which says what to do; StoreUnreachableError once the store
    has not answered for as long as it has patience.
    """

    @property
    def url(self) -> str:
        """What `open_store` takes; never holds credentials."""

    def put_file(self, path: Path, key: str) -> None:
        """Store a file, in place of what is there.

        Raises:
            OSError: the file cannot be read.
        """

    def put_bytes(self, key: str, content: bytes, *, only_if_new: bool = False) -> bool:
        """Store `content`; whether it was. Not, if `only_if_new` and the key is taken."""

    def get_file(self, key: str, path: Path) -> None:
        """Write to `path`, synced, whole or not at all.

        Raises:
            NotStoredError: nothing is there.
        """

    def get_bytes(self, key: str) -> bytes:
        """
        Raises:
            NotStoredError: nothing is there.
        """

    def entries(self, folder: str = "", start_after: str = "") -> list[Entry]:
        """Everything below `folder`, by key; only what comes after the key `start_after`."""

    def folders(self) -> list[str]:
        """Names of the folders at the top."""

    def exists(self, key: str) -> bool:
        """Whether something is stored under this key."""

    def delete(self, key: str) -> None:
        """Delete what is stored under this key, and everything below it; it may be nothing."""

    def unfinished(self, folder: str = "") -> list[Unfinished]:
        """Uploads below `folder` that were begun and not ended, those under way among them."""

    def abort(self, upload: Unfinished) -> None:
        """End such an upload; if it was under way, it fails."""

    def clock(self) -> float | None:
        """What time it is there, cut to a second [unix s]; `None` where it does not say."""


def open_store(
    url: str, environ: Mapping[str, str] = os.environ, patience_s: float = PATIENCE_S
) -> Store:
    """The store of this URL; nothing is asked of it yet.

    Args:
        url: a folder, or `s3://bucket/prefix`.
        patience_s: how long one that does not answer is asked again [s].
        environ: AWS_ENDPOINT_URL says where S3 is, if not at AWS. Credentials are found by boto3:
            environment, its own files, or the machine's role.

    Raises:
        InvalidInputError: it is neither.
    """
    if "@" in url:
        raise InvalidInputError(
            "a run store's URL holds no user and no key (there is an @ in it): leave them out, "
            "boto3 finds credentials by itself"
        )
    shown = url.partition("?")[0]  # behind it a signature may stand
    scheme, separator, rest = url.partition("://")
    if not separator:
        return FolderStore(_folder(url))
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]", bucket):
        raise InvalidInputError(
            f"{shown} is no run store: it has to be a folder, or s3://bucket/prefix with 3 to 63 "
            "letters, digits, dots or dashes for the bucket. For another S3-compatible service "
            "keep s3:// and set AWS_ENDPOINT_URL."
        )
    prefix = prefix.strip("/")
    if prefix and not is_key(prefix):
        raise InvalidInputError(f"{shown} is no run store: its prefix has to be plain names with /")
    from recipes.store_s3 import Patience, connect

    return connect(bucket, prefix, environ, Patience(limit_s=patience_s))


def is_key(key: str) -> bool:
    """Whether this can be a key: plain names with `/` between them, which lead nowhere else."""
    plain = all(
        name and name not in (".", "..") and name.isprintable() and not _ASIDE.fullmatch(name)
        for name in key.split("/")
    )
    return plain and len(key.encode()) <= 900


def _folder(text: str) -> Path:
    path = Path(text).expanduser().absolute()
    if not text or (path.exists() and not path.is_dir()):
        raise InvalidInputError(f"{text or 'an empty text'} is no run store: it is no folder")
    return path


# ---- a folder --------------------------------------------------------------------------------

_ASIDE = re.compile(r"\.(.+)\.([0-9a-f]{16})\.tmp")


class FolderStore:
    """A store in a folder, which is made when something is first put: written aside, synced, named.

    Several machines may share it over a network file system that has hard links.
    """

    def __init__(self, path: Path) -> None:
        self._root = path

    @property
    def url(self) -> str:
        return str(self._root)

    def put_file(self, path: Path, key: str) -> None:
        with path.open("rb") as source, self._written_aside(key) as (aside, final):
            with aside.open("xb") as target:
                shutil.copyfileobj(source, target, 2**20)
                _sync(target.fileno())
            os.replace(aside, final)

    def put_bytes(self, key: str, content: bytes, *, only_if_new: bool = False) -> bool:
        with self._written_aside(key) as (aside, final):
            with aside.open("xb") as target:
                target.write(content)
                target.flush()
                _sync(target.fileno())
            if not only_if_new:
                os.replace(aside, final)
                return True
            try:
                # Unlike a rename, a link fails where somebody was first.
                os.link(aside, final)
            except FileExistsError:
                return False
            return True

    def get_file(self, key: str, path: Path) -> None:
        aside = aside_of(path)
        try:
            with self._explained(key):
                source = self._path(key).open("rb")
            with source, aside.open("xb") as target:
                shutil.copyfileobj(source, target, 2**20)
                _sync(target.fileno())
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)

    def get_bytes(self, key: str) -> bytes:
        with self._explained(key), self._path(key).open("rb") as file:
            refuse_if_too_large(f"{self.url}/{key}", os.fstat(file.fileno()).st_size)
            return file.read()

    def entries(self, folder: str = "", start_after: str = "") -> list[Entry]:
        found = []
        with self._explained(folder):
            for path in self._files(folder):
                key = path.relative_to(self._root).as_posix()
                if key > start_after and not _ASIDE.fullmatch(path.name):
                    with _unless_gone():
                        found.append(Entry(key, path.stat().st_size))
        return sorted(found)

    def folders(self) -> list[str]:
        if not self._root.exists():
            return []
        with self._explained(""):
            return sorted(path.name for path in self._root.iterdir() if path.is_dir())

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._explained(key):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def unfinished(self, folder: str = "") -> list[Unfinished]:
        found = []
        with self._explained(folder):
            for path in self._files(folder):
                if aside := _ASIDE.fullmatch(path.name):
                    key = path.with_name(aside[1]).relative_to(self._root).as_posix()
                    found.append(Unfinished(key, aside[2]))
        return sorted(found)

    def abort(self, upload: Unfinished) -> None:
        final = self._path(upload.key)
        with self._explained(upload.key):
            final.with_name(f".{final.name}.{upload.upload}.tmp").unlink(missing_ok=True)

    def clock(self) -> None:
        return None

    def _path(self, key: str) -> Path:
        if not is_key(key):
            raise ValueError(f"{key!r} is no key of a store")
        return self._root / key

    def _files(self, folder: str) -> Iterator[Path]:
        for where, _, names in os.walk(self._path(folder) if folder else self._root):
            for name in names:
                yield Path(where, name)

    @contextmanager
    def _written_aside(self, key: str) -> Iterator[tuple[Path, Path]]:
        final = self._path(key)
        aside = aside_of(final)
        with self._explained(key):
            _make_folder(final.parent)
            try:
                yield aside, final
                sync_folder(final.parent)
            finally:
                aside.unlink(missing_ok=True)

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _explanation(error, f"{self.url}/{key}".rstrip("/")) from error


def aside_of(path: Path) -> Path:
    """A name beside `path` that nobody else uses, to write under until it is whole."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def refuse_if_too_large(what: str, size_bytes: int) -> None:
    """
    Raises:
        StoreError: it is larger than what is read into memory.
    """
    if size_bytes > MOST_BYTES_AT_ONCE:
        raise StoreError(
            f"{what} has {size_bytes:,} bytes, and no more than {MOST_BYTES_AT_ONCE:,} are read",
            "It is not of stillhouse's making: look where it comes from.",
        )


def _sync(descriptor: int) -> None:
    os.fchmod(descriptor, 0o600)
    os.fsync(descriptor)


def _make_folder(path: Path) -> None:
    """Make a folder and those above it, so that they last."""
    if path.is_dir():
        return
    _make_folder(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    sync_folder(path.parent)


@contextmanager
def _unless_gone() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        return


def _explanation(error: OSError, where: str) -> StoreError:
    what = f"the run store at {where} failed: {error.strerror or error}"
    match error.errno:
        case errno.ENOENT:
            return NotStoredError(f"{where} is not there", "Look whether the run store is right.")
        case errno.ENOSPC | errno.EDQUOT:
            return StoreError(what, "Make room there.")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return StoreError(what, "Allow this user to write there, or name another run store.")
        case errno.ENOTDIR | errno.EISDIR | errno.EEXIST:
            return StoreError(what, "Name a folder of its own for the run store.")
        case _:
            return StoreError(what, "Look whether its disk, or the network to it, is all right.")
