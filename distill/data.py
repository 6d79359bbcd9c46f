"""From a recipe's `data` to rows: where they come from, and how a row becomes a prompt.

Reads JSONL, Parquet, a dataset on the hub, or makes the problems itself. Everything is checked
here, and a fault names file, line and column. A worker reads all data, those of the tasks too,
before its first stage (`distill.ahead`): nothing is paid by then but a machine that was rented.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from distill.additions import additions
from distill.context import WorkerError
from recipes.recipe import Data, GeneratedData, HubData, JsonlData, ParquetData, template_columns

MAX_BYTES = 8 * 2**30
"""Most that is read of one file [bytes]; rows are held in memory."""

MAX_LINE_BYTES = 64 * 2**20
"""Longest line of a JSONL file [bytes]."""

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One prompt, and what is to be answered where the data say so."""

    index: int
    """Position in the data, from 0."""
    system: str | None
    prompt: str
    completion: str | None


def load_rows(data: Data, folder: Path) -> list[Row]:
    """All rows of `data`, at most `data.rows` of them.

    Args:
        folder: where relative paths start.

    Raises:
        WorkerError: code `data`; names the file and, where it is in one, the line and the column.
    """
    needed = tuple(dict.fromkeys(_columns(data)))
    records = islice(_records(data, folder, needed), data.rows)
    rows = [_row(data, index, where, record) for index, (where, record) in enumerate(records)]
    if not rows:
        raise _fault(f"{_name(data)} has no rows", "Give at least one.")
    return rows


def _fault(message: str, remedy: str) -> WorkerError:
    return WorkerError("data", message, remedy)


def _name(data: Data) -> str:
    match data:
        case JsonlData() | ParquetData():
            return data.path
        case HubData():
            return f"{data.dataset} ({data.split})"
        case GeneratedData():
            return f"{data.generator} of {data.digits} digits ({data.part})"


# ---- a record becomes a row ------------------------------------------------------------------


def _columns(data: Data) -> Iterator[str]:
    yield from template_columns(data.prompt)
    if data.completion is not None:
        yield from template_columns(data.completion)


def _row(data: Data, index: int, where: str, record: Record) -> Row:
    prompt = _fill("prompt", data.prompt, where, record)
    completion = None
    if data.completion is not None:
        completion = _fill("completion", data.completion, where, record)
    return Row(index, data.system, prompt, completion)


def _fill(field: str, template: str, where: str, record: Record) -> str:
    columns = {name: _text(name, where, record) for name in template_columns(template)}
    text = template.format_map(columns)
    if not text.strip():
        raise _fault(f"{where}: the {field} is empty", "Fill it in, or leave the row out.")
    return text


def _text(column: str, where: str, record: Record) -> str:
    """A value as it stands in a prompt: text, or a number as Python writes it."""
    if column not in record:
        raise _no_column(column, where, record)
    value = record[column]
    if isinstance(value, str):
        return _checked_text(column, where, value)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and math.isfinite(value):
        return str(value)
    what = "null" if value is None else f"{type(value).__name__} {value!r:.40}"
    raise _fault(
        f"{where}: column {column!r} must be text or a number, is {what}",
        "Fill it in, or leave the row out.",
    )


def _no_column(column: str, where: str, there: Iterable[str]) -> WorkerError:
    return _fault(
        f"{where}: there is no column {column!r}; the columns are {', '.join(there) or 'none'}",
        "Change the template in data.prompt or data.completion, or the data.",
    )


def _checked_text(column: str, where: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _fault(
            f"{where}: column {column!r} holds half a character "
            f"(a lone surrogate) at position {error.start}",
            "Write the text anew as UTF-8.",
        ) from error
    return text


# ---- where records come from -----------------------------------------------------------------


def _records(data: Data, folder: Path, needed: tuple[str, ...]) -> Iterable[tuple[str, Record]]:
    """Records, each with words for where it stands."""
    match data:
        case JsonlData():
            return read_jsonl(folder / data.path)
        case ParquetData():
            return read_parquet(folder / data.path, needed)
        case HubData():
            return _read_hub(data)
        case GeneratedData():
            return _generate(data)


def read_jsonl(path: Path, max_bytes: int = MAX_BYTES) -> Iterator[tuple[str, Record]]:
    """The objects of a JSONL file; blank lines are passed over.

    Raises:
        WorkerError: the file cannot be read or is above `max_bytes`; a line is no JSON object.
    """
    read = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
                read += len(line)
                where = f"{path}:{number}"
                if len(line) > MAX_LINE_BYTES or read > max_bytes:
                    raise _too_big(where, max_bytes)
                if line.strip():
                    yield where, _parse(where, line.removeprefix(b"\xef\xbb\xbf"))
    except OSError as error:
        raise _unreadable(path, error) from error


def _parse(where: str, line: bytes) -> Record:
    try:
        record = json.loads(line.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise _fault(
            f"{where}: byte {error.start + 1} of the line is not UTF-8", "Save the file as UTF-8."
        ) from error
    except (ValueError, RecursionError) as error:
        shown = line[:60].decode(errors="replace").strip()
        raise _fault(
            f"{where}: not JSON ({error}): {shown}", "A JSONL file has one JSON object a line."
        ) from error
    if not isinstance(record, dict):
        raise _fault(
            f"{where}: must be an object {{...}}, is {type(record).__name__}",
            "A JSONL file has one JSON object a line.",
        )
    return record


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def read_parquet(
    path: Path, needed: tuple[str, ...], max_bytes: int = MAX_BYTES
) -> Iterator[tuple[str, Record]]:
    """The rows of a Parquet file; only the `needed` columns are read.

    Raises:
        WorkerError: the file cannot be read, is larger than `max_bytes`, or lacks a column.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        if path.stat().st_size > max_bytes:
            raise _too_big(str(path), max_bytes)
        with parquet.ParquetFile(path) as file:
            there = file.schema_arrow.names
            for name in needed:
                if name not in there:
                    raise _no_column(name, str(path), there)
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=list(needed)):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path} row {number}", record
    except OSError as error:
        raise _unreadable(path, error) from error
    except pa.ArrowException as error:
        raise _fault(f"{path} is not a Parquet file: {error}", "Write it anew.") from error


def _read_hub(data: HubData) -> Iterator[tuple[str, Record]]:
    import datasets

    try:
        dataset = datasets.load_dataset(
            data.dataset, data.config, split=data.split, revision=data.revision
        )
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise _fault(
            f"dataset {data.dataset} at {data.revision} cannot be loaded: {error}",
            "Check data.dataset, data.config, data.split and data.revision, and the network.",
        ) from error
    for number, record in enumerate(dataset, 1):
        yield f"{data.dataset} ({data.split}) row {number}", record


def _generate(data: GeneratedData) -> Iterator[tuple[str, Record]]:
    problems = additions(digits=data.digits, part=data.part, seed=data.seed)
    made = 0
    for made, problem in enumerate(islice(problems, data.rows), 1):
        yield (
            f"{data.generator} {made}",
            {"question": problem.question, "working": problem.working, "answer": problem.answer},
        )
    if made < data.rows:
        raise _fault(
            f"there are only {made} {data.generator} of {data.digits} digits in part "
            f"{data.part}, and data.rows asks for {data.rows}",
            "Lower data.rows, or raise data.digits.",
        )


def _unreadable(path: Path, error: OSError) -> WorkerError:
    return _fault(
        f"{path} cannot be read: {error.strerror or error}", "Check data.path in the recipe."
    )


def _too_big(where: str, max_bytes: int) -> WorkerError:
    return _fault(
        f"{where}: more than {max_bytes / 2**30:g} GiB, or a line above "
        f"{MAX_LINE_BYTES / 2**20:g} MiB",
        "Rows are held in memory: split the file, or take fewer with data.rows.",
    )
