"""kill -9 of the launcher at any moment: `still resume` goes on, and nothing is paid for twice.

The real command, worker, ledger and clock; a teacher and a student of a few thousand parameters.
The worker's own deaths are tested in tests/distill/test_kill.py.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from recipes.rundir import RunDir, StageDone, Trace, read_events, read_lines
from tracking.home import Home
from tracking.ledger import Ledger

KILLS = 20

RECIPE = """\
name: tiny
teacher:
  kind: model
  model: {teacher}
  dtype: float32
  sampling: {{max_new_tokens: 16, temperature: 1.0}} # random weights: every 14th token is the end
student:
  kind: new
  characters: "0123456789+="
  layers: 1
  hidden_size: 16
  heads: 2
  intermediate_size: 16
  context_tokens: 32
data: {{kind: generated, rows: 40, prompt: "{{question}}="}}
training:
  steps: 60
  batch_size: 4
  max_tokens: 32
  learning_rate: 0.01
  dtype: float32
  threads: 1
  checkpoint_every_steps: 7
evaluation:
  - task: sums
    data:
      kind: generated
      part: held_out
      rows: 20
      prompt: "{{question}}="
      completion: "{{answer}}"
    max_new_tokens: 4
hardware: {{local: true, usd_per_hour: 3.60}}
budget: {{usd: 1.00}}
"""

MAKE_TEACHER = """\
import sys, torch
from distill.models import new_student
from recipes.recipe import NewStudent
torch.manual_seed(0)
model, tokenizer = new_student(NewStudent(characters="0123456789+=", layers=1, hidden_size=16,
    heads=2, intermediate_size=16, context_tokens=32))
model.save_pretrained(sys.argv[1])
tokenizer.save_pretrained(sys.argv[1])
"""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kill")
    subprocess.run([sys.executable, "-c", MAKE_TEACHER, str(folder / "teacher")], check=True)
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.format(teacher=folder / "teacher"))
    return path


@pytest.fixture(scope="module")
def reference(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The scores, the traces and the home of a run that nobody disturbed."""
    home = Home(tmp_path_factory.mktemp("reference"))
    still("launch", recipe_file, "--yes", home=home).check_returncode()
    run = home.run(newest(home))
    return {"home": home, "scores": json.loads(run.scores.read_text()), "texts": texts(run)}


def environ(home: Home) -> dict[str, str]:
    ours = {"STILLHOUSE_HOME": str(home.path), "OMP_NUM_THREADS": "1"}
    return {name: value for name, value in os.environ.items() if "MLFLOW" not in name} | ours


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "launcher.cli", *map(str, words)]


def still(*words: object, home: Home) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(*words), env=environ(home), capture_output=True, text=True, check=False
    )


def newest(home: Home) -> str:
    with Ledger(home.ledger) as ledger:
        return ledger.resolve("latest")


def texts(run: RunDir) -> list[str]:
    return [Trace.model_validate_json(line).text for line, _ in read_lines(run.traces)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(KILLS))
def test_a_launcher_killed_at_any_moment_is_resumed_to_the_same_end(
    seed: int,
    recipe_file: Path,
    reference: dict[str, Any],
    empty_mlflow: Path,
    tmp_path: Path,
) -> None:
    home = Home(tmp_path / "home")
    shutil.copytree(reference["home"].path / "trials", home.path / "trials")
    shutil.copy(empty_mlflow, home.mlflow_db)
    patience_s = random.Random(seed).uniform(0.0, 12.0)

    launch = subprocess.Popen(
        command("launch", recipe_file, "--yes"),
        env=environ(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(patience_s)
    launch.send_signal(signal.SIGKILL)
    launch.wait()

    if not home.ledger.exists() or not (home.path / "runs").exists():
        return  # killed before there was a run: nothing was begun and nothing can be owed
    with Ledger(home.ledger) as ledger:
        if not ledger.run_ids():
            return
    resumed = still("resume", "latest", home=home)
    assert resumed.returncode == 0, resumed.stderr

    run = home.run(newest(home))
    done = Counter(
        event.stage for event, _ in read_events(run.events) if isinstance(event, StageDone)
    )
    assert done == {"generate": 1, "train": 1, "evaluate": 1}
    assert texts(run) == reference["texts"]
    assert json.loads(run.scores.read_text()) == reference["scores"]
    with Ledger(home.ledger) as ledger:
        books = ledger.books(run.path.name)
    paid_s = sum((a.ended_at or a.started_at) - a.started_at for a in books.attempts)
    assert books.state == "done"
    assert books.reserved_micro_usd == 0
    assert books.overshoots == ()
    assert float(books.spent_micro_usd) == pytest.approx(paid_s * 1000, rel=0.01)
    receipt = json.loads(still("show", "--json", home=home).stdout)
    assert Decimal(receipt["metered_usd"]).scaleb(6) == books.spent_micro_usd
    assert sum(map(Decimal, receipt["lines"].values())) == Decimal(receipt["metered_usd"])
