"""Puts rented machines together: SkyPilot, AWS, the run store, the bundle and the task."""

import math
from collections.abc import Callable, Sequence

from launcher.machines.aws import ATTEMPT_TAG, Aws
from launcher.machines.bundle import make_bundle
from launcher.machines.labels import labels, this_owner
from launcher.machines.mail import StoreMail
from launcher.machines.rented import RentedMachines, money_ends_at
from launcher.machines.skypilot import SkyPilot
from launcher.machines.task import node_folder, task_yaml
from launcher.market.offers import Offer
from recipes.rundir import Limits, RunDir, read_model

GOING_DOWN_S = 15.0
"""From a machine's own decision to go to the end of its bill [s]."""


def rented_machines(clock: Callable[[], float], sleep: Callable[[float], None]) -> RentedMachines:
    """The backend of runs on rented machines."""

    def aws(regions: Sequence[str]) -> Aws:
        return Aws(regions)

    return RentedMachines(SkyPilot(), aws, StoreMail(), task_of, clock, sleep)


def limit_at(limits: Limits) -> int:
    """When the machines of an attempt switch themselves off, whatever happens [unix s].

    Between the moment at which the worker has saved everything and the one at which the money is
    gone, with time for a machine to go down.
    """
    return math.floor(money_ends_at(limits) + RentedMachines.closing_s - GOING_DOWN_S)


def task_of(run: RunDir, offer: Offer, _cluster: str) -> str:
    """The task of a run's attempt as SkyPilot reads it; makes its bundle."""
    limits = read_model(run.limits, Limits)
    at = limit_at(limits)
    marks = labels(
        offer.cloud,
        run_id=run.path.name,
        owner=this_owner(),
        expires_at=at,
    )
    return task_yaml(
        (node_folder() / "task.yaml").read_text(),
        offer,
        bundle=make_bundle(run),
        labels={**marks, ATTEMPT_TAG: str(limits.attempt)},
        limit_minutes=max(1, math.ceil((at - limits.started_at) / 60)),
        limit_at=at,
    )
