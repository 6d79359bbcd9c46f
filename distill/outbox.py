"""What of a run's folder goes to its store as files, and what of it has gone already.

A checkpoint may be dropped, and a student replaced, before the last byte of it is sent. So each is
first linked into an `.outbox-…`, where it stays; that takes no time, and room only as long as the
sending does.
"""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from recipes.rundir import RunDir
from recipes.store import Store
from recipes.store_checkpoints import StoredCheckpoint, push_checkpoint, whole_here
from recipes.store_trees import holds, put_tree

ANSWERS_EVERY_S = 30.0
"""How often answers are sent while they are still being written [s]."""

Look = tuple[object, ...] | None
"""What tells one state of a file or folder from another; `None` where it is not there."""

Copy = Callable[[str, str], object]


class Outbox:
    """Sends what is new, piece by piece: checkpoints in one thread, everything else in another.

    A checkpoint takes long, and a student must not wait for it.
    """

    def __init__(
        self,
        store: Store,
        run: RunDir,
        before_sending: Callable[[], None],
        on_checkpoint: Callable[[StoredCheckpoint, float], None],
    ) -> None:
        """
        Args:
            before_sending: called before anything is sent; may raise, and then nothing is.
            on_checkpoint: told of each that was stored, and how long it took [s].
        """
        self._store = store
        self._run = run
        self._before_sending = before_sending
        self._on_checkpoint = on_checkpoint
        self._sent: dict[str, Look] = {}
        self._answers_sent_at = time.monotonic()
        self._student_goes = threading.Lock()

    def send(self, *, everything: bool) -> None:
        """Send what is whole and not stored yet, checkpoints and `done.json` aside.

        Args:
            everything: the answers too, of an evaluation that goes on.
        """
        run = self._run
        for path in (run.recipe, run.plan, run.limits):
            self._send_file(path)
        with self._student_goes:
            self._send_folder("student", run.student, self._put_tree, _link)
        due = time.monotonic() - self._answers_sent_at >= ANSWERS_EVERY_S
        if everything or due or run.scores.exists():
            # Copied, since they grow in place, and what is linked would grow with them.
            self._send_folder("answers", run.answers, self._put_tree, shutil.copy2)
            self._answers_sent_at = time.monotonic()
        self._send_file(run.scores)

    def send_checkpoint(self) -> None:
        """Send the newest checkpoint, behind a student that is on its way."""
        whole = whole_here(self._run.checkpoints)
        newest = whole[max(whole)] if whole else None
        with self._student_goes:
            pass
        self._send_folder("checkpoint", newest, self._push_checkpoint, _link)

    def send_done(self) -> None:
        """Send `done.json`, if there is one; everything else has to be stored by now."""
        if not self._run.scores.exists():  # older ones are of a student that has learnt on since
            self._before_sending()
            self._store.delete(self._run.scores.name)
        self._send_file(self._run.done)

    def _send_file(self, path: Path) -> None:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return
        if self._sent.get(path.name) != (content,):
            self._before_sending()
            self._store.put_bytes(path.name, content)
            self._sent[path.name] = (content,)

    def _send_folder(
        self, slot: str, folder: Path | None, send: Callable[[Path], None], copy: Copy
    ) -> None:
        """Send a folder, unless what was last sent in this slot looks just like it.

        What lies here from the start may be stored already, and then is left. What is written later
        is sent in any case: where it is stored already, that one may be damaged.
        """
        look = _look(folder)
        is_first = slot not in self._sent
        self._sent.setdefault(slot, None)
        if folder is None or look is None or look == self._sent[slot]:
            return
        name = folder.relative_to(self._run.path).as_posix()
        try:
            is_stored = is_first and holds(self._store, folder, name)
        except FileNotFoundError:  # dropped meanwhile for a newer one, which comes at the next look
            return
        if not is_stored:
            self._before_sending()
            with _kept(folder, look, self._run.path / f".outbox-{slot}", copy) as kept:
                if kept is None:
                    return
                send(kept)
        self._sent[slot] = look

    def _push_checkpoint(self, kept: Path) -> None:
        began = time.monotonic()
        stored = push_checkpoint(self._store, kept)
        self._on_checkpoint(stored, time.monotonic() - began)

    def _put_tree(self, kept: Path) -> None:
        put_tree(self._store, kept, kept.name)


def _look(folder: Path | None) -> Look:
    if folder is None:
        return None
    try:
        files = [(entry.name, entry.stat()) for entry in os.scandir(folder)]
        seen = sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in files)
        return (folder.name, folder.stat().st_ino, *seen)
    except FileNotFoundError:
        return None


@contextmanager
def _kept(folder: Path, look: Look, outbox: Path, copy: Copy) -> Iterator[Path | None]:
    """The folder's files in one of the same name, to themselves; `None` if it looks different by
    now."""
    kept = outbox / folder.name
    shutil.rmtree(outbox, ignore_errors=True)
    try:
        try:
            outbox.mkdir(mode=0o700)
            shutil.copytree(folder, kept, copy_function=copy)
        except OSError:
            if _look(folder) == look:
                raise
        yield kept if _look(folder) == look else None
    finally:
        shutil.rmtree(outbox, ignore_errors=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)
