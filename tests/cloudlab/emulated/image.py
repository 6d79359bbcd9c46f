"""The hosts' image: built once for each content of its recipe, and kept.

It is built in a mount and process namespace of its own, so that a build that is killed leaves no
mount and no process, only a `.part` folder that the next build removes.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emulated.folder import SCRIPTS, LabError, LabFolder
from emulated.tools import Say, ensure_uv

RECIPE = (SCRIPTS / "emulated" / "image_recipe.py", SCRIPTS / "locks" / "runtime.txt")
"""Files whose content makes the image what it is; SkyPilot's wheel is the third."""

_SEALED = ["nice", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


def key(wheel: Path) -> str:
    """Names an image by what builds it: sixteen hexadecimal digits."""
    digest = hashlib.sha256(wheel.parent.name.encode())
    for path in RECIPE:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def ensure_image(folder: LabFolder, wheel: Path, say: Say) -> Path:
    """The image, built if it is not there.

    Args:
        wheel: SkyPilot's own wheel, in a folder named by its hash, as the launching side sends it.

    Raises:
        LabError: the build failed; names the log.
    """
    whole = folder.images / key(wheel)
    with _only_one(folder.images):
        if not whole.exists():
            say("building the hosts' image: some minutes, once")
            ensure_uv(folder)
            part = whole.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            _build(part, folder, wheel)
            part.rename(whole)
    return whole


def remove_others(folder: LabFolder, kept: Path) -> None:
    """Remove images of former recipes. Only while no host runs on one."""
    with _only_one(folder.images):
        for path in folder.images.iterdir():
            if path.is_dir() and path != kept:
                shutil.rmtree(path)


def _build(part: Path, folder: LabFolder, wheel: Path) -> None:
    folder.logs.mkdir(parents=True, exist_ok=True)
    log = folder.logs / "image.log"
    recipe = [sys.executable, "-m", "emulated.image_recipe", str(part), str(folder.path)]
    with log.open("wb") as file:
        built = subprocess.run(
            [*_SEALED, *recipe, str(wheel)],
            cwd=SCRIPTS,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if built.returncode != 0:
        raise LabError(f"building the hosts' image failed, {log} says why:\n{_end_of(log)}")


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").strip().splitlines()[-8:])


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; a second build waits."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
