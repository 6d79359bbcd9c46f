"""The rooms keep to their rules."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    return [Path(name) for name in listed.stdout.split("\0") if name]


def test_the_sky_folder_holds_no_python_and_nothing_of_ours_is_called_sky() -> None:
    python = [path for path in tracked() if path.suffix == ".py"]

    assert [path for path in python if path.parts[0] == "sky"] == []
    assert [path for path in python if path.name == "sky.py"] == []


def test_no_init_file_lies_below_tests() -> None:
    inits = [path for path in tracked() if path.name == "__init__.py"]

    assert [path for path in inits if path.parts[0] == "tests"] == []


def test_import_sky_is_skypilot_even_from_the_root_of_the_repository() -> None:
    found = subprocess.run(
        [sys.executable, "-c", "import importlib.util as u; print(u.find_spec('sky').origin)"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )

    assert importlib.metadata.version("skypilot")
    assert Path(found.stdout.strip()).name == "__init__.py"
    assert ROOT / "sky" not in Path(found.stdout.strip()).parents


def test_recipes_can_be_read_without_torch_mlflow_or_skypilot() -> None:
    script = (
        "import sys, recipes.loading, recipes.rundir, recipes.schema\n"
        "heavy = {'torch', 'transformers', 'mlflow', 'sky', 'boto3', 'datasets', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True, text=True
    )

    assert loaded.stdout.strip() == "[]"
