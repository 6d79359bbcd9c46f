"""The emulated cloud for tests: up once a session, and free of faults before each test.

Each process that runs tests has a lab of its own. Of those that share one, such as two sessions at
once, each test has it for itself: there is one account in it, and one set of faults.
"""

import os
from collections.abc import Generator, Iterator

import pytest

from emulated.cloud import Cloud
from emulated.folder import LabFolder
from emulated.lab import Lab
from emulated.session import shared

NOT_NEEDED = "s3:ListAllMyBuckets"
"""SkyPilot asks it to learn whether it could use S3 for storage of its own, and does without."""


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The lab, up."""
    folder, process = LabFolder.chosen(), os.environ.get("PYTEST_XDIST_WORKER")
    lab = Lab(folder.beside(process) if process else folder)
    with shared(lab, in_ci=os.environ.get("CI") == "true"):
        yield lab


@pytest.fixture(scope="session")
def cloud(lab: Lab) -> Cloud:
    """What is there, and what is to go wrong."""
    return Cloud(lab)


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture(autouse=True)
def own_turn(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test has the cloud for itself, and its faults end with it.

    Of one that failed nothing goes on either, neither its runs nor their machines: the next test is
    not to fail for it.
    """
    if "cloud" not in request.fixturenames:
        yield
        return
    cloud: Cloud = request.getfixturevalue("cloud")
    with cloud.lab.turn():
        yield
        refused = [what for what in cloud.refused() if NOT_NEEDED not in what]
        cloud.clear_faults()
        if request.node.stash.get(FAILED, False):
            cloud.lab.end_commands()
            cloud.terminate_all()
        assert refused == [], "a policy of ours does not allow what is needed"
