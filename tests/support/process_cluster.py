"""A rented machine that is a process of its own: it has the bundle, and nothing else of ours."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from launcher.machines.bundle import make_bundle
from launcher.machines.mail import StoreMail
from launcher.machines.rented import RentedMachines
from launcher.machines.skypilot import JobState
from launcher.market.offers import Offer
from recipes.rundir import RunDir

OFFER = Offer(
    cloud="lambda",
    instance_type="gpu_1x_h100",
    accelerator="H100",
    accelerators=1,
    usd_per_hour=Decimal("3.60"),
    source="test",
)
"""What such a machine is called in the books."""


class ProcessCluster:
    """SkyPilot with one machine, on which the real worker runs.

    Args:
        environ: of the machine, besides its PATH.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", **(environ or {})}
        self._worker: subprocess.Popen[bytes] | None = None
        self._is_up = False

    def launch(self, task_yaml: str, cluster: str, log: Path, patience_s: float) -> None:
        """The task is the path of the bundle."""
        with log.open("ab") as output:
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "distill", "run"],
                cwd=task_yaml,
                env=self._environ,
                stdout=output,
                stderr=output,
            )
        self._is_up = True

    def job_state(self, cluster: str) -> JobState:
        if not self._is_up:
            return "unknown"
        assert self._worker is not None
        code = self._worker.poll()
        return "running" if code is None else "failed" if code else "succeeded"

    def output(self, cluster: str, into: Path) -> None:
        into.write_text("the output of the job")

    def is_up(self, cluster: str) -> bool | None:
        return self._is_up

    def down(self, cluster: str, log: Path) -> None:
        self.take_away()

    def take_away(self) -> None:
        """The machine is gone, and its work with it."""
        self._is_up = False
        if self._worker is not None:
            self._worker.kill()
            self._worker.wait()

    def freeze(self) -> None:
        """The machine is there, and nothing on it moves any more."""
        assert self._worker is not None
        self._worker.send_signal(signal.SIGSTOP)


def rented(cluster: ProcessCluster, mail: StoreMail | None = None) -> RentedMachines:
    """The real backend on such a machine, which is not AWS's."""

    def no_aws(regions: Any) -> Any:
        raise AssertionError("nothing was rented of AWS")

    def task(run: RunDir, offer: Offer, cluster: str) -> str:
        return str(make_bundle(run))

    return RentedMachines(cluster, no_aws, mail or StoreMail(), task, aside=lambda work: work())
