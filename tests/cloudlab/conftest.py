"""The emulated cloud for tests: up once a session, and free of faults before each test.

There is one account and one set of faults, so these tests run one after another: in one process, or
with pytest-xdist under `--dist loadgroup`.
"""

import os
from collections.abc import Iterator

import pytest

from emulated.cloud import Cloud
from emulated.folder import LabFolder
from emulated.lab import Lab
from emulated.session import shared


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("cloudlab"):
            item.add_marker(pytest.mark.xdist_group("cloudlab"))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The lab, up."""
    lab = Lab(LabFolder.chosen())
    with shared(lab, in_ci=os.environ.get("CI") == "true"):
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
