"""Files that grow by whole lines, in a run store: `events.jsonl` and `traces.jsonl`.

    events/000000000000000.jsonl    a chunk: the lines from byte 0 of the whole on
    events/000000000004711.jsonl    the next one, from byte 4711 on

S3 cannot append, so lines are stored in chunks, each named by the byte at which it begins. A chunk
is put only where none is: of two machines that think they are at work, one comes first at each
place, and the sequence of chunks never forks. Whoever reads asks for chunks behind the bytes he
has, and gets every line once, in order.
"""

import fcntl
import mmap
import os
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from recipes.rundir import open_for_appending
from recipes.store import Store, StoreError

CHUNK_BYTES = 2**23
"""A chunk ends at the last line that begins and ends within this [bytes]; a longer line is one."""

_KEY = re.compile(r"[^/]+/(\d{15})\.jsonl")


class Chunk(NamedTuple):
    start: int
    """Its first byte in the whole."""
    end: int
    key: str


class LineSender:
    """Stores what is appended to a file. For one thread.

    Where it was is seen from what is stored, so that another one can go on at any time: behind the
    last stored chunk that is found in the file.
    """

    def __init__(
        self, store: Store, name: str, path: Path, on_other: Callable[[], None] = lambda: None
    ) -> None:
        """
        Args:
            name: the folder in the store.
            path: the file; it may not be there yet.
            on_other: called when somebody else has stored lines meanwhile; may raise, or return to
                go on behind them.
        """
        self._store = store
        self._name = name
        self._path = path
        self._on_other = on_other
        self._place: tuple[int, int] | None = None
        self._batch = b""

    def send(self) -> int:
        """Store all whole lines that are not stored yet; how many bytes that was.

        Raises:
            StoreError: it could not; the next call goes on where this one ended.
        """
        if self._place is None:
            self._place = self._find_place()
        sent = 0
        while self._fill_batch():
            sent += self._store_batch()
        return sent

    def _fill_batch(self) -> bool:
        # What failed to be stored is tried again unaltered: it may have been stored all the same.
        assert self._place is not None
        if not self._batch:
            self._batch = _whole_lines(self._path, self._place[0])
        return bool(self._batch)

    def _store_batch(self) -> int:
        assert self._place is not None
        here, end = self._place
        size = len(self._batch)
        while not self._put(end):
            self._on_other()
            end = _chunks(self._store, self._name, end)[-1].end
        self._place = here + size, end + size
        self._batch = b""
        return size

    def _put(self, at: int) -> bool:
        key = _key(self._name, at)
        if self._store.put_bytes(key, self._batch, only_if_new=True):
            return True
        # It may be our own, of a call whose answer was lost.
        return self._store.get_bytes(key) == self._batch

    def _find_place(self) -> tuple[int, int]:
        """The byte of the file from which nothing is stored yet, and that of the store."""
        chunks = _chunks(self._store, self._name)
        end = chunks[-1].end if chunks else 0
        if not self._path.exists() or self._path.stat().st_size == 0:
            return 0, end
        with (
            self._path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as here,
        ):
            for chunk in reversed(chunks):
                content = self._store.get_bytes(chunk.key)
                if here[chunk.start : chunk.end] == content:
                    return chunk.end, end
                # Not at its place, where somebody else's lines were stored between ours.
                if (found := here.find(content)) >= 0:
                    return found + len(content), end
        return 0, end


class LineReader:
    """Appends to a file what is new in a store. Several may do so on one file."""

    def __init__(self, store: Store, name: str, path: Path) -> None:
        """
        Args:
            name: the folder in the store.
            path: the file, which only readers write.
        """
        self._store = store
        self._name = name
        self._path = path
        self._chunk_end = 0

    def fetch(self) -> int:
        """Append all lines that are stored and not here yet; how many bytes that was.

        Raises:
            StoreError: it could not; what was appended stays, and the next call goes on behind it.
            OSError: there is no room here.
        """
        lock = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with closing(open_for_appending(self._path)) as file:
                start = have = file.tell()
                # Elsewhere the file may end within a chunk, cut off by a kill.
                after = have if have == self._chunk_end else 0
                for chunk in _chunks(self._store, self._name, after):
                    if chunk.end > have:
                        file.write(_read(self._store, chunk, have))
                        have = chunk.end
                file.flush()
                if have > start:
                    os.fsync(file.fileno())
                self._chunk_end = have
                return have - start
        finally:
            os.close(lock)


def agrees(store: Store, name: str, path: Path) -> bool:
    """Whether a file is a beginning of what is stored, or goes on where that ends.

    Its torn last line is dropped. Of the rest, the last stored chunk that begins within it is
    compared.
    """
    with closing(open_for_appending(path)) as file:
        size = file.tell()
        begun = [chunk for chunk in _chunks(store, name) if chunk.start < size]
        if not begun:
            return True
        content = store.get_bytes(begun[-1].key)
        file.seek(begun[-1].start)
        return content.startswith(file.read(len(content)))


def _key(name: str, start: int) -> str:
    return f"{name}/{start:015d}.jsonl"


def _chunks(store: Store, name: str, start: int = 0) -> list[Chunk]:
    """Stored chunks from byte `start` on, in order."""
    after = _key(name, start - 1) if start else ""
    found = []
    for entry in store.entries(name, after):
        if match := _KEY.fullmatch(entry.key):
            begin = int(match[1])
            found.append(Chunk(begin, begin + entry.size_bytes, entry.key))
    return found


def _whole_lines(path: Path, start: int) -> bytes:
    """Whole lines from byte `start`: as many as fit into a chunk, or one."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return b""
    with file:
        file.seek(start)
        content = file.read(CHUNK_BYTES)
        whole = content.rfind(b"\n") + 1
        if whole or len(content) < CHUNK_BYTES:
            return content[:whole]
        content += file.readline()
        return content if content.endswith(b"\n") else b""


def _read(store: Store, chunk: Chunk, start: int) -> bytes:
    """The bytes of a chunk from byte `start` of the whole on."""
    if start < chunk.start:
        raise StoreError(
            f"{store.url}/{chunk.key} does not follow on what was before it: "
            f"bytes {start:,} to {chunk.start:,} are missing",
            "Something was deleted there; restore it, or give this run up.",
        )
    content = store.get_bytes(chunk.key)
    if len(content) != chunk.end - chunk.start or not content.endswith(b"\n"):
        raise StoreError(f"{store.url}/{chunk.key} is damaged", "Restore it, or give this run up.")
    return content[start - chunk.start :]
