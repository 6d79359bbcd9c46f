"""What has to be known of a recipe's data and models before it is priced: read, never guessed.

The edge of the planner: local files are opened here, and nothing is fetched. What cannot be known
without paying is taken from the recipe; what the recipe does not say either is refused.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from string import Formatter
from typing import Any

from launcher.estimate.models import ModelFacts, find_model, read_config
from launcher.estimate.quantiles import Quantiles
from launcher.plans.work_of import Facts, Rows
from recipes.errors import InvalidInputError, RefusedError
from recipes.fingerprints import input_fingerprints
from recipes.recipe import (
    Data,
    GeneratedData,
    HubData,
    JsonlData,
    ModelTeacher,
    NewStudent,
    ParquetData,
    Recipe,
    template_columns,
)

BYTES_A_TOKEN = Quantiles(3.0, 4.0, 5.0)
"""Of text, in the vocabularies of large models: mathematics and code less, plain English more."""

BYTES_A_TOKEN_ON_THE_HUB = 4
"""Where only a number of tokens is known, and bytes are asked for."""


def read_facts(recipe: Recipe, memory: Path | None = None) -> Facts:
    """The facts of a recipe whose paths are absolute.

    Args:
        memory: a folder for what is remembered of large files, so that each is hashed once.

    Raises:
        RefusedError: something cannot be known before paying, and the recipe does not say it.
        InvalidInputError: a file or a config cannot be read.
    """
    by_character = isinstance(recipe.student, NewStudent)
    teacher = recipe.teacher
    return Facts(
        rows=_rows(recipe.data, "data", by_character),
        tasks=tuple(
            _rows(task.data, f"evaluation.{number}.data", by_character)
            for number, task in enumerate(recipe.evaluation)
        ),
        student=student_facts(recipe),
        teacher=_model(teacher.model, "teacher.model")
        if isinstance(teacher, ModelTeacher)
        else None,
        inputs=input_fingerprints(recipe, memory),
    )


def student_facts(recipe: Recipe) -> ModelFacts:
    """The facts of its student alone.

    Raises:
        RefusedError: the student's size is not known.
        InvalidInputError: its config cannot be read.
    """
    student = recipe.student
    if isinstance(student, NewStudent):
        return _new_model(student)
    return _model(student.model, "student.model")


# ---- models ----------------------------------------------------------------------------------


def _model(name: str, field: str) -> ModelFacts:
    """A common model, or a folder's own config.

    Raises:
        RefusedError: a model on the hub that is not in our table.
        InvalidInputError: a folder whose config cannot be read.
    """
    known = find_model(name)
    if known is not None:
        return known
    folder = Path(name)
    if not folder.is_absolute():
        raise RefusedError(
            f"{field}: the size of {name} is unknown, so no machine can be priced for it. "
            f"Nothing was started. Give a folder with its config.json as {field} (that is enough "
            "to plan), or take a model that is in launcher/estimate/models.csv"
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{field}: {folder}/config.json cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise InvalidInputError(f"{field}: {folder}/config.json must hold an object {{...}}")
    return read_config(config, name)


def _new_model(student: NewStudent) -> ModelFacts:
    """A student that is made on the spot: Qwen3, one token a character and three more."""
    return read_config(
        {
            "model_type": "qwen3",
            "vocab_size": len(student.characters) + 3,
            "hidden_size": student.hidden_size,
            "intermediate_size": student.intermediate_size,
            "num_hidden_layers": student.layers,
            "num_attention_heads": student.heads,
            "num_key_value_heads": student.heads,
            "head_dim": student.hidden_size // student.heads,
            "max_position_embeddings": student.context_tokens,
            "tie_word_embeddings": True,
        },
        "the new student",
    )


# ---- data ------------------------------------------------------------------------------------


def _rows(data: Data, field: str, by_character: bool) -> Rows:
    match data:
        case HubData():
            return _hub_rows(data, field)
        case GeneratedData():
            return _generated_rows(data)
        case JsonlData() | ParquetData():
            records = _jsonl(data) if isinstance(data, JsonlData) else _parquet(data)
            return _measured_rows(data, records, by_character)


def _hub_rows(data: HubData, field: str) -> Rows:
    for name, value in (("rows", data.rows), ("expected_tokens", data.expected_tokens)):
        if value is None:
            raise RefusedError(
                f"{field}.{name}: how much there is of {data.dataset} is not known before it is "
                f"downloaded, so no machine can be priced. Nothing was started. Give {field}.{name}"
                + (
                    ": the mean number of tokens of a row, prompt and completion together."
                    if name == "expected_tokens"
                    else ": the number of rows to take."
                )
            )
    assert data.rows is not None
    assert data.expected_tokens is not None
    tokens = Quantiles.exactly(float(data.expected_tokens))
    return Rows(
        count=data.rows,
        tokens=tokens,
        prompt_tokens=tokens,
        prompt_bytes=data.rows * data.expected_tokens * BYTES_A_TOKEN_ON_THE_HUB,
        longest_prompt_bytes=None,
        longest_tokens=None,
        source="as the recipe says",
    )


def _generated_rows(data: GeneratedData) -> Rows:
    """Additions have a known shape: every character is a token, and most lengths are the same."""
    digits = data.digits
    sizes = {"question": 2 * digits + 1, "working": 3 * digits - 1, "answer": digits + 1}
    row = {name: "0" * size for name, size in sizes.items()}
    prompt = len(_fill(data.prompt, row)) + len(data.system or "")
    prompt_bytes = len((_fill(data.prompt, row) + (data.system or "")).encode())
    whole = prompt + (len(_fill(data.completion, row)) + 1 if data.completion else 0)
    return Rows(
        count=data.rows,
        tokens=Quantiles.exactly(float(whole)),
        prompt_tokens=Quantiles.exactly(float(prompt)),
        prompt_bytes=prompt_bytes * data.rows,
        longest_prompt_bytes=prompt_bytes,
        longest_tokens=whole,
        source="as they are made",
    )


def _measured_rows(
    data: JsonlData | ParquetData, records: Iterable[Mapping[str, Any]], by_character: bool
) -> Rows:
    """Every row is filled in and measured, so that what is counted is what is trained on."""
    count = prompt_size = size = longest = prompt_bytes = longest_prompt = 0
    for record in islice(records, data.rows):
        prompt = (data.system or "") + _fill(data.prompt, record)
        completion = _fill(data.completion, record) if data.completion else ""
        own_bytes = len(prompt.encode())
        own_size = len(prompt) if by_character else own_bytes
        rest = len(completion) if by_character else len(completion.encode())
        count += 1
        prompt_bytes += own_bytes
        longest_prompt = max(longest_prompt, own_bytes)
        prompt_size += own_size
        size += own_size + rest
        longest = max(longest, own_size + rest)
    if not count:
        raise InvalidInputError(f"{data.path} has no rows: there is nothing to learn from")
    sizes = Quantiles.exactly(1.0) if by_character else BYTES_A_TOKEN
    return Rows(
        count=count,
        tokens=_tokens(size / count, sizes),
        prompt_tokens=_tokens(prompt_size / count, sizes),
        prompt_bytes=prompt_bytes,
        longest_prompt_bytes=longest_prompt,
        longest_tokens=int(longest / sizes.p10) + 1,
        source=f"measured in {Path(data.path).name}"
        + ("" if by_character else f"; {sizes.p10:.0f} to {sizes.p90:.0f} bytes a token"),
    )


def _tokens(size: float, sizes: Quantiles) -> Quantiles:
    """Tokens of so many bytes or characters; at least one, for a row is never empty."""
    return Quantiles(*(max(1.0, size / each) for each in (sizes.p90, sizes.p50, sizes.p10)))


def _fill(template: str, record: Mapping[str, Any]) -> str:
    return Formatter().vformat(template, (), record)


def _jsonl(data: JsonlData) -> Iterator[Mapping[str, Any]]:
    needed = _columns(data)
    try:
        with Path(data.path).open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _object(data.path, number, line, needed)
    except OSError as error:
        raise InvalidInputError(f"{data.path} cannot be read: {error.strerror}") from error


def _object(path: str, number: int, line: bytes, needed: set[str]) -> Mapping[str, Any]:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path}:{number}: not JSON ({error})") from error
    missing = needed - record.keys() if isinstance(record, dict) else needed
    if not isinstance(record, dict) or missing:
        lacks = f"has no column {min(missing)}" if isinstance(record, dict) else "is no object"
        raise InvalidInputError(f"{path}:{number}: {lacks}")
    return record


def _parquet(data: ParquetData) -> Iterator[Mapping[str, Any]]:
    import pyarrow as pa
    from pyarrow import parquet

    needed = _columns(data)
    try:
        file = parquet.ParquetFile(data.path)
        missing = needed - set(file.schema_arrow.names)
        if missing:
            raise InvalidInputError(f"{data.path} has no column {min(missing)}")
        for batch in file.iter_batches(columns=sorted(needed)):
            yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise InvalidInputError(f"{data.path} cannot be read as Parquet: {error}") from error


def _columns(data: JsonlData | ParquetData) -> set[str]:
    return {*template_columns(data.prompt), *template_columns(data.completion or "")}
