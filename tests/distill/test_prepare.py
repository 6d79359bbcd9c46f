"""A teacher is trained once, survives any kill, and is an ordinary model folder."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill.prepare import content_hash, main, prepare
from recipes.errors import InvalidInputError, StillhouseError
from recipes.loading import load_recipe
from recipes.rundir import RunDir, StageDone, WorkerStarted, read_events

ROOT = Path(__file__).parents[2]

RECIPE = """
name: small
teacher: {kind: none}
student:
  {kind: new, characters: "0123456789+=>,;", layers: 1, hidden_size: 16, heads: 2,
   intermediate_size: 16, context_tokens: 64}
data: {kind: generated, prompt: "{question}=", completion: "{working};{answer}", rows: 50}
training:
  {steps: 60, batch_size: 8, max_tokens: 64, learning_rate: 0.001, dtype: float32, threads: 1,
   checkpoint_every_steps: 3}
evaluation:
  - {kind: exact_match, task: sums, max_new_tokens: 4,
     data:
       {kind: generated, part: held_out, prompt: "{question}=", completion: "{answer}", rows: 9}}
hardware: {local: true, usd_per_hour: 0.12}
budget: {usd: 1}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A home in which the teacher was made in one go, and what the command printed."""
    home = tmp_path_factory.mktemp("made")
    recipe = home / "small.yaml"
    recipe.write_text(RECIPE)
    environ = os.environ | {"STILLHOUSE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    printed = subprocess.run(
        command(recipe), cwd=ROOT, capture_output=True, text=True, check=True, env=environ
    )
    return home, printed


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[..., Path]:
    """A recipe that trains for a moment; changes are pairs of old and new text."""

    def write(*changes: tuple[str, str]) -> Path:
        text = RECIPE
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "small.yaml"
        path.write_text(text)
        return path

    return write


def command(recipe: Path, name: str = "adder") -> list[str]:
    return [sys.executable, "-m", "distill.prepare", str(recipe), "--name", name]


def start(recipe: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(recipe),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run_of(recipe: Path, home: Path) -> RunDir:
    return RunDir(home / "teachers" / f"adder-{content_hash(load_recipe(recipe))[:16]}")


def events(run: RunDir, kind: type) -> list[Any]:
    return [event for event, _ in read_events(run.events) if isinstance(event, kind)]


def stages_done(run: RunDir) -> list[str]:
    return [event.stage for event in events(run, StageDone)]


@pytest.mark.slow
def test_a_teacher_is_an_ordinary_model_folder_and_the_result_a_line(
    made: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    home, printed = made

    # Plain lines where there is no terminal, and the result alone on stdout.
    assert printed.stdout.startswith("teacher adder: sums 0.")
    assert "made in" in printed.stdout
    assert "teacher adder: starting\n" in printed.stderr
    assert "\x1b" not in printed.stderr + printed.stdout
    link = home / "teachers" / "adder"
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    from distill.models import load_model, load_tokenizer

    assert load_model(str(link)).config.num_hidden_layers == 1
    assert load_tokenizer(str(link)).chat_template


@pytest.mark.slow
def test_a_second_call_sees_that_it_is_there_without_loading_torch(
    made: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    home, _ = made
    script = (
        "import sys; from distill.prepare import main; main(sys.argv[1:]); "
        "print([name for name in ('torch', 'rich') if name in sys.modules])"
    )

    again = subprocess.run(
        [sys.executable, "-c", script, *command(home / "small.yaml")[3:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"STILLHOUSE_HOME": str(home)},
    )

    assert "made earlier" in again.stdout
    assert again.stdout.endswith("[]\n")
    assert len(events(run_of(home / "small.yaml", home), WorkerStarted)) == 1


@pytest.mark.slow
def test_a_teacher_killed_in_mid_training_is_finished_by_the_next_call_and_is_the_same(
    made: tuple[Path, subprocess.CompletedProcess[str]],
    write_recipe: Callable[..., Path],
    own_home: Path,
) -> None:
    recipe = write_recipe()
    run = run_of(recipe, own_home)
    process = start(recipe)
    while not list(run.checkpoints.glob("*/complete")):
        assert process.poll() is None
        time.sleep(0.01)

    os.killpg(process.pid, signal.SIGKILL)  # the whole group: the command and its worker
    process.communicate()
    assert not (own_home / "teachers" / "adder").exists()
    said = prepare(recipe, "adder", own_home)

    assert "made in" in said
    one, other = (home / "teachers" / "adder" / "model.safetensors" for home in (own_home, made[0]))
    assert one.read_bytes() == other.read_bytes()
    assert stages_done(run) == ["train", "evaluate"]


@pytest.mark.slow
def test_a_second_call_follows_the_worker_of_the_first(
    write_recipe: Callable[..., Path], own_home: Path
) -> None:
    recipe = write_recipe()

    calls = [start(recipe), start(recipe)]
    outputs = [call.communicate() for call in calls]

    assert [call.returncode for call in calls] == [0, 0], outputs
    assert all("made in" in out for out, _ in outputs)
    assert stages_done(run_of(recipe, own_home)) == ["train", "evaluate"]


def test_another_recipe_is_another_teacher_and_the_name_moves_to_it(
    write_recipe: Callable[..., Path], own_home: Path
) -> None:
    link = own_home / "teachers" / "adder"
    recipes = [(), (("steps: 60", "steps: 5"),), ()]
    for changes in recipes[:2]:
        run = run_of(write_recipe(*changes), own_home)
        run.student.mkdir(parents=True)
        run.done.write_text("{}")

    pointed = []
    for changes in recipes:
        prepare(write_recipe(*changes), "adder", own_home)
        pointed.append(link.resolve())

    assert pointed[0] == pointed[2] != pointed[1]
    assert all(student.is_dir() for student in pointed)


@pytest.mark.slow
def test_a_training_that_cannot_work_says_why_in_one_line(
    write_recipe: Callable[..., Path], own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(("max_tokens: 64", "max_tokens: 20"))

    code = main([str(recipe), "--name", "adder"], {"STILLHOUSE_HOME": str(own_home)})

    error = capsys.readouterr().err.splitlines()[-1]
    assert code == StillhouseError.exit_code
    assert error.startswith("Error: row 0 of the data has")
    assert "Raise training.max_tokens" in error
    assert not (own_home / "teachers" / "adder").exists()


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden"])
def test_a_name_that_is_no_plain_name_is_refused(
    write_recipe: Callable[..., Path], own_home: Path, name: str
) -> None:
    with pytest.raises(InvalidInputError, match="plain name"):
        prepare(write_recipe(), name, own_home)
    assert not own_home.exists()


def test_a_recipe_with_a_teacher_is_refused_with_a_way_out(
    write_recipe: Callable[..., Path], own_home: Path
) -> None:
    taught = write_recipe(("{kind: none}", "{kind: dataset, model: a/b}"))

    with pytest.raises(InvalidInputError, match=r"these are dataset and generated.*still launch"):
        prepare(taught, "adder", own_home)


def test_a_folder_where_the_link_belongs_is_left_alone(
    write_recipe: Callable[..., Path], own_home: Path
) -> None:
    recipe = write_recipe()
    run = run_of(recipe, own_home)
    run.path.mkdir(parents=True)
    run.done.write_text("{}")
    mine = own_home / "teachers" / "adder"
    mine.mkdir()

    with pytest.raises(InvalidInputError, match="a folder of its own"):
        prepare(recipe, "adder", own_home)
    assert mine.is_dir()


def test_a_file_that_is_no_recipe_is_an_error_and_no_traceback(
    tmp_path: Path, own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([str(tmp_path / "no.yaml"), "--name", "x"], {"STILLHOUSE_HOME": str(own_home)})

    assert code == InvalidInputError.exit_code
    assert capsys.readouterr().err.startswith("Error: ")
