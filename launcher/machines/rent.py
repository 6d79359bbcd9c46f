"""Puts rented machines together: SkyPilot, AWS, the run store, the bundle and the task."""

import getpass
import math
import socket
from collections.abc import Callable, Sequence

from launcher.machines.aws import ATTEMPT_TAG, Aws
from launcher.machines.bundle import make_bundle
from launcher.machines.labels import labels
from launcher.machines.mail import StoreMail
from launcher.machines.rented import RentedMachines
from launcher.machines.skypilot import SkyPilot
from launcher.machines.task import node_folder, task_yaml
from launcher.market.offers import Offer
from recipes.rundir import Limits, RunDir, read_model


def rented_machines(clock: Callable[[], float], sleep: Callable[[float], None]) -> RentedMachines:
    """The backend of runs on rented machines."""

    def aws(regions: Sequence[str]) -> Aws:
        return Aws(regions)

    return RentedMachines(SkyPilot(), aws, StoreMail(), _task, clock, sleep)


def _task(run: RunDir, offer: Offer, _cluster: str) -> str:
    limits = read_model(run.limits, Limits)
    minutes = _limit_minutes(limits)
    marks = labels(
        offer.cloud,
        run_id=run.path.name,
        owner=f"{getpass.getuser()}@{socket.gethostname()}",
        expires_at=limits.started_at + 60 * minutes,
    )
    return task_yaml(
        (node_folder() / "task.yaml").read_text(),
        offer,
        bundle=make_bundle(run),
        labels={**marks, ATTEMPT_TAG: str(limits.attempt)},
        limit_minutes=minutes,
    )


def _limit_minutes(limits: Limits) -> int:
    """Minutes after which a machine ends itself: what its money or its hours are enough for."""
    stop = limits.stop_at()
    assert stop is not None, "a rented machine costs, so its money ends"
    return max(1, math.floor((stop[0] - limits.started_at) / 60))
