"""`still` in the emulated cloud, as a person at a terminal has it, and what became of a run."""

import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from emulated.cloud import Cloud, wait_until
from emulated.imds import ROLE_KEY
from emulated.lab import KEY, Lab
from emulated.processes import with_setting
from launcher.machines.aws_policy import aws_policy
from recipes.rundir import AnyEvent, Event, RunDir, read_events
from tracking.books import Books
from tracking.home import Home
from tracking.ledger import Ledger
from tracking.receipt import Receipt

BUCKET = "stillhouse"

PATIENCE_S = 420.0
"""How long a step may take [s]: a machine is there within 40 s where nothing else is going on."""

WATCHER, FOLLOWER = "launcher.watcher", "tracking.follow"
"""Modules that detached processes of ours run."""

EventT = TypeVar("EventT", bound=Event)

RECIPE = """\
name: tiny
teacher: {kind: none}
student:
  kind: new
  characters: "0123456789+=,;"
  layers: 1
  hidden_size: 48
  heads: 2
  intermediate_size: 96
  context_tokens: 64
data:
  kind: generated
  digits: 2
  rows: 1000
  prompt: "{question}="
  completion: "{working};{answer}"
training:
  steps: 3000
  batch_size: 16
  max_tokens: 64
  learning_rate: 0.003
  dtype: float32
  threads: 1
  checkpoint_every_steps: 50
evaluation:
  - task: sums
    data:
      kind: generated
      part: held_out
      digits: 2
      rows: 50
      prompt: "{question}="
      completion: "{answer}"
    answer_pattern: ";([0-9]+)"
    max_new_tokens: 40
hardware: {accelerators: "H100:8"}
budget: {usd: 20}
"""
"""A minute or so of one core, most of it training."""


class Still:
    """The command in the lab, with a home of its own and one run store for all."""

    def __init__(self, lab: Lab, cloud: Cloud, home: Path) -> None:
        self.lab = lab
        self.cloud = cloud
        self.home = Home(home)
        home.mkdir(parents=True, exist_ok=True)
        with suppress(cloud.client("s3").exceptions.BucketAlreadyOwnedByYou):
            cloud.client("s3").create_bucket(Bucket=BUCKET)
        self.store = f"s3://{BUCKET}/{home.parent.name}-{home.name}"
        self._env = {"STILLHOUSE_HOME": str(home), "STILLHOUSE_STORE": self.store}

    def run(self, *words: object, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """A command, to its end."""
        self._keep_to_policies()
        return self.lab.run(_command(words), env=self._env, timeout_s=PATIENCE_S + 180, check=check)

    def launch(self, recipe: Path, *flags: object, env: Mapping[str, str] | None = None) -> "Run":
        """Launch a run; returns as soon as it has a name."""
        return self._begin(("launch", recipe, "--yes", *flags), r"^started (\S+)$", env or {})

    def adopt(self, run: "Run") -> "Run":
        """Take over a run of another home; returns as soon as this one drives it."""
        words = ("adopt", run.store, run.id, "--yes")
        return self._begin(words, r"^(\S+) is driven from here$", {})

    def _begin(self, words: Sequence[object], sign: str, env: Mapping[str, str]) -> "Run":
        """Start a command that drives a run; returns when the sign, with its name, was given."""
        self._keep_to_policies()
        output = self.home.path / f"driver-{len(list(self.home.path.glob('driver-*')))}.log"
        driver = self.lab.start(_command(words), output=output, env=self._env | dict(env))

        def begun() -> "re.Match[str] | None":
            if driver.poll() is not None:
                raise AssertionError(f"it did not begin: {output.read_text()}")
            return re.search(sign, output.read_text(), re.MULTILINE)

        wait_until(begun, PATIENCE_S, "a run that is driven")
        found = begun()
        assert found is not None
        return Run(self, found[1], driver, output)

    def _keep_to_policies(self) -> None:
        """Let this machine and the nodes do what `still policy aws` prints, and nothing else.

        For the whole bucket: machines of another home may be there too.
        """
        self.cloud.allow_only(KEY, aws_policy("launcher", BUCKET, ""))
        self.cloud.allow_only(ROLE_KEY, aws_policy("node", BUCKET, "", autodown=True))

    @contextmanager
    def everything_lost(self) -> Iterator[None]:
        """STILLHOUSE_HOME and ~/.sky are deleted; for the tests to come, ~/.sky is put back.

        A server that was started meanwhile goes with the ~/.sky that it has open.
        """
        _kill(pid for pid, words in _processes() if {FOLLOWER, str(self.home.path)} <= set(words))
        sky, aside = self.lab.folder.home / ".sky", self.lab.folder.home / ".sky-aside"
        shutil.rmtree(self.home.path)
        sky.rename(aside)
        try:
            yield
        finally:
            self._end_skypilot()
            shutil.rmtree(sky, ignore_errors=True)
            aside.rename(sky)

    def kill_skypilot(self) -> None:
        """kill -9 of SkyPilot's API server and all that it has started, of this lab."""
        assert self._end_skypilot(), "there was no API server"

    def _end_skypilot(self) -> bool:
        """Whether there was a server. Its workers end too: those that outlive it keep another from
        starting."""
        own = with_setting("HOME", str(self.lab.folder.home))
        servers = {
            os.getsid(pid)
            for pid, words in _processes()
            if "sky.server.server" in words and pid in own
        }
        _kill(pid for pid, _ in _processes() if _session(pid) in servers)
        return bool(servers)


class Run:
    """One run: what a person sees of it, and what the cloud has of it."""

    def __init__(
        self, still: Still, run_id: str, driver: "subprocess.Popen[bytes]", output: Path
    ) -> None:
        self.id = run_id
        self.store = still.store
        self.folder: RunDir = still.home.run(run_id)
        self._still = still
        self._driver = driver
        self._output = output

    # ---- what it says

    def end(self) -> int:
        """The exit code of the command that drives it."""
        try:
            return self._driver.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it goes on and on:\n{self.story()}") from None

    def story(self) -> str:
        """The last of what was said, for whoever reads a failed test."""
        files = [self._output, self.folder.path / "watcher.log", self.folder.path / "provision.log"]
        return "\n".join(
            f"---- {path.name}\n{path.read_text()[-3000:]}" for path in files if path.exists()
        )

    @property
    def books(self) -> Books:
        with Ledger(self._still.home.ledger) as ledger:
            return ledger.books(self.id)

    @property
    def receipt(self) -> Receipt:
        return Receipt.model_validate_json(self._still.run("show", self.id, "--json").stdout)

    @property
    def scores(self) -> dict[str, Any]:
        return dict(json.loads(self.folder.scores.read_text()))

    @property
    def student(self) -> bytes:
        """Its weights, as they came home."""
        return b"".join(path.read_bytes() for path in sorted(self.folder.student.glob("*.saf*")))

    def events(self, kind: type[EventT]) -> list[EventT]:
        return [event for event in self._events() if isinstance(event, kind)]

    def _events(self) -> Iterator[AnyEvent]:
        return (event for event, _ in read_events(self.folder.events))

    def wait_for(self, kind: type[Event], attempt: int = 1, count: int = 1) -> None:
        """Wait until the launcher's side has heard of so many events of an attempt."""

        def heard() -> bool:
            return sum(event.attempt == attempt for event in self.events(kind)) >= count

        wait_until(lambda: heard() or self._is_over(), PATIENCE_S, f"{kind.__name__} of {self.id}")
        assert heard(), self.story()

    def _is_over(self) -> bool:
        return self._driver.poll() is not None

    # ---- what the cloud has of it

    @property
    def instances(self) -> list[dict[str, Any]]:
        return self._still.cloud.instances(stillhouse_run=self.id)

    @property
    def running(self) -> list[str]:
        """Ids of its machines that are not terminated."""
        return [one["InstanceId"] for one in self.instances if one["State"]["Name"] == "running"]

    @property
    def left(self) -> list[str]:
        return self._still.cloud.left(stillhouse_run=self.id)

    @property
    def has_timer(self) -> bool:
        """Whether the node's own timer runs on its machine."""
        return "yes" in self._on_machine("pgrep -f '[l]imit.sh' >/dev/null && echo yes || true")

    @property
    def is_at_work(self) -> bool:
        """Whether its worker runs on its machine."""
        return "yes" in self._on_machine("pgrep -f '[d]istill run$' >/dev/null && echo yes || true")

    def wait_for_machine(self) -> str:
        """Id of its machine, once there is one."""
        wait_until(lambda: self.running or self._is_over(), PATIENCE_S, "a machine")
        assert self.running, self.story()
        return self.running[-1]

    # ---- what a test does to it

    def interrupt(self) -> int:
        """Ctrl-C in its launcher's terminal; the exit code."""
        self._driver.send_signal(signal.SIGINT)
        return self.end()

    def kill_launcher_and_watcher(self) -> None:
        """kill -9 of everything that drives it."""
        watchers = [pid for pid, words in _processes() if {WATCHER, self.id} <= set(words)]
        _kill(watchers)
        self._driver.kill()
        self._driver.wait()
        assert watchers, "there was no watcher"

    def without_timer(self) -> None:
        """Take the node's own timer from its machine, and what would set it again."""
        # Written so that the command does not find itself.
        self._on_machine("pkill -9 -f '[l]imit.sh'; rm ~ubuntu/sky_workdir/sky/limit.s[h]")

    def without_autostop(self) -> None:
        """Take SkyPilot's daemon from its machine, which would give it back."""
        self._on_machine("pkill -9 -f '[s]ky.skylet.skylet'")

    def outlasts_autostop(self) -> None:
        """Its machine has worked for as long as SkyPilot was told to let it."""
        ago = "UPDATE config SET value = 0 WHERE key = 'autostop_last_active_time'"
        script = f"""import sqlite3, os
with sqlite3.connect(os.path.expanduser("~/.sky/skylet_config.db")) as daemon:
    assert daemon.execute("{ago}").rowcount == 1"""
        self._on_machine(f"su ubuntu -c {shlex.quote('python3 -c ' + shlex.quote(script))}")

    def _on_machine(self, script: str) -> str:
        machine = self.wait_for_machine()
        return self._still.cloud.on_host(machine, "bash", "-ec", script).stdout

    def mlflow_runs(self) -> int:
        """How many runs of MLflow carry its id."""
        with closing(sqlite3.connect(self._still.home.path / "mlflow.db")) as database:
            asked = "SELECT COUNT(*) FROM tags WHERE key LIKE '%run_id' AND value = ?"
            return int(database.execute(asked, (self.id,)).fetchone()[0])


def at_home(recipe: Path, home: Path) -> dict[str, Any]:
    """The scores of a recipe on this machine, outside of any cloud."""
    flags = ["--local", "--yes", "--set", "hardware.usd_per_hour=1"]
    subprocess.run(
        _command(["launch", recipe, *flags]),
        env=os.environ | {"STILLHOUSE_HOME": str(home), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
    )
    (scores,) = home.glob("runs/*/scores.json")
    return dict(json.loads(scores.read_text()))


def _command(words: Sequence[object]) -> list[str]:
    return [sys.executable, "-m", "launcher.cli", *map(str, words)]


def _kill(pids: Iterable[int]) -> None:
    """kill -9, and wait until they are gone: what they had open they write no more."""
    killed = list(pids)
    for pid in killed:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: all(map(_is_gone, killed)), what="the killed are gone")


def _is_gone(pid: int) -> bool:
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()  # nobody has asked yet how it ended
    except OSError:
        return True


def _session(pid: int) -> int | None:
    with suppress(ProcessLookupError):
        return os.getsid(pid)
    return None


def _processes() -> Iterator[tuple[int, list[str]]]:
    """Processes of this machine with their words; those that end meanwhile are passed over."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            yield int(folder.name), (folder / "cmdline").read_text().split("\0")
