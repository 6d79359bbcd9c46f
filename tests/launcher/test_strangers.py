"""Recipes from strangers: they reach no shell, run no code, lead out of no folder, and end."""

import os
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from process_cluster import OFFER
from tiny_recipe import TINY

from distill.context import WorkerError
from distill.models import new_student, remote_code_allowed
from launcher.cli import cli
from launcher.machines.bundle import make_bundle
from launcher.machines.labels import labels
from launcher.machines.rent import task_of
from launcher.outside import Outside
from launcher.plans.plan import Plan
from launcher.plans.speeds import run_trial
from recipes.calibration import Calibration
from recipes.errors import InvalidInputError, InvalidRecipeError
from recipes.loading import parse_recipe
from recipes.recipe import NewStudent, PretrainedStudent, Recipe
from recipes.rundir import Limits, RunDir, read_model, write_model
from tracking.home import Home

HOSTILE = (
    "$(touch pwned)",
    "`touch pwned`",
    "'; touch pwned; '",
    '"; touch pwned; "',
    "a\ntouch pwned\n",
    "| touch pwned #",
    "{{ pwned }} %{pwned} \\\n - pwned: true",
    "a[$(touch pwned)]",
)


@pytest.fixture
def opened(recipe: Recipe, plan: Plan, tmp_path: Path) -> Callable[[dict[str, Any]], RunDir]:
    """A run's folder, as it is before an attempt on rented machines."""

    def make(changes: dict[str, Any]) -> RunDir:
        run = RunDir(tmp_path / "tiny-261122-0331-k7q2")
        run.path.mkdir()
        write_model(run.recipe, Recipe.model_validate(recipe.model_dump() | changes))
        write_model(run.plan, plan)
        limits = Limits(
            attempt=1,
            started_at=1_800_000_000.0,
            usd_per_hour=Decimal("3.60"),
            machine_usd=Decimal(1),
            store=str(tmp_path / "store"),
        )
        write_model(run.limits, limits)
        return run

    return make


# ---- shells ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_that_a_recipe_says_is_in_what_a_machines_shell_is_given(
    opened: Callable[[dict[str, Any]], RunDir], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", text)  # who pays becomes a label
    source = {"kind": "hub", "dataset": "a/b", "revision": text, "config": text, "split": text}
    wording = {"prompt": "{question} " + text.replace("{", "{{").replace("}", "}}")}
    teacher = {"kind": "dataset", "model": text}
    data = source | wording | {"completion": "{a}", "system": text}
    run = opened({"description": text, "teacher": teacher, "data": data})

    task = yaml.safe_load(task_of(run, OFFER, "cluster"))

    assert "pwned" in run.recipe.read_text()
    assert "pwned" not in str({**task, "labels": None, "resources": None})
    assert set(task["envs"]) == {
        "STILLHOUSE_CLOUD", "STILLHOUSE_SPOT", "STILLHOUSE_LIMIT_MINUTES", "STILLHOUSE_LIMIT_AT",
        "STILLHOUSE_LINGER_MINUTES",
    }  # fmt: skip
    for label in task["resources"]["labels"].values():
        assert set(label) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_")
    for command in (task["setup"], task["run"]):
        subprocess.run(["bash", "-n", "-c", command], check=True)


@pytest.mark.parametrize("cloud", ["aws", "gcp", "kubernetes", "lambda"])
@pytest.mark.parametrize("owner", HOSTILE)
def test_who_pays_becomes_a_label_without_a_sign_that_means_anything(
    cloud: str, owner: str
) -> None:
    marks = labels(cloud, run_id="tiny-1", owner=owner, expires_at=0.0)

    for value in marks.values():
        assert not set(value) & set("$`'\"\n|;&<>(){}[]\\ #%")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "a\n"),
        ("name", "$(id)"),
        ("name", "../a"),
        ("hardware.accelerators", "H100:8\n"),
        ("hardware.accelerators", "$(id):8"),
        ("teacher.api_key_env", "AWS_SECRET_ACCESS_KEY"),
        ("teacher.api_key_env", "OPENAI_API_KEY\n"),
        ("teacher.base_url", "file:///etc/passwd"),
        ("teacher.base_url", "https://a b"),
        ("data.dataset", "../.."),
        ("data.dataset", "./secrets"),
        ("data.dataset", "a/b/c"),
        ("evaluation.0.task", "../../x"),
    ],
)
def test_a_value_that_becomes_a_name_an_address_or_a_path_has_a_narrow_alphabet(
    field: str, value: str
) -> None:
    tree = yaml.safe_load(TINY)
    tree["teacher"] = {"kind": "api", "base_url": "https://example.org/v1", "model": "m"}
    tree["data"] = {"kind": "hub", "dataset": "a/b", "revision": "1", "prompt": "{q}"}
    tree["evaluation"] = [{"task": "t", "data": tree["data"] | {"completion": "{a}"}}]
    assert parse_recipe(yaml.safe_dump(tree).encode(), "x.yaml")
    part: Any = tree
    *above, last = field.split(".")
    for step in above:
        part = part[int(step) if step.isdigit() else step]
    part[last] = value

    with pytest.raises(InvalidRecipeError, match=field):
        parse_recipe(yaml.safe_dump(tree).encode(), "x.yaml")


# ---- folders ---------------------------------------------------------------------------------


def test_what_a_recipe_brings_along_stays_in_the_folder_of_its_field(
    opened: Callable[[dict[str, Any]], RunDir], tmp_path: Path
) -> None:
    rows = tmp_path / "elsewhere/$(touch pwned) ' rows.jsonl"
    rows.parent.mkdir()
    rows.write_text('{"q": "1", "a": "1"}\n')
    way = f"{tmp_path}/elsewhere/../elsewhere/{rows.name}"
    data = {"kind": "jsonl", "path": way, "prompt": "{q}", "completion": "{a}"}
    run = opened({"data": data, "evaluation": [{"task": "t", "data": data}]})

    bundle = make_bundle(run)

    inputs = bundle / "run/inputs"
    assert sorted(
        str(path.relative_to(inputs)) for path in inputs.rglob("*") if path.is_file()
    ) == [
        f"data.path/{rows.name}",
        f"evaluation[0].data.path/{rows.name}",
    ]
    there: Any = RunDir(bundle / "run").read_recipe()
    assert Path(there.data.path).read_bytes() == rows.read_bytes()
    assert Path(there.data.path).is_relative_to(inputs)


# ---- code that comes with a model ------------------------------------------------------------


@pytest.mark.parametrize(("recipe_says", "person_says"), list(product([False, True], repeat=2)))
def test_code_of_a_model_runs_only_where_recipe_and_person_both_say_so(
    recipe_says: bool, person_says: bool
) -> None:
    limits = Limits(
        attempt=1,
        started_at=0.0,
        usd_per_hour=Decimal(0),
        machine_usd=Decimal(0),
        allow_remote_code=person_says,
    )

    if recipe_says and not person_says:
        with pytest.raises(WorkerError, match="--trust-remote-code"):
            remote_code_allowed(recipe_says, limits)
    else:
        assert remote_code_allowed(recipe_says, limits) is (recipe_says and person_says)


@pytest.mark.parametrize("words", [[], ["--trust-remote-code"]])
def test_the_person_says_so_for_one_launch(
    still: Any, recipe_file: Path, outside: Any, words: list[str]
) -> None:
    result = still("launch", recipe_file, "--yes", *words)

    assert result.exit_code == 0, result.stderr
    (run_id,) = outside.ledger.run_ids()
    limits = read_model(outside.home.run(run_id).limits, Limits)
    assert limits.allow_remote_code is bool(words)


@pytest.mark.parametrize(
    "command", [["plan"], ["launch", "--yes"], ["rehearse", "--yes"], ["diff"]], ids=lambda c: c[0]
)
@pytest.mark.parametrize("words", [[], ["--trust-remote-code"]])
def test_the_person_says_so_for_the_trial_too(
    own_home: Path,
    clock: Any,
    machine: Any,
    trial: Calibration,
    recipe_file: Path,
    command: list[str],
    words: list[str],
) -> None:
    said: list[bool] = []

    def measure(_recipe: Recipe, allow_remote_code: bool) -> Calibration:
        said.append(allow_remote_code)
        return trial

    outside = Outside(
        environ={"STILLHOUSE_HOME": str(own_home)},
        clock=clock,
        sleep=clock.sleep,
        backend=machine,
        trial=measure,
        track=lambda run_id: None,
    )
    recipes = [str(recipe_file)] * (2 if command == ["diff"] else 1)

    result = CliRunner(mix_stderr=False).invoke(cli, [*command, *recipes, *words], obj=outside)

    assert result.exit_code == 0, result.stderr
    assert set(said) == {bool(words)}


@pytest.mark.slow
def test_a_trial_here_takes_the_persons_word(recipe: Recipe, tmp_path: Path) -> None:
    assert isinstance(recipe.student, NewStudent)
    model, tokenizer = new_student(recipe.student)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    student = PretrainedStudent(model=str(tmp_path / "model"), trust_remote_code=True)
    trusting = recipe.model_copy(update={"student": student})
    measure = run_trial(Home(tmp_path / "home"))

    with pytest.raises(InvalidInputError, match="was not allowed on the command line"):
        measure(trusting, False)
    assert "train" in measure(trusting, True).stages


@pytest.mark.slow
def test_a_model_folder_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    """transformers itself, on what a stranger's model folder looks like."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(
        '{"model_type": "odd", "auto_map": {"AutoConfig": "odd.Odd", '
        '"AutoModelForCausalLM": "odd.OddModel", "AutoTokenizer": ["odd.Odd", null]}}'
    )
    (folder / "odd.py").write_text("open('pwned', 'w')\n")
    program = (
        "import sys\n"
        "from distill.context import WorkerError\n"
        "from distill.models import load_model, load_shape, load_tokenizer\n"
        "for load in (load_tokenizer, load_shape, load_model):\n"
        "    try:\n"
        "        load(sys.argv[1])\n"
        "    except WorkerError:\n"
        "        print('refused')\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.split() == ["refused"] * 3
    assert list(tmp_path.rglob("pwned")) == []


# ---- files that explode ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"a: &a [x, x, x, x, x, x, x, x, x]\n"
        + b"".join(
            b"%c: &%c [%s]\n" % (c + 1, c + 1, b", ".join([b"*%c" % c] * 9)) for c in range(97, 121)
        ),
        b"[" * 100_000,
        b"{a: " * 100_000,
        b"- " * 100_000,
        b"? " * 100_000,
        b"a" * 100_000_000,
        b"name: " + b"9" * 900_000,
        b"!!python/object/apply:os.system [touch pwned]",
    ],
    ids=["laughs", "lists", "maps", "dashes", "keys", "100 MB", "digits", "object"],
)
def test_a_file_that_would_explode_is_refused_at_once(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_bytes(content)
    program = (
        "import pathlib, resource, sys\n"
        "from recipes.errors import InvalidRecipeError\n"
        "from recipes.loading import load_recipe\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))\n"  # half a GB
        "resource.setrlimit(resource.RLIMIT_CPU, (10, 10))\n"
        "try:\n"
        "    load_recipe(pathlib.Path(sys.argv[1]))\n"
        "except InvalidRecipeError as error:\n"
        "    assert len(str(error)) < 50_000, len(str(error))\n"
        "    print('refused')\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout == "refused\n", done.stderr
    assert not (tmp_path / "pwned").exists()
