"""Checkpoints in a run store: each a tree, the last two whole ones kept.

A whole one is deleted only when two whole ones after it are there, so that the newest is never
lost, whenever the machine is.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from recipes.store import Store
from recipes.store_trees import DamagedError, Tree, get_tree, is_like, put_tree, whole_tree

FOLDER = "checkpoints"
KEPT = 2
"""Two: should the newest turn out damaged, little is lost."""

_NAME = re.compile(r"step-(\d{8,15})")


class StoredCheckpoint(NamedTuple):
    """A whole checkpoint in a store."""

    step: int
    name: str
    """`step-00000200`, as in the run's folder."""
    tree: Tree


def push_checkpoint(store: Store, folder: Path) -> StoredCheckpoint:
    """Store a checkpoint's folder, whole and unchanging; delete those before the last two.

    Checkpoints of later steps stay: they are another machine's, or damaged ones that a training
    went back behind.

    Raises:
        ValueError: its name is not that of a checkpoint.
    """
    name = folder.name
    step = step_of(name)
    if step is None:
        raise ValueError(f"{folder} is not named like a checkpoint")
    tree = put_tree(store, folder, f"{FOLDER}/{name}")
    _drop_needless(store, step)
    return StoredCheckpoint(step, name, tree)


def step_of(name: str) -> int | None:
    """The step of a checkpoint's folder; `None` where it is not named like one."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def whole_here(folder: Path) -> dict[int, Path]:
    """The checkpoints in a run's `checkpoints` that are marked as whole, by step."""
    marked = (marker.parent for marker in folder.glob("*/complete"))
    return {step: path for path in marked if (step := step_of(path.name)) is not None}


def checkpoints(store: Store) -> list[StoredCheckpoint]:
    """All that are whole, judged by manifests and sizes; that of the last step first."""
    found = []
    for name, step in _stored_names(store).items():
        tree = whole_tree(store, f"{FOLDER}/{name}")
        if tree is not None:
            found.append(StoredCheckpoint(step, name, tree))
    return sorted(found, reverse=True, key=lambda checkpoint: checkpoint.step)


def newest_checkpoint(store: Store) -> StoredCheckpoint | None:
    """The whole one of the last step; `None` where there is none."""
    return next(iter(checkpoints(store)), None)


def pull_checkpoint(store: Store, into: Path, warn: Callable[[str], None]) -> Path | None:
    """Bring the newest whole checkpoint home, into the folder of its name below `into`.

    A damaged one is passed over for the one before, and `warn` is told. One that is here already is
    left as it is.

    Returns:
        Its folder; `None` where the store has none.
    """
    for checkpoint in checkpoints(store):
        folder, name = into / checkpoint.name, f"{FOLDER}/{checkpoint.name}"
        if is_like(folder, checkpoint.tree, thorough=True):
            return folder
        into.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            get_tree(store, name, folder)
        except DamagedError as error:
            warn(f"a checkpoint in the run store is passed over: {error.what}")
        else:
            return folder
    return None


def _stored_names(store: Store) -> dict[str, int]:
    names = sorted({entry.key.split("/")[1] for entry in store.entries(FOLDER)})
    return {name: step for name in names if (step := step_of(name)) is not None}


def _drop_needless(store: Store, step: int) -> None:
    so_far = [checkpoint for checkpoint in checkpoints(store) if checkpoint.step <= step]
    kept = {checkpoint.name for checkpoint in so_far[:KEPT]}
    for name, other in _stored_names(store).items():
        if other <= step and name not in kept:
            store.delete(f"{FOLDER}/{name}")
