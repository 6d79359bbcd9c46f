"""Processes by number, without mistaking another for one of ours."""

import os
import signal
import time
from pathlib import Path

from emulated.folder import LabError


def started_at(pid: int) -> int:
    """Clock ticks between boot and the start of a process; 0 where there is none."""
    fields = _fields(pid)
    return int(fields[19]) if fields else 0


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it is not a mere remainder waiting to be collected."""
    fields = _fields(pid)
    return bool(fields) and fields[0] not in ("Z", "X")


def child_of(pid: int) -> int | None:
    """The first child of a process."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(children[0]) if children else None


def with_words(program: str, *words: str) -> list[int]:
    """Processes of a program whose command line has all these words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if command[0] == program and set(words) <= set(command):
            found.append(int(path.parent.name))
    return found


def with_setting(name: str, value: str) -> list[int]:
    """Processes that were started with this in their environment."""
    wanted, found = f"{name}={value}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            settings = path.read_bytes().split(b"\0")
        except OSError:  # gone, or a kernel's own
            continue
        if wanted in settings:
            found.append(int(path.parent.name))
    return found


def kill_tree(pid: int, seconds: float = 20.0) -> None:
    """End an `unshare` and all that it holds, at once.

    Its child is pid 1 of its namespace: the kernel kills everything in there before that one is
    gone, and `unshare` ends after it.

    Raises:
        LabError: it is still there after so many seconds.
    """
    for victim in (child_of(pid), pid):
        if victim is not None:
            _kill(victim)
    deadline = time.monotonic() + seconds
    while is_running(pid):
        if time.monotonic() > deadline:
            raise LabError(f"process {pid} of the lab does not end")
        time.sleep(0.02)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat behind the name, which may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
