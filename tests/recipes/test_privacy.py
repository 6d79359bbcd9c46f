"""Secrets in words that others wrote."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from distill.context import WorkerError
from recipes.errors import InvalidRecipeError, StillhouseError
from recipes.privacy import is_secret, redacted
from recipes.store import StoreError

TOKEN = "hf_mark3d/Hugging+4711"


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("OPENAI_API_KEY", True),
        ("AWS_ACCESS_KEY_ID", True),
        ("aws_session_token", True),
        ("MLFLOW_TRACKING_PASSWORD", True),
        ("STILLHOUSE_NOTIFY_URL", True),
        ("TOKENIZERS_PARALLELISM", False),
        ("KEYBOARD", False),
        ("PATH", False),
    ],
)
def test_a_variable_is_known_as_a_secret_by_its_name(name: str, secret: bool) -> None:
    assert is_secret(name) is secret


def test_a_secret_is_taken_out_as_it_is_and_as_a_url_writes_it() -> None:
    environ = {"HF_TOKEN": f"{TOKEN}\n", "PATH": "/usr/bin"}

    said = redacted(f"{TOKEN} in /usr/bin?token=hf_mark3d%2FHugging%2B4711", environ)

    assert said == "[HF_TOKEN] in /usr/bin?token=[HF_TOKEN]"


def test_of_a_secret_that_is_part_of_another_nothing_is_left() -> None:
    environ = {"A_KEY": "12345678", "B_KEY": "12345678-and-more"}

    assert redacted("12345678-and-more", environ) == "[B_KEY]"


def test_a_word_that_stands_for_a_key_is_no_secret() -> None:
    assert redacted("nothing was found", {"OPENAI_API_KEY": "nothing", "X_KEY": ""}) == (
        "nothing was found"
    )


@pytest.mark.parametrize(
    "url", ["https://ada:pw@host/x", "postgresql://ada:p@w@host:5/db", "http://token@host"]
)
def test_the_user_of_a_url_is_taken_out(url: str) -> None:
    said = redacted(f"cannot reach {url}: refused", {})

    assert "ada" not in said
    assert "token" not in said
    assert "://***@host" in said


@pytest.mark.parametrize(
    "error",
    [
        lambda: StillhouseError(f"no {TOKEN}"),
        lambda: StoreError(f"no {TOKEN}", f"another than {TOKEN}"),
        lambda: WorkerError("code", f"no {TOKEN}", f"another than {TOKEN}"),
        lambda: InvalidRecipeError((f"is {TOKEN}",)),
    ],
)
def test_no_error_of_ours_holds_a_secret_however_it_is_looked_at(
    error: Callable[[], StillhouseError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    made = error()

    for one in (made, pickle.loads(pickle.dumps(made))):
        assert TOKEN not in f"{one!s} {one!r} {vars(one)}"
        assert "[HF_TOKEN]" in str(one)


def test_a_traceback_that_ends_a_command_holds_no_secret_and_its_files_are_its_persons(
    tmp_path: Path,
) -> None:
    program = (
        "import os, pathlib\n"
        "from recipes.privacy import keep_private\n"
        "keep_private()\n"
        "pathlib.Path('file').touch()\n"
        "raise RuntimeError('no ' + os.environ['HF_TOKEN'])\n"
    )
    root = Path(__file__).parents[2]

    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "HF_TOKEN": TOKEN, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "RuntimeError: no [HF_TOKEN]" in done.stderr
    assert TOKEN not in done.stderr
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
