"""What travels to a rented machine: the worker's code, the node's scripts, and the run's folder.

    recipes/ distill/ sky/ constraints.txt      as they are here, so that both ends speak alike
    run/recipe.json limits.json plan.json       what is to be done, and for how much
    run/inputs/                                 model folders and data files that the recipe names

No key and no token is in it: a node has its role, and teachers behind an API are asked from home.
"""

import shutil
from pathlib import Path

from launcher.machines.task import node_folder
from recipes.errors import InvalidInputError
from recipes.paths import with_paths
from recipes.rundir import RunDir, write_model

CODE = ("recipes", "distill")


def make_bundle(run: RunDir) -> Path:
    """Make the bundle of a run anew, in its folder; the path of it.

    Models and data are linked where the disk allows, so that they take no room twice.

    Raises:
        InvalidInputError: one of them is not on this machine, as when it was launched on another.
    """
    bundle = run.path / "bundle"
    shutil.rmtree(bundle, ignore_errors=True)
    root = node_folder().parent
    for package in CODE:
        shutil.copytree(
            root / package, bundle / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copytree(root / "sky", bundle / "sky")
    shutil.copy2(root / "constraints.txt", bundle)
    inside = RunDir(bundle / "run")
    inside.path.mkdir(mode=0o700)
    _write_recipe(run, inside)
    shutil.copy2(run.limits, inside.limits)
    shutil.copy2(run.plan, inside.plan)
    _keep_from_others(bundle)
    return bundle


def _keep_from_others(folder: Path) -> None:
    """Copies have the modes of what was copied. What is only linked is the person's own file."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() or path.stat().st_nlink == 1:
            path.chmod(path.stat().st_mode & 0o700)


def _write_recipe(run: RunDir, inside: RunDir) -> None:
    """The run's recipe with its models and files beside it, at `./inputs/`."""
    inputs = inside.path / "inputs"

    def bring(field: str, path: str) -> str:
        source = Path(path)
        if not source.exists():
            raise InvalidInputError(
                f"{field} of {run.path.name} is {path}, which is not on this machine. Bring it "
                "here, or go on with the run where it is"
            )
        target = inputs / field / source.name
        target.parent.mkdir(parents=True)
        if source.is_dir():
            shutil.copytree(source, target, copy_function=_link_or_copy)
        else:
            _link_or_copy(str(source.resolve()), str(target))
        return f"./{target.relative_to(inside.path)}"

    write_model(inside.recipe, with_paths(run.read_recipe(), bring, bring))


def _link_or_copy(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(Path(source).resolve())
    except OSError:  # another disk
        shutil.copy2(source, target)
