"""A run in its store, and how it comes home.

    attempts/00000002        the worker of attempt 2 has begun; those before it send no more
    leaving/00000002-0       when the first machine of attempt 2 switches itself off
    wishes/00000002          the worker of attempt 2 is asked to save and end, perhaps by a moment
    recipe.json …            as in the run's folder (see recipes.rundir), and so plan.json,
    scores.json done.json    limits.json; done.json is written when all the rest is there
    events/ traces/          lines, in chunks
    checkpoints/step-…/      trees, the last two
    student/ answers/        trees
    books/ limits/00000002   the launcher's own, for another home (see tracking.shared and
    driver.json              launcher.runs.mirror)

The worker writes the rest (distill.upload), and brings it to a new machine with `restore`. The
launcher reads it with `EventMirror`, as often as it likes. Both see from what is here what they
still lack.
"""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pydantic import FiniteFloat, ValidationError

from recipes.recipe import Part
from recipes.rundir import RunDir, write_atomically
from recipes.store import NotStoredError, Store
from recipes.store_checkpoints import newest_checkpoint, pull_checkpoint, whole_here
from recipes.store_lines import LineReader, agrees
from recipes.store_trees import get_tree, is_like, read_tree, whole_tree

ATTEMPTS = "attempts"

_ATTEMPT = re.compile(rf"{ATTEMPTS}/(\d{{8}})", re.ASCII)


class EventMirror:
    """The launcher's side: keeps a run's folder here up to date with its store."""

    def __init__(self, store: Store, run: RunDir, *, with_student: bool = True) -> None:
        """
        Args:
            run: a folder in which no worker works.
            with_student: whether the finished student comes home too; `student_bytes` says how
                large it is.
        """
        self._store = store
        self._run = run
        self._with_student = with_student
        self._events = LineReader(store, run.events.stem, run.events)

    def fetch(self) -> int:
        """Append new events; bring everything else home once the run is done.

        Returns:
            Bytes of new events.

        Raises:
            StoreError: it could not; what has come stays, and the next call goes on from there.
            OSError: there is no room here.
        """
        new = self._events.fetch()
        if not self._run.done.exists() and self._store.exists(self._run.done.name):
            # The last lines may have come between the two questions.
            new += self._events.fetch()
            self.fetch_results()
        return new

    def fetch_results(self) -> None:
        """Bring home what there is of scores, answers and student; `done.json` last.

        For a run that ended without being done; `fetch` does it for one that is.
        """
        trees = (
            [self._run.answers, self._run.student] if self._with_student else [self._run.answers]
        )
        for folder in trees:
            _bring_tree(self._store, folder)
        for path in (self._run.scores, self._run.done):
            _bring_file(self._store, path)


def student_bytes(store: Store) -> int | None:
    """Size of the stored student [bytes]; `None` where there is none."""
    tree = read_tree(store, "student")
    return tree.size_bytes if tree else None


def withdraw_results(store: Store) -> None:
    """Make a run that stopped at a limit one that goes on: what it ended with is deleted."""
    for key in ("done.json", "scores.json", "answers", "student"):
        store.delete(key)


def restore(store: Store, run: RunDir, warn: Callable[[str], None]) -> None:
    """Bring a run to this machine, before a worker goes on with it: all that is stored of it.

    Of files that are here already, those that grow are completed, and the others kept. Where what
    is here and what is stored went different ways, as on a machine that the run has left and come
    back to, the store is right; the file here is put aside, with `.other` behind its name.

    Args:
        warn: told what was put aside or passed over.

    Raises:
        StoreError: something could not be had. A worker that began all the same would pay twice.
        OSError: there is no room here.
    """
    run.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in (run.traces, run.events):
        if path.exists() and not agrees(store, path.stem, path):
            other = path.with_name(f"{path.name}.other")
            os.replace(path, other)
            warn(f"{path.name} went on elsewhere; what was here is now {other.name}")
        LineReader(store, path.stem, path).fetch()
    stored = newest_checkpoint(store)
    if stored and stored.step >= max(whole_here(run.checkpoints), default=0):
        pull_checkpoint(store, run.checkpoints, warn)
    for folder in (run.student, run.answers):
        if not folder.exists():
            _bring_tree(store, folder)
    for path in (run.recipe, run.plan, run.limits, run.scores, run.done):
        if not path.exists():
            _bring_file(store, path)


# ---- what the launcher wishes ----------------------------------------------------------------


class Wish(Part):
    """That a worker saves and ends."""

    by: FiniteFloat | None = None
    """When all has to be saved [unix s]; `None`: it ends now."""


def ask_to_save(store: Store, attempt: int, by: float | None = None) -> None:
    """Have the worker of this attempt save and end; it looks every few seconds. One that was asked
    to end now is asked for no later moment.

    Args:
        by: when all has to be saved, which may come earlier than its limits say [unix s]; `None`:
            it ends now.
    """
    if by is not None and asked_to_save(store, attempt) == Wish():
        return
    store.put_bytes(_wish_key(attempt), Wish(by=by).model_dump_json().encode() + b"\n")


def asked_to_save(store: Store, attempt: int) -> Wish | None:
    """What the worker of this attempt is asked for, if it is to save and end. Something that cannot
    be read asks for it too: now."""
    try:
        return Wish.model_validate_json(store.get_bytes(_wish_key(attempt)))
    except NotStoredError:
        return None
    except ValidationError:
        return Wish()


def _wish_key(attempt: int) -> str:
    return f"wishes/{attempt:08d}"


# ---- when its machines go ----------------------------------------------------------------------


class Leaving(Part):
    """What a machine says of its own end, once its work is done."""

    at: FiniteFloat
    """When its timer switches it off [unix s]."""


def say_leaving(store: Store, attempt: int, node: int, at: float) -> None:
    """Say when a machine of an attempt switches itself off.

    Args:
        node: which of them, from 0.
        at: [unix s]
    """
    store.put_bytes(f"{_leaving_key(attempt)}-{node}", Leaving(at=at).model_dump_json().encode())


def leaving(store: Store, attempt: int) -> list[float]:
    """When the machines of an attempt have said that they switch themselves off [unix s]."""
    said = []
    for entry in store.entries("leaving", _leaving_key(attempt)):
        if entry.key.startswith(f"{_leaving_key(attempt)}-"):
            with suppress(ValidationError, NotStoredError):
                said.append(Leaving.model_validate_json(store.get_bytes(entry.key)).at)
    return said


def _leaving_key(attempt: int) -> str:
    return f"leaving/{attempt:08d}"


# ---- which attempt may write -----------------------------------------------------------------


def claim(store: Store, attempt: int) -> None:
    """Say that the worker of this attempt writes from now on."""
    store.put_bytes(_attempt_key(attempt), b"{}\n", only_if_new=True)


def claimed_by(store: Store, after: int) -> int | None:
    """The last attempt that claimed the store, if it is one after attempt `after`."""
    later = store.entries(ATTEMPTS, _attempt_key(after))
    numbers = [int(match[1]) for entry in later if (match := _ATTEMPT.fullmatch(entry.key))]
    return max(numbers, default=None)


def _attempt_key(attempt: int) -> str:
    return f"{ATTEMPTS}/{attempt:08d}"


# ---- pieces ----------------------------------------------------------------------------------


def _bring_tree(store: Store, folder: Path) -> None:
    tree = whole_tree(store, folder.name)
    if tree is not None and not is_like(folder, tree):
        get_tree(store, folder.name, folder)


def _bring_file(store: Store, path: Path) -> None:
    try:
        content = store.get_bytes(path.name)
    except NotStoredError:
        return
    write_atomically(path, content)
