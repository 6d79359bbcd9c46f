"""The run store: real keys and bytes in memory, and whatever may come between."""

from pathlib import Path

from shaky_store import Fate, ShakyStore

from recipes.store import Entry, NotStoredError, Unfinished
from simulated.world import Outages, World


class MemoryStore:
    """A `recipes.store.Store` that is always there."""

    url = "s3://simulated/run"

    def __init__(self) -> None:
        self._stored: dict[str, bytes] = {}

    def put_file(self, path: Path, key: str) -> None:
        self._stored[key] = path.read_bytes()

    def put_bytes(self, key: str, content: bytes, *, only_if_new: bool = False) -> bool:
        if only_if_new and key in self._stored:
            return False
        self._stored[key] = content
        return True

    def get_file(self, key: str, path: Path) -> None:
        path.write_bytes(self.get_bytes(key))

    def get_bytes(self, key: str) -> bytes:
        if key not in self._stored:
            raise NotStoredError(f"{key} is not there", "Look for another.")
        return self._stored[key]

    def entries(self, folder: str = "", start_after: str = "") -> list[Entry]:
        below = f"{folder}/" if folder else ""
        return sorted(
            Entry(key, len(content))
            for key, content in self._stored.items()
            if key.startswith(below) and key > start_after
        )

    def folders(self) -> list[str]:
        return sorted({key.partition("/")[0] for key in self._stored if "/" in key})

    def exists(self, key: str) -> bool:
        return key in self._stored

    def delete(self, key: str) -> None:
        for known in list(self._stored):
            if known == key or known.startswith(f"{key}/"):
                del self._stored[known]

    def unfinished(self, folder: str = "") -> list[Unfinished]:
        return []

    def abort(self, upload: Unfinished) -> None:
        raise NotStoredError(upload.key, "Uploads to memory are never unfinished.")


class StoreInTheWorld:
    """The store as a launcher and as a worker see it: each call may fail, for either alone."""

    def __init__(self, world: World, inner: MemoryStore) -> None:
        self._world = world
        self.inner = inner
        self.outages = Outages(world.chance, 3600, longest_s=1200)
        if "absent store" not in world.troubles:
            self.outages.end()

    def for_launcher(self) -> ShakyStore:
        return ShakyStore(self.inner, self._with_boundaries)

    def for_worker(self) -> ShakyStore:
        return ShakyStore(self.inner, self._fate)

    def _with_boundaries(self, operation: str, key: str) -> Fate:
        self._world.boundary(f"before {operation} {key}")
        fate = self._fate(operation, key)
        if fate == "fails":
            self._world.pass_time(1.0)
        return fate

    def _fate(self, operation: str, key: str) -> Fate:
        if self.outages.now(self._world.now):
            return "fails"
        if self._world.happens("failing store", 0.04):
            fate: Fate = self._world.chance.choice(("fails", "answer lost"))
            self._world.tell(f"the store: {operation} {key} {fate}")
            return fate
        return "well"
