"""Rented machines as a place to run: a cluster by SkyPilot, watched through the run store and AWS.

What was rented is written into the run's folder before it is asked for (`rented.jsonl`), and asked
of the cloud afterwards, by tag. So whoever comes later, after a kill at any moment, finds it.
"""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from launcher.errors import ProvisionError
from launcher.machines.aws import Aws, Instance, Leftover
from launcher.machines.backend import Paid, Released, Sight
from launcher.machines.skypilot import JobState
from launcher.market.offers import Offer
from recipes.recipe import Part
from recipes.rundir import (
    Limits,
    RunDir,
    WorkerEnded,
    attempt_events,
    open_for_appending,
    read_lines,
    read_model,
)

ASK_CLOUD_EVERY_S = 10.0
"""How often AWS is asked whether the machines are still there [s]."""

ASK_SKYPILOT_EVERY_S = 20.0
"""How often SkyPilot is asked for the job, which takes it some seconds [s]."""

RESULTS_S = 300.0
"""How long the results of a worker that has ended are waited for, before its machine goes [s]."""

SECOND_LOOK_S = 5.0
"""Between two looks that prove a teardown: the first "not found" may be a cloud that lags [s]."""

LOOKS = 60
"""How often something that should be gone is looked for before it counts as left."""


class Cluster(Protocol):
    """What is used of `launcher.machines.skypilot.SkyPilot`."""

    def launch(self, task_yaml: str, cluster: str, log: Path) -> None: ...

    def job_state(self, cluster: str) -> JobState: ...

    def is_up(self, cluster: str) -> bool | None: ...

    def down(self, cluster: str, log: Path) -> None: ...


class Mail(Protocol):
    """What launcher and worker send each other through the run store."""

    def send(self, run: RunDir) -> None:
        """Everything of a run that is here and not there yet, before a worker starts."""

    def fetch(self, run: RunDir) -> None:
        """Everything new that the worker has written. A store that does not answer is no news."""

    def ask_to_save(self, run: RunDir) -> None:
        """Have the worker save and end."""


def in_a_thread(work: Callable[[], None]) -> None:
    """Do something aside; it does not keep this process from ending."""
    threading.Thread(target=work, daemon=True).start()


class Rented(Part):
    """One cluster that was asked for."""

    attempt: int
    cluster: str
    offer: Offer


class RentedMachines:
    """A `Backend` whose machines cost money and can be taken away.

    Args:
        sky: provisions.
        aws: `regions -> Aws`; asked where the offer is of AWS.
        mail: to and from the worker.
        task: `(run, offer, cluster) -> the task as SkyPilot reads it`, with its bundle made.
        aside: does work that may hang without holding up who asks for it.
    """

    rented = True
    closing_s = 90.0

    def __init__(
        self,
        sky: Cluster,
        aws: Callable[[Sequence[str]], Aws],
        mail: Mail,
        task: Callable[[RunDir, Offer, str], str],
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        aside: Callable[[Callable[[], None]], None] = in_a_thread,
    ) -> None:
        self._sky = sky
        self._aws = aws
        self._mail = mail
        self._task = task
        self._clock = clock
        self._sleep = sleep
        self._asked_cloud = 0.0
        self._aside = aside
        self._asked_sky = clock()
        self._asking_sky = False
        self._sky_says: dict[str, Sight] = {}

    def start(self, run: RunDir, offer: Offer) -> None:
        attempt = read_model(run.limits, Limits).attempt
        rented = Rented(attempt=attempt, cluster=f"{run.path.name}-{attempt}", offer=offer)
        task = self._task(run, offer, rented.cluster)
        self._mail.send(run)
        _remember(run, rented)
        self._sky.launch(task, rented.cluster, _log(run))
        if offer.cloud == "aws":
            self._end_on_shutdown(run, rented)

    def look(self, run: RunDir) -> Sight:
        self._mail.fetch(run)
        rented = _newest(run)
        now = self._clock()
        if rented is None or _has_ended(run, rented.attempt, now):
            return "ended"
        if now - self._asked_cloud >= ASK_CLOUD_EVERY_S:
            self._asked_cloud = now
            if self._was_taken(run, rented):
                return "lost"
        if now - self._asked_sky >= ASK_SKYPILOT_EVERY_S and not self._asking_sky:
            self._asked_sky, self._asking_sky = now, True
            self._aside(lambda: self._ask_skypilot_for(rented))
        sight = self._sky_says.get(rented.cluster, "alive")
        if sight == "ended":
            self._mail.fetch(run)  # its last words may have come since
        return sight

    def ask_to_save(self, run: RunDir) -> None:
        self._mail.ask_to_save(run)

    def kill(self, run: RunDir) -> None:
        for rented in _all(run)[-1:]:
            self._down(run, rented)

    def release(self, run: RunDir) -> Released:
        history = _all(run)
        if not history:
            return Released(proved=True, detail="nothing was rented", paid=())
        self._mail.fetch(run)
        self._end_machines(run, history[-1])
        self._down(run, history[-1])
        if any(rented.offer.cloud != "aws" for rented in history):
            return self._ask_skypilot(history)
        try:
            return self._prove(run, history)
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing is proved
            return Released(proved=None, detail=f"AWS could not be asked: {error}")

    # ---- asking and ending

    def _ask_skypilot_for(self, rented: Rented) -> None:
        try:
            if self._sky.job_state(rented.cluster) in ("failed", "succeeded"):
                self._sky_says[rented.cluster] = "ended"
            elif rented.offer.cloud != "aws" and self._sky.is_up(rented.cluster) is False:
                self._sky_says[rented.cluster] = "lost"
        finally:
            self._asking_sky = False

    def _was_taken(self, run: RunDir, rented: Rented) -> bool:
        if rented.offer.cloud != "aws":
            return False
        try:
            machines = self._machines(run, rented)
        except Exception:  # noqa: BLE001 - a look that failed says nothing about the machines
            return False
        return any(machine.is_gone for machine in machines)

    def _machines(self, run: RunDir, rented: Rented) -> list[Instance]:
        """AWS's machines of one attempt."""
        found = self._aws(_regions([rented])).instances(run.path.name)
        return [machine for machine in found if machine.attempt == rented.attempt]

    def _end_on_shutdown(self, run: RunDir, rented: Rented) -> None:
        """
        Raises:
            ProvisionError: a machine would only stop when it powers itself off.
        """
        aws = self._aws(_regions([rented]))
        for machine in self._machines(run, rented):
            # AWS terminates a one-time spot machine anyway, and may refuse the setting.
            if not (machine.is_gone or aws.end_on_shutdown(machine) or rented.offer.spot):
                raise ProvisionError(
                    f"{machine.id} would stop, and its disk go on costing, when it powers itself "
                    "off: AWS did not take the setting"
                )

    def _end_machines(self, run: RunDir, rented: Rented) -> None:
        """End AWS's machines at once: SkyPilot takes a while to do it, and they cost meanwhile."""
        if rented.offer.cloud != "aws":
            return
        try:
            aws = self._aws(_regions([rented]))
            for machine in aws.instances(run.path.name):
                if not machine.is_gone:
                    aws.remove(Leftover("instance", machine.id, machine.region))
        except Exception as error:  # noqa: BLE001 - SkyPilot ends them next, and AWS is asked again
            _note(run, error)

    def _down(self, run: RunDir, rented: Rented) -> None:
        try:
            self._sky.down(rented.cluster, _log(run))
        except ProvisionError as error:
            _note(run, error)  # the cloud itself is asked next

    def _prove(self, run: RunDir, history: list[Rented]) -> Released:
        regions = _regions(history)
        left = self._remove_everything(run, self._aws(regions))
        nothing = f"AWS has nothing with this run's tag in {', '.join(regions)}, asked twice"
        paid = tuple(
            Paid(machine.launched_at, machine.ended_at or self._clock())
            for machine in self._machines(run, history[-1])
        )
        return Released(proved=not left, detail=", ".join(left) or nothing, paid=paid)

    def _remove_everything(self, run: RunDir, aws: Aws) -> list[str]:
        """End what still has the run's tag until two looks in a row find nothing; what is left."""
        clean = 0
        left: list[str] = []
        for _ in range(LOOKS):
            found = aws.leftovers(run.path.name)
            left = [str(leftover) for leftover in found]
            clean = 0 if found else clean + 1
            if clean == 2:
                break
            for leftover in found:
                aws.remove(leftover)
            self._sleep(SECOND_LOOK_S)
        return left

    def _ask_skypilot(self, history: list[Rented]) -> Released:
        up = {rented.cluster: self._sky.is_up(rented.cluster) for rented in history}
        if any(answer is None for answer in up.values()):
            return Released(proved=None, detail="SkyPilot could not ask the cloud")
        left = [cluster for cluster, answer in up.items() if answer]
        detail = f"still up: {', '.join(left)}" if left else "SkyPilot asked the cloud: all is gone"
        return Released(proved=not left, detail=detail)


def _regions(history: list[Rented]) -> list[str]:
    return list(dict.fromkeys(one.offer.region for one in history if one.offer.region))


def _log(run: RunDir) -> Path:
    return run.path / "provision.log"


def _note(run: RunDir, error: Exception) -> None:
    with _log(run).open("a") as log:
        log.write(f"{error}\n")


def _book(run: RunDir) -> Path:
    return run.path / "rented.jsonl"


def _remember(run: RunDir, rented: Rented) -> None:
    with open_for_appending(_book(run)) as book:
        book.write(rented.model_dump_json().encode() + b"\n")


def _all(run: RunDir) -> list[Rented]:
    return [Rented.model_validate_json(line) for line, _ in read_lines(_book(run))]


def _newest(run: RunDir) -> Rented | None:
    history = _all(run)
    return history[-1] if history else None


def _has_ended(run: RunDir, attempt: int, now: float) -> bool:
    """Whether the worker has said its last word, and its results have come."""
    words = [event for event in attempt_events(run, attempt) if isinstance(event, WorkerEnded)]
    if not words:
        return False
    comes_yet = words[-1].status in ("done", "stopped") and not run.done.exists()
    return not comes_yet or now - words[-1].t > RESULTS_S
