"""Rows from every source, and faults that name file, line and column."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.context import WorkerError
from distill.data import Row, load_rows, read_jsonl, read_parquet
from recipes.recipe import GeneratedData, HubData, JsonlData, ParquetData


def jsonl(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"".join(line.encode() if isinstance(line, str) else line for line in lines))
    return path


def fault(data: JsonlData | ParquetData | HubData | GeneratedData, folder: Path) -> str:
    with pytest.raises(WorkerError) as caught:
        load_rows(data, folder)
    assert caught.value.code == "data"
    return str(caught.value)


def test_a_row_is_filled_into_the_templates_and_numbers_are_written_out(tmp_path: Path) -> None:
    jsonl(tmp_path / "d.jsonl", '{"q": "2+{2}", "n": 4, "x": 0.5}\n', "\n", '{"q":"é","n":5,"x":1}')
    data = JsonlData(path="d.jsonl", system="Add.", prompt="{q}? {{}} {q}", completion="{n}, {x}")

    assert load_rows(data, tmp_path) == [
        Row(0, "Add.", "2+{2}? {} 2+{2}", "4, 0.5"),
        Row(1, "Add.", "é? {} é", "5, 1"),
    ]


def test_only_so_many_rows_are_read_as_are_asked_for(tmp_path: Path) -> None:
    jsonl(tmp_path / "d.jsonl", '{"q": "a"}\n', "this line is not reached\n")

    assert len(load_rows(JsonlData(path="d.jsonl", prompt="{q}", rows=1), tmp_path)) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{oops\n", "d.jsonl:2: not JSON"),
        ('{"q": "a"} {"q": "b"}\n', "d.jsonl:2: not JSON"),
        ('["a"]\n', "d.jsonl:2: must be an object {...}, is list"),
        ('{"q": null}\n', "d.jsonl:2: column 'q' must be text or a number, is null"),
        ('{"q": true}\n', "d.jsonl:2: column 'q' must be text or a number, is bool True"),
        ('{"q": {"deep": 1}}\n', "d.jsonl:2: column 'q' must be text or a number, is dict"),
        ('{"q": NaN}\n', "d.jsonl:2: not JSON (NaN is not a JSON number)"),
        ('{"q": 1e999}\n', "d.jsonl:2: column 'q' must be text or a number, is float inf"),
        ('{"q": "  "}\n', "d.jsonl:2: the prompt is empty"),
        ('{"question": "a", "id": 1}\n', "there is no column 'q'; the columns are question, id"),
        ("{}\n", "there is no column 'q'; the columns are none"),
        ('{"q": "\\ud800"}\n', "d.jsonl:2: column 'q' holds half a character"),
        (b'{"q": "\xff"}\n', "d.jsonl:2: byte 8 of the line is not UTF-8"),
        ("[" * 100_000 + "\n", "d.jsonl:2: not JSON"),
        ('{"q": ' + "9" * 5000 + "}\n", "d.jsonl:2: not JSON"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_faulty_line_is_named_by_file_and_number(
    tmp_path: Path, line: str | bytes, said: str
) -> None:
    jsonl(tmp_path / "d.jsonl", '{"q": "fine"}\n', line)

    assert said in fault(JsonlData(path="d.jsonl", prompt="{q}"), tmp_path)


@given(st.binary(max_size=200))
def test_whatever_a_file_holds_nothing_but_our_own_error_comes_out(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = jsonl(tmp_path_factory.mktemp("fuzz") / "d.jsonl", content)

    with suppress(WorkerError):
        load_rows(JsonlData(path=str(path), prompt="{q}"), path.parent)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    jsonl(tmp_path / "d.jsonl", b"\xef\xbb\xbf", '{"q": "a"}\n')

    assert load_rows(JsonlData(path="d.jsonl", prompt="{q}"), tmp_path) == [Row(0, None, "a", None)]


def test_a_file_without_rows_without_a_name_or_of_a_wrong_sort_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "folder.jsonl").mkdir()

    assert "empty.jsonl has no rows" in fault(JsonlData(path="empty.jsonl", prompt="x"), tmp_path)
    assert "cannot be read: Is a directory" in fault(
        JsonlData(path="folder.jsonl", prompt="x"), tmp_path
    )
    assert "cannot be read: No such file" in fault(JsonlData(path="no", prompt="x"), tmp_path)
    assert "no rows" in fault(JsonlData(path="/dev/null", prompt="x"), tmp_path)


def test_a_file_above_the_limit_is_refused_before_memory_runs_out(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", *['{"q": "abcdefgh"}\n'] * 100)

    rows = read_jsonl(path, max_bytes=200)

    with pytest.raises(WorkerError, match=r"d\.jsonl:12: more than"):
        list(rows)


def write_parquet(path: Path, columns: dict[str, list[object]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table(columns), path)


def test_parquet_gives_the_same_rows_as_jsonl(tmp_path: Path) -> None:
    questions, answers = [f"{n}+{n}" for n in range(3000)], list(range(0, 6000, 2))
    write_parquet(tmp_path / "d.parquet", {"q": questions, "a": answers, "unused": answers})
    lines = [json.dumps({"q": q, "a": a}) + "\n" for q, a in zip(questions, answers, strict=True)]
    jsonl(tmp_path / "d.jsonl", *lines)

    rows = load_rows(ParquetData(path="d.parquet", prompt="{q}", completion="{a}"), tmp_path)

    assert rows == load_rows(JsonlData(path="d.jsonl", prompt="{q}", completion="{a}"), tmp_path)


def test_faults_of_a_parquet_file_are_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "null.parquet", {"q": ["a", None]})
    (tmp_path / "text.parquet").write_text("not parquet")

    assert "null.parquet row 2: column 'q' must be text" in fault(
        ParquetData(path="null.parquet", prompt="{q}"), tmp_path
    )
    assert "no column 'z'; the columns are q" in fault(
        ParquetData(path="null.parquet", prompt="{z}"), tmp_path
    )
    assert "text.parquet is not a Parquet file" in fault(
        ParquetData(path="text.parquet", prompt="{q}"), tmp_path
    )
    assert "cannot be read" in fault(ParquetData(path="gone.parquet", prompt="{q}"), tmp_path)
    with pytest.raises(WorkerError, match="more than"):
        list(read_parquet(tmp_path / "null.parquet", ("q",), max_bytes=10))


def test_a_hub_dataset_is_loaded_by_name_and_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The library takes a folder `owner/name` below the current one before it asks the hub.
    (tmp_path / "owner" / "sums").mkdir(parents=True)
    jsonl(tmp_path / "owner" / "sums" / "train.jsonl", '{"q": "1+1", "a": 2}\n', '{"q":"2","a":2}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    data = HubData(dataset="owner/sums", revision="main", prompt="{q}", completion="{a}", rows=1)

    assert load_rows(data, tmp_path) == [Row(0, None, "1+1", "2")]
    assert "no column 'z'" in fault(data.model_copy(update={"prompt": "{z}"}), tmp_path)
    assert "owner/sums at main cannot be loaded" in fault(
        data.model_copy(update={"split": "test"}), tmp_path
    )


def test_a_hub_dataset_that_is_not_there_is_refused_with_its_name(tmp_path: Path) -> None:
    data = HubData(dataset="owner/nowhere", revision="v1", prompt="{q}")

    assert "owner/nowhere at v1 cannot be loaded" in fault(data, tmp_path)


def test_generated_problems_fill_the_templates(tmp_path: Path) -> None:
    data = GeneratedData(prompt="{question}=", completion="{working};{answer}", rows=50, seed=3)

    rows = load_rows(data, tmp_path)

    assert len({row.prompt for row in rows}) == 50
    assert rows[0].completion is not None
    assert eval(rows[0].prompt[:-1]) == int(rows[0].completion.split(";")[1])


def test_more_problems_than_there_are_is_refused_with_their_number(tmp_path: Path) -> None:
    data = GeneratedData(prompt="{question}", digits=1, part="held_out", rows=1000)

    assert "there are only 8 additions of 1 digits in part held_out" in fault(data, tmp_path)
