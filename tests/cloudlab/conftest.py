"""The emulated cloud for tests: up once a session, shared, and free of faults before each test.

A lab that somebody brought up (`make cloudlab-up`) is used and left as it is.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from emulated.cloud import Cloud
from emulated.folder import LabFolder, LabUnavailable
from emulated.lab import Lab


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The lab. Where it cannot be, tests are skipped; in CI they fail."""
    lab = Lab(LabFolder.chosen())
    with _shared(lab):
        try:
            lab.up(lambda text: None, kept=False)
        except LabUnavailable as error:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(f"no emulated cloud here: {error}")
        yield lab


@pytest.fixture(scope="session")
def cloud(lab: Lab) -> Cloud:
    """What is there, and what is to go wrong."""
    return Cloud(lab)


@pytest.fixture(autouse=True)
def no_fault_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test's faults end with it."""
    yield
    if "cloud" in request.fixturenames:
        request.getfixturevalue("cloud").clear_faults()


@contextmanager
def _shared(lab: Lab) -> Iterator[None]:
    """The last of several test processes takes the lab down, unless it was up before them."""
    lab.folder.path.mkdir(parents=True, exist_ok=True)
    with (lab.folder.path / "users").open("w") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        yield
        fcntl.flock(users, fcntl.LOCK_UN)
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        state = lab.state()
        if state is not None and not state.kept:
            lab.down()
