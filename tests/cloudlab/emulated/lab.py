"""The lab from outside: bring it up, run commands in it, ask it, take it down.

A lab that is up is one tree of processes below one `unshare`. Ending that tree ends everything;
nothing else of it exists but its folder.
"""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.error import HTTPError, URLError

from emulated import account, image, tools
from emulated.catalog import write_catalogs
from emulated.folder import ENDPOINT, REPOSITORY, SCRIPTS, LabError, LabFolder, LabUnavailable
from emulated.image_recipe import PYTHON
from emulated.processes import (
    child_of,
    is_running,
    kill_tree,
    started_at,
    with_setting,
    with_words,
)
from emulated.tools import Say
from emulated.wheel import ensure_wheel

KEY = "lab"
"""The id of the access key that commands in the lab use."""

START_S = 120.0
"""How long the emulated AWS may take to answer [s]."""


@dataclass(frozen=True)
class State:
    """A lab that was started: its outermost process, and the port of its API on loopback."""

    pid: int
    started: int
    """Ticks since boot when that process started: a number taken by another is not ours."""
    port: int
    kept: bool
    """Made by `up`: tests use it and leave it as it is."""


class Lab:
    """One lab. Methods but `up` and `down` need it to be up."""

    def __init__(self, folder: LabFolder) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen[bytes]] = []

    # ---- up and down ---------------------------------------------------------------------------

    def require(self) -> None:
        """Ask whether there can be a lab here at all.

        Raises:
            LabUnavailable: not root, or another Python than the hosts'.
        """
        tools.require_root()
        _require_same_python()

    def up(self, say: Say, *, kept: bool) -> None:
        """Start the lab; nothing happens if it is up, but that it is `kept` from now on.

        Raises:
            LabUnavailable: not root, or this machine lacks what the lab needs.
            LabError: a download failed, moto does not answer.
        """
        self.require()
        with self._alone():
            if self.is_up():
                if kept:
                    self._write_down(replace(self._up_state(), kept=True))
                return
            self._end()
            maker = self.folder.maker
            with self._making():
                tools.ensure_programs(say)
                wheel = ensure_wheel(maker, say)
                image_path = image.ensure_image(maker, wheel, say)
                image.remove_others(maker, image_path)
                python = tools.ensure_moto(maker, say)
            self._furnish_home(wheel)
            self._start(python, image_path, kept)

    def down(self) -> None:
        """End everything of the lab, also of one that was killed. Image and caches stay."""
        with self._alone():
            self._end()

    def is_up(self) -> bool:
        """Whether it was started, still runs and answers."""
        state = self.state()
        return state is not None and _alive(state) and self._answers(state.port)

    def state(self) -> State | None:
        """What `up` wrote down, if anything."""
        try:
            return State(**json.loads(self.folder.state.read_text()))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _end(self) -> None:
        # Looked for by name, and so also found when its folder was removed under it.
        for pid in with_words("unshare", "emulated.daemon", str(self.folder.path)):
            kill_tree(pid)
        if self.folder.run.exists():
            shutil.rmtree(self.folder.run)
        # SkyPilot keeps its ssh sockets here, whatever HOME says.
        shutil.rmtree(Path("/tmp") / f"sky_ssh_{self.folder.mark}", ignore_errors=True)

    def _furnish_home(self, wheel: Path) -> None:
        sky = self.folder.home / ".sky"
        shutil.copytree(wheel.parent, sky / "wheels" / wheel.parent.name)
        write_catalogs(self.folder.home)
        (sky / "config.yaml").write_text(account.SKYPILOT_CONFIG)

    def _start(self, python: Path, image_path: Path, kept: bool) -> None:
        self.folder.hosts.mkdir(parents=True)
        self.folder.logs.mkdir(parents=True, exist_ok=True)
        listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        daemon = [str(python), "-m", "emulated.daemon", "--lab", str(self.folder.path)]
        daemon += ["--image", str(image_path), "--shared", sysconfig.get_path("purelib")]
        with listening:
            daemon += ["--socket", str(listening.fileno())]
            pid = _start_alone([*_SEALED, *daemon], self.folder.logs / "lab.log", listening)
            state = State(pid, started_at(pid), listening.getsockname()[1], kept)
        self._write_down(state)
        self._wait_until_ready(state)

    def _write_down(self, state: State) -> None:
        aside = self.folder.state.with_suffix(".tmp")
        aside.write_text(json.dumps(asdict(state)))
        aside.rename(self.folder.state)

    def _wait_until_ready(self, state: State) -> None:
        deadline = time.monotonic() + START_S
        while not self._answers(state.port):
            if not _alive(state) or time.monotonic() > deadline:
                kill_tree(state.pid)
                raise LabError(f"the emulated AWS does not start: {self.folder.logs}/lab.log")
            time.sleep(0.1)

    def _up_state(self) -> State:
        state = self.state()
        if state is None or not _alive(state):
            raise LabError("the emulated cloud is not up: `make cloudlab-up` starts it")
        return state

    @staticmethod
    def _answers(port: int) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=5) as answer:
                return bool(json.load(answer))
        except (URLError, OSError):
            return False

    def turn(self) -> AbstractContextManager[None]:
        """The lab to oneself, among those who ask for it like this; waits for the others."""
        return self._holding("turn")

    def _alone(self) -> AbstractContextManager[None]:
        return self._holding("lock")

    def _making(self) -> AbstractContextManager[None]:
        """The right to make what labs share."""
        return self._holding("cache/lock")

    @contextmanager
    def _holding(self, name: str) -> Iterator[None]:
        path = self.folder.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # ---- commands inside -----------------------------------------------------------------------

    @property
    def env(self) -> dict[str, str]:
        """Environment of a command in the lab: a HOME of its own, and an AWS account that is ours.

        Nothing of the caller's credentials or settings is passed on.
        """
        return {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.folder.home),
            "LANG": "C.UTF-8",
            "TERM": os.environ.get("TERM", "dumb"),
            "OMP_NUM_THREADS": "1",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": "lab",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": ENDPOINT,
            "AWS_EC2_METADATA_DISABLED": "true",
            "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
            "SKYPILOT_USER_ID": self.folder.mark,
        }

    def command(self, command: Sequence[str | Path]) -> list[str]:
        """The same command, run in the lab. Its signals, exit status and output pass through.

        Raises:
            LabError: the lab is not up.
        """
        inner = child_of(self._up_state().pid)
        enter = str(SCRIPTS / "emulated" / "enter.py")
        return [sys.executable, "-I", "-S", enter, str(inner), *map(str, command)]

    def run(
        self,
        command: Sequence[str | Path],
        *,
        timeout_s: float = 300.0,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: Path = REPOSITORY,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command in the lab to its end. A failure that is checked shows what it said."""
        done = subprocess.run(
            self.command(command),
            env=self.env | dict(env or {}),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"{' '.join(map(str, command))} ended with {done.returncode}:\n"
                f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
            )
        return done

    def start(
        self,
        command: Sequence[str | Path],
        *,
        output: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path = REPOSITORY,
    ) -> "subprocess.Popen[bytes]":
        """Start a command in the lab; what it says goes to a file. Signals to it arrive."""
        with output.open("ab") as file:
            started = subprocess.Popen(
                self.command(command),
                env=self.env | dict(env or {}),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self._started.append(started)
        return started

    def end_commands(self) -> None:
        """kill -9 of every command that runs in the lab, and of all that it has started: launchers,
        watchers, SkyPilot's server. Hosts go on."""
        for pid in with_setting("HOME", str(self.folder.home)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for started in self._started:
            started.kill()
            started.wait()
        self._started.clear()

    # ---- levers --------------------------------------------------------------------------------

    @property
    def endpoint(self) -> str:
        """The emulated AWS as this machine reaches it, from outside the lab."""
        return f"http://127.0.0.1:{self._up_state().port}"

    def lever(self, method: str, path: str, body: bytes | None = None) -> object:
        """Pull a lever; `emulated/gateway.py` lists them.

        Raises:
            LabError: there is no such lever or host.
        """
        request = urllib.request.Request(f"{self.endpoint}/-/{path}", data=body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except HTTPError as error:
            raise LabError(f"{method} {path}: {error.read().decode()}") from error


_SEALED = ["unshare", "--net", "--mount", "--pid", "--ipc", "--fork", "--kill-child"]
_SEALED += ["--mount-proc", "--propagation", "slave"]
# pid 1 has to collect what daemons leave behind; bash does, and ends when the lab's process does.
_SEALED += ["bash", "-c", '"$@" & wait $!', "lab"]


def _start_alone(command: list[str], log: Path, lent: socket.socket) -> int:
    """Start a process that outlives us and is nobody's child; returns its number."""
    started = subprocess.run(
        ["bash", "-c", 'setsid "$@" >"$LOG" 2>&1 </dev/null & echo $!', "start", *command],
        env=os.environ | {"LOG": str(log)},
        cwd=SCRIPTS,
        pass_fds=[lent.fileno()],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(started.stdout)


def _alive(state: State) -> bool:
    return is_running(state.pid) and started_at(state.pid) == state.started


def _require_same_python() -> None:
    """Hosts use the packages of the Python that runs us.

    Raises:
        LabUnavailable: it is another version than the hosts'.
    """
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    if ours != PYTHON:
        raise LabUnavailable(
            f"hosts of the lab have Python {PYTHON} and share this environment's packages, "
            f"which are made for {ours}: make the environment with Python {PYTHON}"
        )
