"""The scripts of a rented machine, run as they are among programs of ours.

A machine here is a folder: the only programs that its scripts can reach are a few of the system's,
and in place of those that would do something to this computer (poweroff, systemctl, sudo) ours,
which write down that they were called.
"""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SKY = Path(__file__).parents[3] / "sky"

TOOLS = (
    *("bash", "cat", "curl", "date", "dirname", "grep", "head", "id", "kill", "mkdir", "mv"),
    *("rm", "seq", "setsid", "sleep", "tail", "tee"),
)

DEADLINE_S = 20.0
"""How long a test waits for what takes a moment."""


class Node:
    """A machine, its home folder and its bundle."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.bin = folder / "bin"
        self.sbin = folder / "sbin"
        self.bundle = folder / "bundle"
        self.units = folder / "units"
        self.calls = folder / "calls"
        for path in (self.home, self.bin, self.sbin, self.bundle / "run", self.units):
            path.mkdir(parents=True)
        shutil.copytree(SKY, self.bundle / "sky")
        (self.bundle / "constraints.txt").touch()
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found, f"these tests need {tool}"
            (self.bin / tool).symlink_to(found)
        self.program("../sbin/poweroff", 'echo "poweroff $*" >>"$CALLS"')
        self.program("sudo", 'shift; echo "sudo $*" >>"$CALLS"; "$@"')
        self.state = self.home / ".stillhouse-node"
        self.environ = {
            "HOME": str(self.home),
            "PATH": str(self.bin),
            "CALLS": str(self.calls),
            "STILLHOUSE_SBIN": str(self.sbin),
            "STILLHOUSE_UNITS": str(self.units),
            "STILLHOUSE_LIMIT_MINUTES": "60",
        }

    def program(self, name: str, text: str) -> Path:
        """A program of ours, in bash."""
        path = self.bin / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!{shutil.which('bash')}\n{textwrap.dedent(text)}\n")
        path.chmod(0o755)
        return path

    def worker(self, text: str) -> None:
        """What the worker's Python is and does; what the machine says of its end is put aside."""
        text = f"""
            if [ "$3" = leaving ]; then echo "$*" >"$CALLS.leaving"; exit; fi
            {text}"""
        self.state.mkdir(exist_ok=True)
        (self.state / "python").write_text(f"{self.program('worker', text)}\n")

    def gpus(self, count: int) -> None:
        lines = "\n".join(
            f"echo 'GPU {i}: NVIDIA H100 80GB HBM3 (UUID: GPU-{i})'" for i in range(count)
        )
        self.program("nvidia-smi", lines)

    def run(self, script: str, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(self.bundle / "sky" / script), *words],
            capture_output=True,
            text=True,
            check=False,
            env={**self.environ, **environ},
            timeout=60,
        )

    def start(self, script: str, **environ: str) -> "subprocess.Popen[bytes]":
        with (self.home / "job.log").open("wb") as log:
            return subprocess.Popen(
                ["bash", str(self.bundle / "sky" / script)],
                stdout=log,
                stderr=log,
                env={**self.environ, **environ},
            )

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def minutes_left(self) -> float:
        return (int((self.state / "limit").read_text()) - time.time()) / 60

    def sleeper(self) -> int:
        return int((self.state / "limit.pid").read_text())


def wait_for(what: str, is_so: Callable[[], bool]) -> None:
    """Wait until a condition holds; fails with its name where it does not."""
    end = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.02)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    if (node.state / "limit.pid").exists():
        with suppress(ProcessLookupError):
            os.killpg(node.sleeper(), signal.SIGKILL)


# ---- the scripts as text ---------------------------------------------------------------------


@pytest.mark.parametrize("script", sorted(SKY.glob("*.sh")), ids=lambda path: path.name)
def test_a_script_is_clean(script: Path) -> None:
    checked = subprocess.run(
        ["shellcheck", "--external-sources", "--severity=style", f"sky/{script.name}"],
        cwd=SKY.parent,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.stdout + checked.stderr == ""
    assert checked.returncode == 0


HOSTILE = (
    "$(touch pwned)",
    "`touch pwned`",
    "'; touch pwned; '",
    '"; touch pwned; "',
    "1\ntouch pwned",
)


@pytest.mark.parametrize("text", [*HOSTILE, "a[$(touch pwned)]", "-e pwned", "../../pwned *"])
def test_the_scripts_take_a_value_for_a_value_whatever_it_says(node: Node, text: str) -> None:
    node.worker("exit 0")
    said = dict.fromkeys(
        (
            *("STILLHOUSE_CLOUD", "STILLHOUSE_LIMIT_MINUTES", "STILLHOUSE_LIMIT_AT"),
            *("STILLHOUSE_LINGER_MINUTES", "STILLHOUSE_RUN_DIR", "STILLHOUSE_NOTICE_EVERY_S"),
            *("SKYPILOT_NODE_IPS", "SKYPILOT_NUM_GPUS_PER_NODE", "SKYPILOT_NODE_RANK"),
        ),
        text,
    )

    node.run("setup.sh", **said)
    node.run("setup.sh", **said | {"STILLHOUSE_LIMIT_MINUTES": "60"})
    node.run("run.sh", **said)
    for how in ("set", "lower", "by", text):
        node.run("limit.sh", how, text)
    node.run("spot_notice.sh", text, **said)

    assert [path for path in node.home.parent.rglob("*") if "pwned" in path.name] == []


def test_versions_of_what_is_installed_on_a_machine_are_pinned() -> None:
    def names(path: Path) -> set[str]:
        lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
        return {line.partition("==")[0].lower() for line in lines if line}

    assert names(SKY / "requirements.txt") <= names(SKY.parent / "constraints.txt")


# ---- the limit -------------------------------------------------------------------------------


def test_a_machine_switches_itself_off_when_its_limit_is_reached(node: Node) -> None:
    node.run("limit.sh", "set", "60")
    assert node.called() == []

    (node.state / "limit").write_text(str(int(time.time())))

    wait_for("poweroff", lambda: node.called() == ["poweroff -f"])


def test_the_limit_outlives_whoever_set_it(node: Node) -> None:
    node.run("limit.sh", "set", "60")

    assert os.getsid(node.sleeper()) == node.sleeper()  # nobody's session, nobody's terminal
    os.kill(node.sleeper(), 0)


def test_the_limit_is_nobodys_child_from_the_start_since_skypilot_ends_those(node: Node) -> None:
    real = (node.bin / "setsid").resolve()
    (node.bin / "setsid").unlink()
    node.program(
        "setsid",
        f"""sleep 0.3
        parent=$(grep PPid: /proc/$$/status)
        cat "/proc/${{parent##*[[:space:]]}}/cmdline" >"$CALLS"
        exec {real} "$@"
        """,
    )

    node.run("limit.sh", "set", "60")

    os.kill(node.sleeper(), 0)
    assert "limit.sh" not in node.calls.read_text()


def test_a_limit_is_set_anew_and_lowered_but_never_raised_by_the_way(node: Node) -> None:
    node.run("limit.sh", "set", "60")
    first = node.sleeper()

    node.run("limit.sh", "lower", "90")
    assert 59 < node.minutes_left() <= 60
    node.run("limit.sh", "lower", "5")
    assert 4 < node.minutes_left() <= 5
    node.run("limit.sh", "set", "90")
    assert 89 < node.minutes_left() <= 90
    assert node.sleeper() == first  # one process is enough


def test_a_limit_by_a_moment_lowers_and_never_raises(node: Node) -> None:
    node.run("limit.sh", "set", "60")

    node.run("limit.sh", "by", str(int(time.time()) + 90 * 60))
    assert node.minutes_left() == pytest.approx(60, abs=1)
    at = int(time.time()) + 7 * 60
    node.run("limit.sh", "by", str(at))

    assert (node.state / "limit").read_text().strip() == str(at)


@pytest.mark.parametrize("systemd", [True, False])
def test_a_limit_that_has_passed_switches_off_at_once_since_no_timer_comes_to_it(
    node: Node, systemd: bool
) -> None:
    if systemd:
        node.program("systemctl", 'echo "systemctl $*" >>"$CALLS"')
    node.run("limit.sh", "set", "60")

    node.run("limit.sh", "by", str(int(time.time()) - 300))

    assert node.called()[-1] == "poweroff -f"
    assert node.minutes_left() > 59  # and what is armed stays so, should that fail


def test_a_limit_that_passed_without_effect_keeps_no_other_from_being_set(node: Node) -> None:
    node.program("systemctl", 'echo "systemctl $*" >>"$CALLS"')
    node.run("limit.sh", "set", "60")
    (node.state / "limit").write_text(str(int(time.time()) - 300))

    node.run("limit.sh", "lower", "1")

    assert 0 < node.minutes_left() <= 1


def test_with_systemd_the_limit_is_a_timer_on_disk_that_a_reboot_does_not_lose(node: Node) -> None:
    node.program("systemctl", 'echo "systemctl $*" >>"$CALLS"')

    said = node.run("limit.sh", "set", "90").stderr

    assert "a systemd timer switches this machine off at " in said
    assert node.called()[-3:] == [
        "systemctl daemon-reload",
        "systemctl enable stillhouse-limit.timer",
        "systemctl restart stillhouse-limit.timer",
    ]
    timer = (node.units / "stillhouse-limit.timer").read_text()
    at = time.gmtime(int((node.state / "limit").read_text()))
    assert f"OnCalendar={time.strftime('%Y-%m-%d %H:%M:%S UTC', at)}" in timer
    assert "Persistent=true" in timer
    service = (node.units / "stillhouse-limit.service").read_text()
    assert f"ExecStart={node.bin}/systemctl poweroff --force" in service
    assert not (node.state / "limit.pid").exists()


def test_where_systemd_refuses_a_process_takes_its_place(node: Node) -> None:
    node.program("systemctl", '[ "$1" != enable ]')

    assert "a process switches this machine off" in node.run("limit.sh", "set", "90").stderr


def test_who_is_not_root_asks_sudo(node: Node) -> None:
    (node.bin / "id").unlink()
    node.program("id", "echo 1000")
    node.run("limit.sh", "set", "60")

    (node.state / "limit").write_text("0")

    wait_for("poweroff", lambda: node.called()[-2:] == ["sudo poweroff -f", "poweroff -f"])


def test_a_machine_that_cannot_switch_itself_off_says_so(node: Node) -> None:
    (node.sbin / "poweroff").unlink()

    limited = node.run("limit.sh", "set", "60")

    assert limited.returncode == 0
    assert "WARNING: this machine cannot switch itself off" in limited.stderr


@pytest.mark.parametrize("words", [("set", "soon"), ("set", "-5"), ("raise", "5"), ("set",), ()])
def test_a_limit_that_makes_no_sense_is_refused(node: Node, words: tuple[str, ...]) -> None:
    assert node.run("limit.sh", *words).returncode != 0
    assert not (node.state / "limit").exists()


# ---- setup -----------------------------------------------------------------------------------


def test_setup_takes_a_python_that_the_image_has(node: Node) -> None:
    python = node.program("python3", 'cat >/dev/null; echo "python3 $*" >>"$CALLS"')
    node.gpus(8)

    for _ in range(2):  # and again: nothing changes
        done = node.run("setup.sh")
        assert done.returncode == 0, done.stderr
        assert (node.state / "python").read_text() == f"{python}\n"
    assert node.called() == ["python3 - 8"] * 2
    assert "with 8 GPUs" in done.stderr


def test_setup_makes_an_environment_where_no_python_fits(node: Node) -> None:
    node.program("python3", "cat >/dev/null; echo 'without torch'; exit 1")
    node.program(
        "uv",
        """
        echo "uv $*" >>"$CALLS"
        if [ "$1" = venv ]; then
          mkdir -p "$HOME/stillhouse-env/bin"
          printf '#!%s\\ncat >/dev/null' "$BASH" >"$HOME/stillhouse-env/bin/python"
        else
          chmod +x "$HOME/stillhouse-env/bin/python"
        fi
        """,
    )
    (node.bin / "chmod").symlink_to(shutil.which("chmod") or "")
    own = node.home / "stillhouse-env"

    done = node.run("setup.sh")

    assert done.returncode == 0, done.stderr
    assert "not" in done.stderr
    assert "without torch" in done.stderr
    assert (node.state / "python").read_text() == f"{own}/bin/python\n"
    assert node.called() == [
        f"uv venv --quiet --python 3.11 {own}",
        f"uv pip install --quiet --python {own}/bin/python -r sky/requirements.txt "
        "-c constraints.txt",
    ]
    node.calls.unlink()
    assert node.run("setup.sh").returncode == 0
    assert node.called() == []  # the second time it is there


def test_setup_fails_where_the_worker_cannot_run_and_the_limit_is_armed_all_the_same(
    node: Node,
) -> None:
    node.program("python3", "cat >/dev/null; echo 'torch sees 0 of 8 GPUs'; exit 1")
    node.program("uv", "exit 0")
    node.program("../home/stillhouse-env/bin/python", "cat >/dev/null; echo 'no CUDA'; exit 1")

    done = node.run("setup.sh")

    assert done.returncode == 1
    assert "the worker cannot run on this machine: no CUDA" in done.stderr
    assert 59 < node.minutes_left() <= 60


def test_setup_without_a_limit_does_nothing(node: Node) -> None:
    del node.environ["STILLHOUSE_LIMIT_MINUTES"]

    assert node.run("setup.sh").returncode != 0
    assert not (node.state / "python").exists()


@pytest.mark.slow
def test_setup_finds_that_this_python_can_run_the_worker_but_not_on_gpus_it_does_not_see(
    node: Node,
) -> None:
    node.program("python3", f'exec {sys.executable} "$@"')
    node.program("uv", "exit 1")

    assert node.run("setup.sh").returncode == 0
    node.gpus(8)
    refused = node.run("setup.sh")

    assert refused.returncode != 0
    assert "sees 0 of 8 GPUs" in refused.stderr


# ---- run -------------------------------------------------------------------------------------


def test_one_process_is_run_as_it_is_at_home(node: Node) -> None:
    node.worker('echo "$PWD $*" >>"$CALLS"')

    done = node.run("run.sh")

    assert done.returncode == 0, done.stderr
    assert node.called() == [f"{node.bundle} -m distill run"]


def test_gpus_and_nodes_get_a_process_each_and_meet_at_the_first_node(node: Node) -> None:
    node.worker('echo "$*" >>"$CALLS"')
    node.gpus(8)

    done = node.run(
        "run.sh",
        SKYPILOT_NUM_NODES="2",
        SKYPILOT_NODE_RANK="1",
        SKYPILOT_NODE_IPS="10.0.0.7\n10.0.0.9",
        SKYPILOT_NUM_GPUS_PER_NODE="8",
    )

    assert done.returncode == 0, done.stderr
    assert node.called() == [
        "-m torch.distributed.run --nnodes=2 --nproc-per-node=8 --node-rank=1 "
        "--master-addr=10.0.0.7 --master-port=29500 -m distill run"
    ]


def test_without_a_driver_a_node_runs_one_process_on_its_processor(node: Node) -> None:
    node.worker('echo "$*" >>"$CALLS"')

    node.run("run.sh", SKYPILOT_NUM_GPUS_PER_NODE="8")

    assert node.called() == ["-m distill run"]


def test_a_machine_that_lost_a_gpu_is_not_worked_on(node: Node) -> None:
    node.worker('echo "$*" >>"$CALLS"')
    node.gpus(7)

    done = node.run("run.sh", SKYPILOT_NUM_GPUS_PER_NODE="8")

    assert done.returncode == 1
    assert "only 7 of 8 GPUs are there" in done.stderr
    assert node.called() == []


@pytest.mark.parametrize("code", [0, 4, 130])
def test_the_job_ends_as_the_worker_does_and_the_machine_has_minutes_left(
    node: Node, code: int
) -> None:
    node.worker(f"exit {code}")
    node.run("limit.sh", "set", "60")

    done = node.run("run.sh", STILLHOUSE_LINGER_MINUTES="3")

    assert done.returncode == code
    assert 2 < node.minutes_left() <= 3


def test_a_machine_says_when_it_goes_for_whoever_settles_its_bill_when_it_is_forgotten(
    node: Node,
) -> None:
    node.worker("exit 0")
    node.run("limit.sh", "set", "60")

    node.run("run.sh", SKYPILOT_NODE_RANK="1")

    at = (node.state / "limit").read_text().strip()
    said = node.calls.with_suffix(".leaving").read_text()
    assert said == f"-m distill leaving run 1 {at}\n"


def test_a_machine_that_cannot_switch_itself_off_says_nothing_of_its_end(node: Node) -> None:
    (node.sbin / "poweroff").unlink()
    node.worker("exit 0")

    node.run("limit.sh", "set", "60")
    node.run("run.sh")

    assert not node.calls.with_suffix(".leaving").exists()


SAVES_AND_ENDS = """
    trap 'echo "saved by $1" >>"$CALLS"; exit 130' TERM
    echo ready >>"$CALLS"
    while :; do sleep 0.05; done
"""


def test_a_signal_to_the_job_has_the_worker_save_and_is_waited_for(node: Node) -> None:
    node.worker(
        "trap 'sleep 0.3; echo saved >>\"$CALLS\"; exit 130' TERM\n"
        'echo ready >>"$CALLS"; while :; do sleep 0.05; done'
    )
    job = node.start("run.sh")
    wait_for("the worker", lambda: node.called() == ["ready"])

    job.terminate()

    assert job.wait(DEADLINE_S) == 130
    assert node.called() == ["ready", "saved"]


def test_saving_asks_the_processes_and_not_torchrun_which_would_kill_them(node: Node) -> None:
    rank = node.program("rank", SAVES_AND_ENDS)
    node.worker(f"""
        trap 'echo "torchrun was asked" >>"$CALLS"; exit 1' TERM
        {rank} 0 & first=$!
        {rank} 1 & second=$!
        wait "$first"; wait "$second"
    """)
    node.gpus(2)
    job = node.start("run.sh")
    wait_for("two processes", lambda: node.called() == ["ready"] * 2)

    assert node.run("save.sh").returncode == 0

    job.wait(DEADLINE_S)
    assert sorted(node.called()[2:]) == ["saved by 0", "saved by 1"]


def test_saving_where_nothing_runs_does_nothing(node: Node) -> None:
    assert node.run("save.sh").returncode == 0


# ---- the notice ------------------------------------------------------------------------------


class Metadata(ThreadingHTTPServer):
    """The metadata of a machine on AWS (only with a token) and on GCP."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.aws_notice: str | None = None
        self.gcp_preempted = False
        self.asked: list[str] = []


class Answer(BaseHTTPRequestHandler):
    server: Metadata

    def do_PUT(self) -> None:
        assert self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self.say(200, "a-token")

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.headers["X-aws-ec2-metadata-token"] == "a-token":
            notice = self.server.aws_notice
            self.say(200, notice) if notice else self.say(404, "")
        elif self.headers["Metadata-Flavor"] == "Google":
            self.say(200, "TRUE" if self.server.gcp_preempted else "FALSE")
        else:
            self.say(401, "")

    def say(self, code: int, text: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    with Metadata() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def on_spot(cloud: str, port: int) -> dict[str, str]:
    return {
        "STILLHOUSE_CLOUD": cloud,
        "STILLHOUSE_SPOT": "true",
        "STILLHOUSE_METADATA": f"http://127.0.0.1:{port}",
        "STILLHOUSE_NOTICE_EVERY_S": "0.05",
    }


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_the_notice_that_a_machine_is_taken_has_the_work_saved(
    node: Node, metadata: Metadata, cloud: str
) -> None:
    node.worker(SAVES_AND_ENDS)
    job = node.start("run.sh", **on_spot(cloud, metadata.server_port))
    wait_for("the worker", lambda: node.called() == ["ready"])
    wait_for("two questions", lambda: len(metadata.asked) >= 2)
    assert job.poll() is None

    metadata.aws_notice = '{"action": "terminate", "time": "2026-11-22T04:00:00Z"}'
    metadata.gcp_preempted = True

    assert job.wait(DEADLINE_S) == 130
    assert node.called()[1].startswith("saved")
    notice = (node.bundle / "run/spot-notice.json").read_text()
    assert notice == (metadata.aws_notice if cloud == "aws" else '{"action": "preempted"}') + "\n"


def test_metadata_that_do_not_answer_do_not_disturb_the_work(node: Node) -> None:
    node.worker("sleep 1")

    done = node.run("run.sh", **on_spot("aws", 9))

    assert done.returncode == 0
    assert done.stderr.count("the cloud's metadata do not answer") == 1


def test_a_cloud_that_gives_no_notice_is_not_asked(node: Node, metadata: Metadata) -> None:
    node.worker("sleep 0.3")

    done = node.run("run.sh", **on_spot("runpod", metadata.server_port))

    assert "runpod gives no notice" in done.stderr
    assert metadata.asked == []


def test_a_machine_on_demand_is_not_watched(node: Node, metadata: Metadata) -> None:
    node.worker("sleep 0.3")

    node.run("run.sh", **{**on_spot("aws", metadata.server_port), "STILLHOUSE_SPOT": "false"})

    assert metadata.asked == []
