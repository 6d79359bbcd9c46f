"""Marked secrets in every input, real runs, and a search through every byte that came out."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from loopback_s3 import LoopbackS3
from loopback_teacher import Behaviour, LoopbackTeacher, answer, loopback_teacher
from marked_secrets import ENVIRONMENT, GIT_REMOTE, SECRETS, files_below, forms, leaks
from process_cluster import OFFER, ProcessCluster
from tiny_recipe import TINY

from launcher.errors import ProvisionError
from launcher.machines.at_home import TeacherAtHome
from launcher.machines.local import LocalMachine
from launcher.machines.mail import StoreMail
from launcher.machines.rent import task_of
from launcher.machines.rented import RentedMachines
from launcher.machines.skypilot import redacted_into
from launcher.plans.plan import Plan
from launcher.plans.teacher_price import with_teacher_api
from launcher.runs.house import House
from launcher.runs.messengers import messengers, ways_of
from launcher.runs.run import drive, open_run
from recipes.errors import StillhouseError
from recipes.recipe import Recipe
from recipes.store_s3 import S3Store
from tracking.entries import Git

ROOT = Path(__file__).parents[2]
KEY = SECRETS["OPENAI_API_KEY"]

RECIPE = """\
name: asks
teacher:
  kind: api
  base_url: {url}
  model: big
  usd_per_million_input_tokens: 3
  usd_per_million_output_tokens: 15
  sampling: {{max_new_tokens: 8}}
student:
  kind: new
  characters: "abcdefghijklmnopqrstuvwxyz0123456789+=-/[]"
  layers: 1
  hidden_size: 16
  heads: 2
  intermediate_size: 16
data: {{kind: generated, rows: 6, prompt: "{{question}}="}}
training: {{steps: 2, batch_size: 2, learning_rate: 0.01, dtype: float32, threads: 1}}
hardware: {hardware}
budget: {{usd: 20}}
"""


def echo(authorization: str) -> tuple[int, str]:
    """An endpoint that repeats the key in its answer, as one that is being debugged may."""
    return 200, answer(authorization.removeprefix("Bearer "))


def refuse(authorization: str) -> tuple[int, str]:
    return 401, f'{{"error": "{authorization} is not allowed"}}'


def mumble_first(teacher: LoopbackTeacher) -> Behaviour:
    """Its first answer cannot be read; the others are the key, too."""
    return lambda key: (200, f"{key}?") if len(teacher.asked) == 1 else echo(key)


@pytest.fixture
def teacher() -> Iterator[LoopbackTeacher]:
    with loopback_teacher() as teacher:
        yield teacher


# ---- at home: the real commands --------------------------------------------------------------


@dataclass
class Terminal:
    """A person's terminal, in a git repository, with all their secrets in the environment."""

    folder: Path
    home: Path
    said: dict[str, bytes] = field(default_factory=dict)

    def still(self, *words: str, **environ: str) -> int:
        """One command; its exit code. What it printed is kept."""
        done = subprocess.run(
            [sys.executable, "-m", "launcher.cli", *words],
            cwd=self.folder,
            env={**self._environ(), **environ},
            capture_output=True,
            check=False,
            timeout=300,
        )
        self.said[f"{len(self.said)} still {' '.join(words)}"] = done.stdout + done.stderr
        return done.returncode

    def _environ(self) -> dict[str, str]:
        ours = {name: os.environ[name] for name in ("PATH", "HF_HUB_OFFLINE", "OMP_NUM_THREADS")}
        return {
            **ours,
            **ENVIRONMENT,
            "HOME": str(self.folder),
            "STILLHOUSE_HOME": str(self.home),
            "PYTHONPATH": str(ROOT),
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def end_followers(self) -> None:
        """Those that would go on asking an MLflow that is away."""
        own = f"STILLHOUSE_HOME={self.home}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if own in (process / "environ").read_bytes().split(b"\0"):
                    os.kill(int(process.name), signal.SIGKILL)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    folder = tmp_path / "repository"
    folder.mkdir()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    (folder / ".env").write_text("")
    for words in (
        ["init", "-q"],
        ["remote", "add", "origin", GIT_REMOTE],
        ["add", ".env"],
        ["commit", "-qm", "a"],
    ):
        subprocess.run([*git, *words], cwd=folder, check=True)
    (folder / ".env").write_text(f"KEY={KEY}\n")  # in `git diff`
    terminal = Terminal(folder, tmp_path / "stillhouse-home")
    yield terminal
    terminal.end_followers()


def others_can(path: Path) -> bool:
    mode = path.lstat().st_mode
    return not stat.S_ISLNK(mode) and bool(mode & 0o077)


@pytest.mark.slow
def test_no_secret_of_a_run_at_home_comes_out_anywhere_and_nothing_is_for_others_to_read(
    terminal: Terminal, teacher: LoopbackTeacher
) -> None:
    recipe = terminal.folder / "asks.yaml"
    recipe.write_text(RECIPE.format(url=teacher.url, hardware="{local: true, usd_per_hour: 0.36}"))

    teacher.behave = mumble_first(teacher)
    # MLflow and the webhook are away, and the command fails.
    assert terminal.still("launch", str(recipe), "--yes") == 0
    assert terminal.still("sync", "latest", MLFLOW_TRACKING_URI="") == 0
    for words in ("show latest --json", "logs latest", "ls --json", "compare --json"):
        assert terminal.still(*words.split()) == 0
    terminal.end_followers()

    assert set(teacher.asked) == {f"Bearer {KEY}"}
    written = files_below(terminal.home)
    names = {Path(path).name for path in written}
    assert {
        "ledger.db", "mlflow.db", "worker.log", "tracker.log", "traces.jsonl", "notices.log",
        "model.safetensors", "receipt.json",
    } <= names  # fmt: skip
    assert leaks(written | terminal.said) == []
    assert b"[key]" in b"".join(written.values())  # it was said, and taken out
    everything = [terminal.home, *terminal.home.rglob("*")]
    assert [str(path) for path in everything if others_can(path)] == []


# ---- on rented machines ----------------------------------------------------------------------


class TalkativeCluster(ProcessCluster):
    """The task as SkyPilot reads it; the first launch fails, and says more than it should."""

    def __init__(self, environ: dict[str, str]) -> None:
        super().__init__(environ)
        self.tasks: list[str] = []

    def launch(self, task_yaml: str, cluster: str, log: Path, patience_s: float) -> None:
        self.tasks.append(task_yaml)
        with redacted_into(log) as stream:
            print(f"launching with {KEY}", file=stream)
        if len(self.tasks) == 1:
            raise ProvisionError(f"SkyPilot could not do {cluster}: the token {KEY} is bad")
        super().launch(yaml.safe_load(task_yaml)["workdir"], cluster, log, patience_s)


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch, s3: LoopbackS3) -> dict[str, str]:
    """Of this process, which is the launcher: all secrets, and an S3 that answers."""
    for name, value in {**ENVIRONMENT, **s3.environ()}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SESSION_TOKEN", SECRETS["AWS_SESSION_TOKEN"])
    return dict(os.environ)


@pytest.mark.slow
def test_no_secret_of_a_rented_run_reaches_its_machine_its_store_or_its_books(
    house: House,
    recipe: Recipe,
    plan: Plan,
    teacher: LoopbackTeacher,
    s3: LoopbackS3,
    environ: dict[str, str],
) -> None:
    asks = Recipe.model_validate(
        yaml.safe_load(RECIPE.format(url=teacher.url, hardware='{accelerators: "H100:1"}'))
    )
    bucket = s3.bucket()
    cluster = TalkativeCluster(s3.environ())
    mail = StoreMail(lambda _url: S3Store(bucket, "asks-1", s3.client()))
    counted = plan.model_copy(update={"prompt_bytes": 100, "units": {**plan.units, "generate": 6}})
    priced = with_teacher_api(counted, asks)
    open_run(house.home, house.ledger, "asks-1", asks, priced, Git(), f"s3://{bucket}/asks-1")
    folder = house.home.run("asks-1").path
    home = LocalMachine(house.home.path, environ)
    rented = RentedMachines(cluster, no_aws, mail, task_of, aside=lambda work: work())

    with messengers(ways_of(environ), folder / "notices.log", last_wait_s=1.0) as notify:
        ours = replace(
            house,
            backend=TeacherAtHome(home, rented),
            next_offer=lambda _plan, _books: OFFER,
            notify=notify,
            clock=time.time,
            sleep=lambda _s: time.sleep(0.05),
        )
        teacher.behave = refuse
        with pytest.raises(StillhouseError, match=r"Bearer \[key\] is not allowed"):
            drive(ours, "asks-1")
        teacher.behave = echo
        drive(ours, "asks-1")
    cluster.take_away()

    books = house.ledger.books("asks-1")
    assert [a.how for a in books.attempts] == ["failed", "answered", "no machine", "done"]
    sent = {
        found["Key"]: s3.client().get_object(Bucket=bucket, Key=found["Key"])["Body"].read()
        for found in s3.client().list_objects_v2(Bucket=bucket)["Contents"]
    }
    said = {"view": "\n".join(house.view.said).encode(), "task": cluster.tasks[-1].encode()}  # type: ignore[attr-defined]
    written = files_below(house.home.path)
    assert {"recipe.json", "provision.log", "notices.log"} <= {Path(path).name for path in written}
    assert any(key.startswith("asks-1/traces/") for key in sent)
    assert leaks(written | sent | said) == []
    bundle = (folder / "bundle").rglob("*")  # the machine's own Python has cached code in it since
    assert [p for p in bundle if others_can(p) and "__pycache__" not in p.parts] == []
    assert b"launching with [OPENAI_API_KEY]" in written[str(folder / "provision.log")]


def no_aws(regions: Any) -> Any:
    raise AssertionError("nothing was rented of AWS")


# ---- the search itself -----------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in SECRETS if name != "MLFLOW_TRACKING_USERNAME"])
def test_a_leak_that_is_planted_is_found_in_each_of_its_forms(name: str, tmp_path: Path) -> None:
    for number, form in enumerate(forms(SECRETS[name])):
        planted = tmp_path / f"deep/{number}/ledger.db-wal"
        planted.parent.mkdir(parents=True)
        planted.write_bytes(b"\0\x01 before " + form + b"\xff after")

        assert leaks(files_below(planted.parent)) != [], form


def test_what_holds_no_secret_is_no_leak(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"kind": "stage_started", "stage": "train"}\n')

    assert leaks(files_below(tmp_path)) == []


# ---- what is given wrongly -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("base_url", "https://ada:mark3d-url-4711@example.org/v1"),
        ("base_url", "https://example.org/v1?key=mark3d-query-4711"),
        ("api_key_env", "sk-mark3d-teacher-4711"),
        ("api_key", "sk-mark3d-teacher-4711"),
    ],
)
def test_a_key_that_stands_in_a_recipe_is_refused_and_not_repeated(
    still: Any, tmp_path: Path, field: str, value: str
) -> None:
    path = tmp_path / "asks.yaml"
    text = RECIPE.format(url="https://example.org/v1", hardware="{}")
    asks = yaml.safe_load(text)
    asks["teacher"][field] = value
    path.write_text(yaml.safe_dump(asks))

    result = still("check", path)
    changed = still("check", path, "--json")

    assert result.exit_code == changed.exit_code == 2
    assert f"teacher.{field}" in result.stderr + result.stdout
    assert leaks({"check": f"{result.output}{result.stderr}{changed.output}".encode()}) == []


@pytest.mark.parametrize(
    "url",
    [
        "s3://ada:mark3d-store-4711@bucket/runs",
        "https://bucket.example.org/runs?sig=mark3d-signature-4711",
    ],
)
def test_a_key_in_the_url_of_a_store_is_refused_before_anything_is_written_down(
    still: Any, tmp_path: Path, own_home: Path, sky_home: Path, outside: Any, url: str
) -> None:
    outside.environ["HOME"] = str(sky_home)
    made = outside.pricing.plan(Recipe.model_validate(yaml.safe_load(TINY)), tmp_path)
    rents = made.recipe.model_copy(
        update={"hardware": made.recipe.hardware.model_copy(update={"local": False})}
    )

    with pytest.raises(StillhouseError, match="run store") as caught:
        outside.driving.open_run(replace(made, recipe=rents), url)

    assert outside.ledger.run_ids() == []
    assert leaks(files_below(own_home) | {"error": str(caught.value).encode()}) == []
