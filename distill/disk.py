"""Writing large things whole or not at all, and saying when the disk is full."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distill.context import WorkerError
from recipes.rundir import sync_folder

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing(what: str, folder: Path) -> Iterator[None]:
    """Write into `folder`, which is removed again if that fails.

    Raises:
        WorkerError: there was no room for it.
    """
    try:
        yield
    except BaseException as error:
        # Also gives back the room, so that the error itself can still be written down.
        shutil.rmtree(folder, ignore_errors=True)
        if is_disk_full(error):
            raise disk_full(what, folder.parent) from error
        raise


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one behind it, says that there is no room left.

    torch.save raises a RuntimeError with the cause in its context, safetensors an error of its own
    with the number in its text.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in FULL:
            return True
        if any(f"(os error {number})" in str(seen) for number in FULL):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def disk_full(what: str, folder: Path) -> WorkerError:
    """The error of a full disk."""
    free_mib = shutil.disk_usage(folder).free / 2**20
    return WorkerError(
        "disk_full",
        f"there was no room to write {what}; {free_mib:,.0f} MiB are free at {folder}",
        "Make room there and resume; what was finished before is kept.",
    )


def sync_tree(folder: Path) -> None:
    """Make the files of a folder last, and the folder itself."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)
