"""A store between which and its user anything may happen, as a test says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from recipes.store import Entry, Store, StoreUnreachableError, Unfinished

Fate = Literal["well", "fails", "answer lost", "killed before", "killed after"]


class Killed(BaseException):
    """The process that used the store is no more."""


class ShakyStore:
    """Passes everything on to another store, or does not."""

    def __init__(
        self, store: Store, fate: Callable[[str, str], Fate] = lambda operation, key: "well"
    ) -> None:
        """
        Args:
            fate: of an operation (a method's name) on a key, asked each time.
        """
        self.inner = store
        self.fate = fate

    @property
    def url(self) -> str:
        return self.inner.url

    def _do(self, operation: str, key: str, do: Callable[[], Any]) -> Any:
        fate = self.fate(operation, key)
        if fate == "killed before":
            raise Killed
        if fate == "fails":
            raise StoreUnreachableError(f"{operation} {key} failed", "Try again.")
        result = do()
        if fate == "killed after":
            raise Killed
        if fate == "answer lost":
            raise StoreUnreachableError(f"{operation} {key} gave no answer", "Try again.")
        return result

    def put_file(self, path: Path, key: str) -> None:
        self._do("put_file", key, lambda: self.inner.put_file(path, key))

    def put_bytes(self, key: str, content: bytes, *, only_if_new: bool = False) -> bool:
        put = lambda: self.inner.put_bytes(key, content, only_if_new=only_if_new)  # noqa: E731
        return bool(self._do("put_bytes", key, put))

    def get_file(self, key: str, path: Path) -> None:
        self._do("get_file", key, lambda: self.inner.get_file(key, path))

    def get_bytes(self, key: str) -> bytes:
        return bytes(self._do("get_bytes", key, lambda: self.inner.get_bytes(key)))

    def entries(self, folder: str = "", start_after: str = "") -> list[Entry]:
        return list(self._do("entries", folder, lambda: self.inner.entries(folder, start_after)))

    def folders(self) -> list[str]:
        return list(self._do("folders", "", self.inner.folders))

    def exists(self, key: str) -> bool:
        return bool(self._do("exists", key, lambda: self.inner.exists(key)))

    def delete(self, key: str) -> None:
        self._do("delete", key, lambda: self.inner.delete(key))

    def unfinished(self, folder: str = "") -> list[Unfinished]:
        return list(self._do("unfinished", folder, lambda: self.inner.unfinished(folder)))

    def abort(self, upload: Unfinished) -> None:
        self._do("abort", upload.key, lambda: self.inner.abort(upload))
