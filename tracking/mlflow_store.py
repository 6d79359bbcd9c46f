"""MLflow as one of the places where a run is shown: the only module that knows it.

The MLflow run is derived from the ledger and the run's folder: it can be written again after a
loss, and writing it twice changes nothing. How far it came stands in tags of the MLflow run itself
(`stillhouse.synced_…`), so a sync goes on where the last one ended, whoever made that one.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recipes.errors import StillhouseError
from recipes.privacy import redacted
from recipes.rundir import RunDir, read_events, read_lines
from tracking.books import MLFLOW_RUN, Books
from tracking.entries import Noted, RunState
from tracking.home import Home
from tracking.ledger import Ledger
from tracking.locks import locked
from tracking.receipt import make_receipt
from tracking.series import (
    PREFIX,
    Meter,
    Point,
    event_points,
    params,
    result_points,
    shortened,
    tags,
)

STUDENT_LIMIT_BYTES = 2**30
"""A larger student is not copied; a tag says where it is."""

_BATCH = 990
"""Values a call: MLflow takes 1,000 things at most, tags included."""

_LONGEST_PARAM = 6000
_LONGEST_TAG = 5000

_RUN_ID = f"{PREFIX}run_id"
_SYNCED_BYTES = f"{PREFIX}synced_bytes"
"""How much of the run's events MLflow has."""
_SYNCED_API = f"{PREFIX}synced_api_micro_usd"
"""What the teacher's answers cost, up to there."""
_SYNCED_SEQ = f"{PREFIX}synced_seq"
"""The last ledger entry that MLflow knows of. Written last of all."""
_STUDENT = f"{PREFIX}student"
_STUDENT_OF = f"{PREFIX}student_of"
"""Which student was copied: when it was finished [unix seconds]."""

_STATUS: Mapping[RunState, str] = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}

_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # a run is nobody else's business
}
"""By default MLflow tries for many minutes. Whatever a person has set stays."""


class TrackerError(StillhouseError):
    """MLflow could not be written. The run, its ledger and its folder are not touched by that."""


def sync_run(
    home: Home,
    run_id: str,
    tracking_uri: str | None = None,
    student_limit_bytes: int = STUDENT_LIMIT_BYTES,
) -> str:
    """Bring the MLflow run of a run up to date. Returns its id in MLflow.

    Args:
        tracking_uri: where MLflow is; MLFLOW_TRACKING_URI if left out, else a database in the home.
        student_limit_bytes: a larger student is not copied.

    Raises:
        InvalidInputError: there is no such run, or a file of it is damaged.
        TrackerError: MLflow cannot be reached, or refuses.
    """
    run = home.run(run_id)
    with Ledger(home.ledger) as ledger:
        books = ledger.books(run_id)
        run.path.mkdir(parents=True, exist_ok=True)
        with locked(run.path / "mlflow.lock"), _mlflow(home, tracking_uri) as client:
            with locked(home.mlflow_lock):
                found = _find(client, home, books) or _create(client, home, books)
            mlflow_id: str = found.info.run_id
            if books.mlflow_run_id != mlflow_id:
                ledger.append(run_id, Noted(key=MLFLOW_RUN, value=mlflow_id))
                books = ledger.books(run_id)
            if not _is_up_to_date(found, books, run):
                _Writer(client, found, books, run).write(student_limit_bytes)
    return mlflow_id


def unsynced(home: Home, tracking_uri: str | None = None) -> list[str]:
    """Runs that MLflow does not have, or not whole; oldest first.

    Raises:
        TrackerError: MLflow cannot be reached.
    """
    with Ledger(home.ledger) as ledger:
        runs = ledger.runs()
    if not runs:
        return []
    with _mlflow(home, tracking_uri) as client:
        with locked(home.mlflow_lock):
            names = {books.recipe_name for books in runs}
            known = [client.get_experiment_by_name(name) for name in sorted(names)]
        active = [one.experiment_id for one in known if one and one.lifecycle_stage == "active"]
        written = {found.data.tags.get(_RUN_ID): found for found in _all_runs(client, active)}
    return [
        books.run_id
        for books in reversed(runs)
        if not (found := written.get(books.run_id))
        or not _is_up_to_date(found, books, home.run(books.run_id))
    ]


def reach(home: Home, tracking_uri: str | None = None) -> str:
    """Where MLflow is, once it has answered.

    Raises:
        TrackerError: it cannot be reached.
    """
    with _mlflow(home, tracking_uri) as client, locked(home.mlflow_lock):
        client.search_experiments(max_results=1)
        return redacted(str(client.tracking_uri))


# ---- what is written


class _Writer:
    """Writes what MLflow does not have yet of one run."""

    def __init__(self, client: Any, found: Any, books: Books, run: RunDir) -> None:
        self._client = client
        self._id = found.info.run_id
        self._info = found.info
        self._data = found.data
        self._books = books
        self._run = run

    def write(self, student_limit_bytes: int) -> None:
        self._write_params()
        self._tag(tags(self._books))
        self._write_events()
        if not self._data.tags.get(_SYNCED_SEQ):
            self._copy_files([self._run.recipe, self._run.plan])
        if self._books.open_attempt is None:
            self._write_results()
            self._copy_student(student_limit_bytes)
        self._set_status()
        self._tag({_SYNCED_SEQ: str(self._books.last_seq)})

    def _write_params(self) -> None:
        from mlflow.entities import Param

        wanted = params(self._books.opened.recipe, _LONGEST_PARAM)
        missing = [Param(*pair) for pair in wanted.items() if pair[0] not in self._data.params]
        for start in range(0, len(missing), 100):  # MLflow's limit
            self._client.log_batch(self._id, params=missing[start : start + 100])

    def _write_events(self) -> None:
        """Values and how far they reach go in one call, so that a break repeats a call at most."""
        from mlflow.entities import RunTag

        offset = self._synced(_SYNCED_BYTES)
        meter = Meter(self._books.attempts, self._synced(_SYNCED_API))
        points: list[Point] = []

        def flush() -> None:
            marks = {_SYNCED_BYTES: str(offset), _SYNCED_API: str(meter.api_micro_usd)}
            self._client.log_batch(
                self._id,
                metrics=_metrics(points),
                tags=[RunTag(*mark) for mark in marks.items()],
            )
            points.clear()

        for event, end in read_events(self._run.events, offset):
            new = list(event_points(event, meter))
            if len(points) + len(new) > _BATCH:
                flush()
            points += new
            offset = end
        if offset != self._synced(_SYNCED_BYTES):
            flush()

    def _write_results(self) -> None:
        receipt = make_receipt(self._books, self._run)
        had: Mapping[str, float] = self._client.get_run(self._id).data.metrics
        points = result_points(receipt, t=self._books.last_at)
        new = [point for point in points if had.get(point.key) != point.value]
        for start in range(0, len(new), _BATCH):
            self._client.log_batch(self._id, metrics=_metrics(new[start : start + _BATCH]))
        self._client.log_text(self._id, receipt.model_dump_json(indent=2), "receipt.json")
        run = self._run
        self._copy_files([run.recipe, run.plan, run.log, run.events, run.scores, run.done])

    def _copy_files(self, paths: Iterable[Path]) -> None:
        for path in paths:
            if path.exists():
                self._client.log_artifact(self._id, str(path))

    def _copy_student(self, limit_bytes: int) -> None:
        student = self._run.student
        if not student.is_dir():
            return
        finished = str(student.stat().st_mtime_ns)
        if self._data.tags.get(_STUDENT_OF) == finished:
            return
        size = sum(path.stat().st_size for path in student.rglob("*") if path.is_file())
        if size > limit_bytes:
            said = f"not copied: {size:,} bytes are above {limit_bytes:,}. It is in {student}"
        else:
            self._client.log_artifacts(self._id, str(student), "student")
            said = f"copied: {size:,} bytes"
        self._tag({_STUDENT: said, _STUDENT_OF: finished})

    def _set_status(self) -> None:
        books = self._books
        resting = books.over or (books.state == "interrupted" and books.open_attempt is None)
        if not resting:
            if self._info.status != "RUNNING":
                self._client.update_run(self._id, "RUNNING")
            return
        status = _STATUS.get(books.state, "KILLED")
        ended = _milliseconds(books.states[-1].at)
        if (self._info.status, self._info.end_time) != (status, ended):
            self._client.set_terminated(self._id, status, ended)

    def _tag(self, wanted: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        short = {name: shortened(value, _LONGEST_TAG) for name, value in wanted.items()}
        new = [RunTag(*tag) for tag in short.items() if self._data.tags.get(tag[0]) != tag[1]]
        if new:
            self._client.log_batch(self._id, tags=new)

    def _synced(self, tag: str) -> int:
        return int(self._data.tags.get(tag, 0))


def _metrics(points: Iterable[Point]) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(one.key, one.value, _milliseconds(one.t), one.step) for one in points]


def _milliseconds(t: float) -> int:
    return round(t * 1000)


# ---- where it is written


def _find(client: Any, home: Home, books: Books) -> Any | None:
    """The run as MLflow has it: by the ledger's note, else by its tag."""
    from mlflow.exceptions import MlflowException

    if books.mlflow_run_id:
        try:
            noted = client.get_run(books.mlflow_run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        else:
            ours = noted.data.tags.get(_RUN_ID) == books.run_id
            if ours and noted.info.lifecycle_stage == "active":
                return noted
    found = client.search_runs(
        [_experiment(client, home, books.recipe_name)],
        filter_string=f"tags.`{_RUN_ID}` = '{books.run_id}'",
        max_results=1,
    )
    return found[0] if found else None


def _create(client: Any, home: Home, books: Books) -> Any:
    return client.create_run(
        _experiment(client, home, books.recipe_name),
        start_time=_milliseconds(books.opened_at),
        tags={_RUN_ID: books.run_id},
        run_name=books.run_id,
    )


def _experiment(client: Any, home: Home, name: str) -> str:
    """Id of the experiment of that name; made where there is none."""
    found = client.get_experiment_by_name(name)
    if found is None:
        # A server knows where its artifacts go. A database of this machine, ours or one that
        # MLFLOW_TRACKING_URI names, would take the current folder.
        local = str(client.tracking_uri).startswith("sqlite:")
        location = home.mlflow_artifacts.as_uri() if local else None
        return str(client.create_experiment(name, artifact_location=location))
    if found.lifecycle_stage != "active":
        raise TrackerError(
            f"the experiment {name} was deleted in MLflow, so its runs cannot be written. To have "
            f"it back: `mlflow experiments restore --experiment-id {found.experiment_id}`"
        )
    return str(found.experiment_id)


def _all_runs(client: Any, experiments: list[str]) -> Iterator[Any]:
    token = None
    while experiments:
        page = client.search_runs(experiments, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _is_up_to_date(found: Any, books: Books, run: RunDir) -> bool:
    tags_there = found.data.tags
    if tags_there.get(_SYNCED_SEQ) != str(books.last_seq):
        return False
    offset = int(tags_there.get(_SYNCED_BYTES, 0))
    return next(read_lines(run.events, offset), None) is None


def _own_uri(home: Home) -> str:
    return f"sqlite:///{home.mlflow_db}"


@contextmanager
def _mlflow(home: Home, tracking_uri: str | None) -> Iterator[Any]:
    """A client that gives up soon, and whose failures are errors of ours."""
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or _own_uri(home)
    unset = {name: value for name, value in _PATIENCE.items() if name not in os.environ}
    os.environ.update(unset)
    try:
        from mlflow import MlflowClient

        for chatty in ("mlflow", "alembic"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        yield MlflowClient(tracking_uri=uri)
    except StillhouseError:
        raise
    except Exception as error:  # stores throw anything: HTTP, SQL, disk. Training goes on
        raise TrackerError(
            f"MLflow at {uri} cannot be written: {_first_line(error)}. The run itself is not "
            "touched by that; `still sync` tries again"
        ) from error
    finally:
        for name in unset:
            os.environ.pop(name, None)


def _first_line(error: Exception) -> str:
    lines = redacted(str(error)).strip().splitlines()
    return shortened(lines[0], 400) if lines else type(error).__name__
