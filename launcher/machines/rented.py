"""Rented machines as a place to run: a cluster by SkyPilot, watched through the run store and AWS.

What was rented is written down before it is asked for (`rented_book`), and asked of the cloud
afterwards, by tag. So whoever comes later, after a kill at any moment, finds it.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from launcher.errors import ProvisionError
from launcher.machines.aws import Aws, Instance
from launcher.machines.aws_prices import node_prices
from launcher.machines.backend import Paid, Released, Sight
from launcher.machines.least import CLOSING_S, ENDING_S
from launcher.machines.rented_book import Rented, all_rented, cluster_name, remember
from launcher.machines.skypilot import JobState
from launcher.machines.teardown import Teardown
from launcher.market.offers import Offer
from recipes.privacy import redacted
from recipes.rundir import (
    Limits,
    RunDir,
    WorkerEnded,
    attempt_events,
    read_events,
    read_model,
)
from tracking.prices import Prices

ASK_CLOUD_EVERY_S = 10.0
"""How often AWS is asked whether the machines are still there [s]."""

ASK_SKYPILOT_EVERY_S = 20.0
"""How often SkyPilot is asked for the job, which takes it and the machine some seconds [s]."""

RESULTS_S = 300.0
"""How long the results of a worker that has ended are waited for, before its machine goes [s]."""

LAUNCH_S = 1800.0
"""How long SkyPilot may take to launch a cluster and begin its job [s]."""

PRICE_LOOKS = 6
PRICE_LOOK_S = 5.0
"""So often, and with such a pause [s], AWS is asked what it charged."""

AWS_REMEMBERS_S = 3000.0
"""For so long AWS tells of a machine that has ended: an hour, less what clocks may differ [s]."""

SWITCHING_OFF_S = 30.0
"""From the moment for which a machine's timer is set to the end of its bill [s]; clocks differ."""


class Cluster(Protocol):
    """What is used of `launcher.machines.skypilot.SkyPilot`."""

    def launch(self, task_yaml: str, cluster: str, log: Path, patience_s: float) -> None: ...

    def job_state(self, cluster: str) -> JobState: ...

    def output(self, cluster: str, into: Path) -> None: ...

    def is_up(self, cluster: str) -> bool | None: ...

    def down(self, cluster: str, log: Path) -> None: ...


class Mail(Protocol):
    """What launcher and worker send each other through the run store."""

    def send(self, run: RunDir) -> None:
        """Everything of a run that is here and not there yet, before a worker starts."""

    def fetch(self, run: RunDir) -> None:
        """Everything new that the worker has written. A store that does not answer is no news."""

    def ask_to_save(self, run: RunDir, by: float | None = None) -> None:
        """Have the worker save and end: now, or so that all is saved by then [unix s]."""

    def leaving(self, run: RunDir, attempt: int) -> list[float]:
        """When machines of an attempt have said that they switch themselves off [unix s]; of those
        that have not, and of a store that does not answer, nothing."""

    def withdraw(self, run: RunDir) -> None:
        """Delete in the store what a run stopped with."""


def money_ends_at(limits: Limits) -> float:
    """When everything of an attempt on rented machines has to be saved [unix s]."""
    stop = limits.stop_at()
    assert stop is not None, "a rented machine costs, so its money ends"
    return stop[0]


def in_a_thread(work: Callable[[], None]) -> None:
    """Do something aside; it does not keep this process from ending."""
    threading.Thread(target=work, daemon=True).start()


class _Heard:
    """What the events of a run tell. Each line is read once."""

    def __init__(self, events: Path) -> None:
        self.at = -math.inf
        """When something new was last found there [unix s]."""
        self._events = events
        self._read = 0
        self._last_words: dict[int, WorkerEnded] = {}
        self._spoke: set[int] = set()

    def listen(self, now: float) -> None:
        for event, end in read_events(self._events, self._read):
            self._read, self.at = end, now
            self._spoke.add(event.attempt)
            if isinstance(event, WorkerEnded):
                self._last_words[event.attempt] = event

    def spoke(self, attempt: int) -> bool:
        """Whether an attempt's worker was ever heard of."""
        return attempt in self._spoke

    def last_word(self, attempt: int) -> WorkerEnded | None:
        """Of an attempt's worker."""
        return self._last_words.get(attempt)


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
    closing_s = CLOSING_S

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
        self._heard: dict[Path, _Heard] = {}
        self._end_on_shutdown_set: set[str] = set()
        """Clusters of which AWS has confirmed it; whoever rented them may have been killed before
        he could ask."""

    def start(self, run: RunDir, offer: Offer) -> None:
        attempt = read_model(run.limits, Limits).attempt
        rented = Rented(attempt=attempt, cluster=cluster_name(run, attempt), offer=offer)
        task = self._task(run, offer, rented.cluster)
        self._mail.send(run)
        remember(run, rented)
        self._sky.launch(task, rented.cluster, _log(run), self._patience_s(run, offer))
        self._asked_sky = self._clock()  # it has just said that the job is there
        if offer.cloud == "aws":
            self._end_on_shutdown(run, rented)

    def _patience_s(self, run: RunDir, offer: Offer) -> float:
        """How long a launch may take [s]: a machine without its timer is ended by us alone."""
        left = money_ends_at(read_model(run.limits, Limits)) - self._clock()
        # Nobody looks at the price meanwhile.
        left *= float(offer.usd_per_hour / offer.highest_usd_per_hour)
        return max(1.0, min(LAUNCH_S, left - ENDING_S))

    def look(self, run: RunDir) -> Sight:
        if not run.limits.exists():
            return "ended"  # nothing was ever begun
        self._mail.fetch(run)
        rented = next(reversed(all_rented(run)), None)
        now = self._clock()
        heard = self._heard.setdefault(run.events, _Heard(run.events))
        heard.listen(now)
        if rented is None or _has_ended(run, heard.last_word(rented.attempt), now):
            return "ended"
        limits = read_model(run.limits, Limits)
        if not heard.spoke(rented.attempt) and now >= money_ends_at(limits) - ENDING_S:
            return "lost"  # set up or not, nobody knows; without its timer it would stay on
        if now - self._asked_cloud >= ASK_CLOUD_EVERY_S:
            self._asked_cloud = now
            if self._was_taken(run, rented):
                return "lost"
        self._ask_skypilot_now_and_then(rented, heard.at, now)
        sight = self._sky_says.get(rented.cluster, "alive")
        if sight == "ended":
            self._mail.fetch(run)  # its last words may have come since
            if not any(isinstance(e, WorkerEnded) for e in attempt_events(run, rented.attempt)):
                self._sky.output(rented.cluster, run.log)
        return sight

    def ask_to_save(self, run: RunDir, by: float | None = None) -> None:
        self._mail.ask_to_save(run, by)

    def withdraw(self, run: RunDir) -> None:
        self._mail.withdraw(run)

    def kill(self, run: RunDir) -> None:
        for rented in all_rented(run)[-1:]:
            if rented.offer.cloud == "aws":  # at once, and whatever becomes of SkyPilot
                self._teardown(run, [rented]).end_machines()
            self._down(run, rented)

    def release(self, run: RunDir, attempt: int) -> Released:
        history = all_rented(run)
        if not history:
            return Released(proved=True, detail="nothing was rented", paid=())
        last = history[-1]
        of_aws = [rented for rented in history if rented.offer.cloud == "aws"]
        of_others = [rented for rented in history if rented.offer.cloud != "aws"]
        teardown = self._teardown(run, of_aws) if of_aws else None
        if teardown:
            teardown.end_machines()
        is_down = self._down(run, last)
        left = teardown.end_everything() if teardown else []
        self._mail.fetch(run)
        answers = []
        if of_aws:
            answers.append(self._aws_says(run, of_aws, last, left, is_down))
        if of_others:
            answers.append(self._skypilot_says(of_others, is_down))
        paid: tuple[Paid, ...] | None = None
        if attempt != last.attempt:
            paid = ()  # nothing was asked for
        elif teardown and last in of_aws:
            paid = self._paid(run, attempt, teardown)
        proved = {answer.proved for answer in answers}
        return Released(
            proved=False if False in proved else None if None in proved else True,
            detail="; ".join(answer.detail for answer in answers),
            paid=paid,
        )

    def _teardown(self, run: RunDir, of_aws: list[Rented]) -> Teardown:
        aws = self._aws(_regions(of_aws))
        return Teardown(aws, run.path.name, lambda error: _note(run, error), self._sleep)

    def _aws_says(
        self, run: RunDir, of_aws: list[Rented], last: Rented, left: list[str], is_down: bool
    ) -> Released:
        """What the end of everything there has proved.

        Args:
            left: what is left, or why that is not known.
            is_down: SkyPilot has torn the last cluster down.
        """
        if left:
            asked = not any(each.startswith("AWS ") for each in left)
            return Released(proved=False if asked else None, detail=", ".join(left))
        if last in of_aws and not attempt_events(run, last.attempt):
            if not is_down:
                why = "SkyPilot, which does not answer, may still be launching"
                return Released(proved=None, detail=f"AWS has nothing, but {why}")
            if self._may_come_yet(run, last):
                why = "the home that asked for a machine may still be launching it"
                return Released(proved=None, detail=f"AWS has nothing, but {why}")
        regions = ", ".join(_regions(of_aws))
        nothing = f"AWS has nothing with this run's tag in {regions}, asked three times"
        return Released(proved=True, detail=nothing)

    def _paid(self, run: RunDir, attempt: int, teardown: Teardown) -> tuple[Paid, ...]:
        """What the machines of an attempt are paid for: never more than their limit allows.

        Those that AWS may have forgotten count until they said that they would go, and those that
        said nothing until the latest that they can have lived.
        """
        limits, now = read_model(run.limits, Limits), self._clock()
        until = min(now, money_ends_at(limits) + self.closing_s)
        offer = all_rented(run)[-1].offer
        paid = [
            self._priced(
                Paid(
                    machine.launched_at,
                    machine.ended_at or max(until, machine.launched_at),
                    guessed=machine.ended_at is None,
                ),
                offer if machine.zone is None else offer.model_copy(update={"zone": machine.zone}),
            )
            for machine in teardown.seen(attempt)
        ]
        forgotten = offer.nodes - len(paid)
        if forgotten > 0 and now - limits.started_at >= AWS_REMEMBERS_S:
            said = sorted(at + SWITCHING_OFF_S for at in self._mail.leaving(run, attempt))
            ends = [until] * (offer.nodes - len(said)) + said[::-1]  # the latest first
            for end in ends[:forgotten]:
                end = max(min(end, until), limits.started_at)
                unseen = Paid(limits.started_at, end, guessed=True)
                paid.append(self._priced(unseen, offer))
        return tuple(paid)

    def _priced(self, paid: Paid, offer: Offer) -> Paid:
        """With what AWS charged for it, where that moves and AWS tells."""
        for _ in range(PRICE_LOOKS if offer.moves else 0):
            if (
                prices := node_prices(self._aws, offer, paid.started_at, self._clock())
            ) is not None:
                return replace(paid, prices=prices)
            self._sleep(PRICE_LOOK_S)
        return replace(paid, guessed=offer.moves or paid.guessed)

    def prices(self, offer: Offer, since: float) -> Prices | None:
        of_one = node_prices(self._aws, offer, since, self._clock())
        return None if of_one is None else of_one.times(offer.nodes)

    def _may_come_yet(self, run: RunDir, rented: Rented) -> bool:
        """Whether another home's SkyPilot, which nobody can ask here, may still be launching."""
        asked_at = read_model(run.limits, Limits).started_at
        return rented.elsewhere and self._clock() - asked_at < LAUNCH_S

    # ---- asking and ending

    def _ask_skypilot_now_and_then(self, rented: Rented, heard_at: float, now: float) -> None:
        """Not while its worker is heard of, which costs the machine less. Of other clouds than AWS
        SkyPilot alone knows whether all machines are still there."""
        knows = max(self._asked_sky, heard_at if rented.offer.cloud == "aws" else -math.inf)
        if now - knows >= ASK_SKYPILOT_EVERY_S and not self._asking_sky:
            self._asked_sky, self._asking_sky = now, True
            self._aside(lambda: self._ask_skypilot_for(rented))

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
        if not rented.offer.spot and rented.cluster not in self._end_on_shutdown_set:
            with suppress(Exception):  # at the next look again
                self._stay_on_shutdown(rented, machines)
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
        try:
            stay = self._stay_on_shutdown(rented, self._machines(run, rented))
        except Exception as error:  # noqa: BLE001 - that it cannot be set is all that matters
            _note(run, error)
            stay = ["some machine"]
        # AWS terminates a one-time spot machine anyway, and may refuse the setting.
        if stay and not rented.offer.spot:
            raise ProvisionError(
                f"{', '.join(stay)} would stop, and its disk go on costing, when it powers itself "
                "off: AWS did not take the setting"
            )

    def _stay_on_shutdown(self, rented: Rented, machines: list[Instance]) -> list[str]:
        """Have all machines be terminated when they power themselves off; those that would not."""
        aws = self._aws(_regions([rented]))
        stay = [one.id for one in machines if not (one.is_gone or aws.end_on_shutdown(one))]
        if machines and not stay:
            self._end_on_shutdown_set.add(rented.cluster)
        return stay

    def _down(self, run: RunDir, rented: Rented) -> bool:
        """Whether SkyPilot has done it."""
        try:
            self._sky.down(rented.cluster, _log(run))
        except ProvisionError as error:
            _note(run, error)  # the cloud itself is asked next
            return False
        return True

    def _skypilot_says(self, history: list[Rented], is_down: bool) -> Released:
        """Of clusters on clouds that cannot be asked directly."""
        up = {rented.cluster: self._sky.is_up(rented.cluster) for rented in history}
        if left := [cluster for cluster, answer in up.items() if answer]:
            return Released(proved=False, detail=f"still up: {', '.join(left)}")
        if not is_down or any(answer is None for answer in up.values()):
            return Released(proved=None, detail="SkyPilot could not ask the cloud")
        return Released(proved=True, detail="SkyPilot asked the cloud: all is gone")


def _has_ended(run: RunDir, last: WorkerEnded | None, now: float) -> bool:
    """Whether the worker has said its last word, and its results have come."""
    if last is None:
        return False
    comes_yet = last.status in ("done", "stopped") and not run.done.exists()
    return not comes_yet or now - last.t > RESULTS_S


def _regions(history: list[Rented]) -> list[str]:
    return list(dict.fromkeys(one.offer.region for one in history if one.offer.region))


def _log(run: RunDir) -> Path:
    return run.path / "provision.log"


def _note(run: RunDir, error: Exception) -> None:
    with suppress(OSError), _log(run).open("a") as log:  # a full disk holds nothing up
        log.write(f"{redacted(str(error))}\n")
