"""Starts the watcher of a run on rented machines (`launcher.watcher`).

In a session of its own, so that the run survives the terminal, the launcher and Ctrl-C.
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from recipes.rundir import RunDir


def start_watcher(
    run: RunDir, environ: Mapping[str, str], *, allow_remote_code: bool
) -> "subprocess.Popen[bytes]":
    """Start a watcher that outlives this process."""
    words = ["--trust-remote-code"] if allow_remote_code else []
    with _log(run).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "launcher.watcher", run.path.name, *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(environ),
            start_new_session=True,
        )


def last_word(run: RunDir) -> str:
    """What a watcher has said last."""
    return _log(run).read_text(errors="replace").strip().rpartition("\n")[2]


def _log(run: RunDir) -> Path:
    return run.path / "watcher.log"
