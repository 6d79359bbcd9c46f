"""One lab for all tests that want it, in however many processes they run."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import pytest

from emulated.folder import LabFolder, LabUnavailable
from emulated.lab import State


class Startable(Protocol):
    """What we need of a lab; `emulated.lab.Lab` is one."""

    @property
    def folder(self) -> LabFolder: ...

    def require(self) -> None: ...

    def up(self, say: Callable[[str], None], *, kept: bool) -> None: ...

    def down(self) -> None: ...

    def state(self) -> State | None: ...


@contextmanager
def shared(lab: Startable, *, in_ci: bool) -> Iterator[None]:
    """The lab is up for the length of a block.

    The last of several processes takes it down, unless somebody brought it up by hand. Where there
    cannot be a lab the tests are skipped; in CI, where that would go unseen, they fail.
    """
    try:
        lab.require()
    except LabUnavailable as error:
        if in_ci:
            raise
        pytest.skip(f"no emulated cloud here: {error}")
    lab.folder.path.mkdir(parents=True, exist_ok=True)
    with (lab.folder.path / "users").open("w") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        try:
            lab.up(lambda text: None, kept=False)
            yield
        finally:
            fcntl.flock(users, fcntl.LOCK_UN)
            _end_if_last(lab, users.fileno())


def _end_if_last(lab: Startable, users: int) -> None:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    state = lab.state()
    if state is not None and not state.kept:
        lab.down()
