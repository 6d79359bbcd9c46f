"""What strangers may have written, and what has to come of it: our own errors, or nothing wrong.

Each target takes any bytes and returns, or fails with an error that is not ours. `fuzz.py` gives
them what atheris thinks of; `test_targets.py` what is in `corpus/`, and what hypothesis thinks of.
"""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

from launcher.runs.attempts import how_it_ended
from launcher.runs.view import Watched, news
from recipes.errors import InvalidInputError, InvalidRecipeError
from recipes.loading import parse_recipe
from recipes.recipe import Recipe
from recipes.rundir import Limits, RunDir, Scores, attempt_events, read_events, read_model
from recipes.store import Entry, NotStoredError, StoreError, Unfinished, is_key
from recipes.stored_run import EventMirror, asked_to_save, claim, claimed_by, restore
from tracking.metering import machine_lines
from tracking.series import Meter, event_points

STARTED = 1_800_000_000.0

RECORD, VALUE = b"\x1e", b"\x1f"
"""What stands between two objects of a store, and between a key and its content."""


# ---- a recipe --------------------------------------------------------------------------------


def recipe(content: bytes) -> None:
    """A recipe's file: a recipe that can be handed on, or faults that any terminal can print."""
    faults: tuple[str, ...] = ()
    try:
        read = parse_recipe(content, "x.yaml")
        assert Recipe.model_validate_json(read.model_dump_json()) == read
    except InvalidRecipeError as error:
        faults = error.faults or ("nothing said",)
    for fault in faults:
        assert fault.startswith("x.yaml")
        assert fault.isprintable()
        assert len(fault) < 1000
        fault.encode()


# ---- events ----------------------------------------------------------------------------------


def events(content: bytes) -> None:
    """`events.jsonl` as it came home: shown, priced and plotted, or refused with its place."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        run = RunDir(Path(folder))
        run.events.write_bytes(content)
        with suppress(InvalidInputError):
            _use_events(run)


def _use_events(run: RunDir) -> None:
    watched = Watched("run", Decimal(5), Decimal("3.6"), STARTED)
    meter = Meter((), 0)
    for event, _ in read_events(run.events):
        watched = watched.see(event)
        (news(event) or "").encode()
        watched.line(STARTED + 10).encode()
        for point in event_points(event, meter):
            float(point.value)
    said = attempt_events(run, 1)
    how_it_ended(said)
    lines = machine_lines(said, 1, STARTED, STARTED + 3600, Decimal("3.6"))
    assert sum(lines.values()) == 3_600_000
    assert min(lines.values()) >= 0


# ---- a run store -----------------------------------------------------------------------------


def store(content: bytes) -> None:
    """A run store: brought home into its folder and nowhere else, or an error that names it."""
    objects = dict(_object(record) for record in content.split(RECORD))
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        (folder / "launcher").mkdir()
        (folder / "node").mkdir()
        launcher, node = RunDir(folder / "launcher/run"), RunDir(folder / "node/run")
        launcher.path.mkdir()
        _bring_home(_Objects(objects), launcher)
        _take_up(_Objects(objects), node)
        _read_results(launcher)
        assert {path.name for path in folder.iterdir()} == {"launcher", "node"}
        assert {path.name for path in folder.glob("*/*")} <= {"run"}
        assert not [path for path in folder.rglob("*") if path.is_symlink()]


def _object(record: bytes) -> tuple[str, bytes]:
    key, _, value = record.partition(VALUE)
    return key.decode(errors="replace"), value


def _bring_home(objects: "_Objects", run: RunDir) -> None:
    with suppress(StoreError):
        EventMirror(objects, run).fetch()


def _take_up(objects: "_Objects", run: RunDir) -> None:
    with suppress(StoreError):
        restore(objects, run, warn=lambda text: None)
        claimed_by(objects, after=1)
        claim(objects, 2)
        asked_to_save(objects, 2)


def _read_results(run: RunDir) -> None:
    readers: tuple[Callable[[], object], ...] = (
        run.read_recipe,
        lambda: read_model(run.limits, Limits),
        lambda: read_model(run.scores, Scores),
        lambda: list(read_events(run.events)),
    )
    for read in readers:
        with suppress(InvalidInputError):
            read()


class _Objects:
    """A bucket in memory, whose keys may be anything that S3 takes."""

    url = "s3://fuzz/run"

    def __init__(self, objects: Mapping[str, bytes]) -> None:
        self._objects = dict(objects)

    def put_bytes(self, key: str, content: bytes, *, only_if_new: bool = False) -> bool:
        self._objects[_checked(key)] = content
        return True

    def put_file(self, path: Path, key: str) -> None:
        self._objects[_checked(key)] = path.read_bytes()

    def get_bytes(self, key: str) -> bytes:
        try:
            return self._objects[_checked(key)]
        except KeyError as error:
            raise NotStoredError(f"{self.url}/{key} is not there", "Look.") from error

    def get_file(self, key: str, path: Path) -> None:
        path.write_bytes(self.get_bytes(key))

    def entries(self, folder: str = "", start_after: str = "") -> list[Entry]:
        below = f"{_checked(folder)}/" if folder else ""
        return [
            Entry(key, len(content))
            for key, content in sorted(self._objects.items())
            if key.startswith(below) and key > start_after
        ]

    def folders(self) -> list[str]:
        return sorted({key.partition("/")[0] for key in self._objects if "/" in key})

    def exists(self, key: str) -> bool:
        return _checked(key) in self._objects

    def delete(self, key: str) -> None:
        self._objects.pop(_checked(key), None)

    def unfinished(self, folder: str = "") -> list[Unfinished]:
        return []

    def abort(self, upload: Unfinished) -> None:
        raise AssertionError("there is none")


def _checked(key: str) -> str:
    if not is_key(key):
        raise ValueError(f"{key!r} is no key of a store")
    return key


def packed(objects: Mapping[str, bytes]) -> bytes:
    """Objects of a store as `store` takes them."""
    return RECORD.join(key.encode() + VALUE + value for key, value in objects.items())


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "recipe": recipe,
    "events": events,
    "store": store,
}
