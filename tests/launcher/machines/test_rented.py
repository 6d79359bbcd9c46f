"""Rented machines: what is asked for is written down first, and what is left is found and ended."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import NoCapacityError, ProvisionError
from launcher.machines.aws import Instance, Leftover
from launcher.machines.least import ENDING_S
from launcher.machines.mail import StoreMail
from launcher.machines.rented import LAUNCH_S, SWITCHING_OFF_S, RentedMachines, money_ends_at
from launcher.machines.rented_book import rebuild_book
from launcher.machines.skypilot import JobState
from launcher.market.offers import Offer
from recipes.rundir import (
    Done,
    EventLog,
    Limits,
    Progress,
    RunDir,
    WorkerEnded,
    WorkerStarted,
    read_model,
    write_model,
)
from recipes.store import open_store
from recipes.stored_run import EventMirror, say_leaving
from tracking.books import Attempt
from tracking.prices import Price, Prices

SPOT = Offer(
    cloud="aws",
    region="us-east-1",
    zone="us-east-1b",
    instance_type="p5.48xlarge",
    accelerator="H100",
    accelerators=8,
    spot=True,
    usd_per_hour=Decimal("21.5"),
    source="test",
)
LAMBDA = SPOT.model_copy(update={"cloud": "lambda", "spot": False, "zone": None})

Clock = Any


class Cloud:
    """A cloud and SkyPilot in one: clusters by name, machines, volumes that outlive them."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.machines: list[Instance] = []
        self.volumes: list[str] = []
        self.down_calls: list[str] = []
        self.running_at_down: list[str] = []
        self.fails: Exception | None = None
        self.fails_after_creating = False
        self.down_fails = False
        self.lags = 0
        self.job: JobState = "running"
        self.up: bool | None = True
        self.on_shutdown = True
        self.dead = False
        self.prices: list[Price] | None = []
        self.ends_on_shutdown: list[str] = []

    # as SkyPilot

    def launch(self, task_yaml: str, cluster: str, log: Path, patience_s: float) -> None:
        if self.fails and not self.fails_after_creating:
            raise self.fails
        number = int(cluster.rpartition("-")[2])
        self.machines.append(
            Instance(f"i-{number}", "us-east-1", "running", self.clock(), None, number)
        )
        self.volumes.append(f"vol-{number}")
        if self.fails:
            raise self.fails

    def job_state(self, cluster: str) -> JobState:
        return self.job

    def output(self, cluster: str, into: Path) -> None:
        into.write_text("Killed")

    def is_up(self, cluster: str) -> bool | None:
        return self.up

    def down(self, cluster: str, log: Path) -> None:
        self.down_calls.append(cluster)
        self.running_at_down = [m.id for m in self.machines if not m.is_gone]
        self.up = False
        if self.down_fails:
            raise ProvisionError("the API server is gone")
        self.end_all()

    # as AWS

    def instances(self, run_id: str) -> list[Instance]:
        if self.dead:
            raise ConnectionError("no route to AWS")
        return self.machines

    def leftovers(self, run_id: str) -> list[Leftover]:
        machines = [
            Leftover("instance", m.id, m.region) for m in self.instances("") if not m.is_gone
        ]
        return machines + [Leftover("volume", name, "us-east-1") for name in self.volumes]

    def remove(self, leftover: Leftover) -> None:
        if self.lags:
            self.lags -= 1
        elif leftover.kind == "instance":
            self.end_all()
        else:
            self.volumes.remove(leftover.id)

    def spot_prices(self, *place: str | float) -> list[Price]:
        if self.dead or self.prices is None:
            raise ConnectionError("no route to AWS")
        return self.prices

    def end_on_shutdown(self, machine: Instance) -> bool:
        if self.on_shutdown:
            self.ends_on_shutdown.append(machine.id)
        return self.on_shutdown

    def end_all(self) -> None:
        self.machines = [
            Instance(m.id, m.region, "terminated", m.launched_at, self.clock(), m.attempt)
            for m in self.machines
        ]


class Post:
    """A run store that is always there."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.saves = 0
        self.leaves: list[float] = []

    def send(self, run: RunDir) -> None:
        self.sent.append(run.path.name)

    def fetch(self, run: RunDir) -> None:
        return None

    def ask_to_save(self, run: RunDir, by: float | None = None) -> None:
        self.saves += 1

    def leaving(self, run: RunDir, attempt: int) -> list[float]:
        return self.leaves

    def withdraw(self, run: RunDir) -> None:
        return None


def at_once(work: Any) -> None:
    """Work that is done aside is done."""
    work()


@pytest.fixture
def run(tmp_path: Path, clock: Clock) -> RunDir:
    run = RunDir(tmp_path / "tiny-1")
    run.path.mkdir()
    limits = Limits(
        attempt=1, started_at=clock(), usd_per_hour=Decimal("21.5"), machine_usd=Decimal(10)
    )
    write_model(run.limits, limits)
    return run


@pytest.fixture
def cloud(clock: Clock) -> Cloud:
    return Cloud(clock)


@pytest.fixture
def rented(cloud: Cloud, clock: Clock) -> RentedMachines:
    def aws(regions: Any) -> Any:
        return cloud

    return RentedMachines(cloud, aws, Post(), lambda *_: "a task", clock, clock.sleep, at_once)


def test_a_cluster_is_written_down_before_it_is_asked_for(
    run: RunDir, cloud: Cloud, rented: RentedMachines
) -> None:
    cloud.fails = NoCapacityError("none")

    with pytest.raises(NoCapacityError):
        rented.start(run, SPOT)

    assert "tiny-1-1" in (run.path / "rented.jsonl").read_text()


def test_everything_is_gone_and_proved_by_looks_in_a_row_after_release(
    run: RunDir, cloud: Cloud, rented: RentedMachines
) -> None:
    rented.start(run, SPOT)

    released = rented.release(run, 1)

    assert released.proved is True
    assert "asked three times" in released.detail
    assert cloud.volumes == []  # SkyPilot's teardown leaves them where AWS was told to


def test_machines_are_ended_before_skypilot_which_takes_its_time_is_asked_to(
    run: RunDir, rented: RentedMachines, cloud: Cloud
) -> None:
    rented.start(run, SPOT)

    released = rented.release(run, 1)

    assert cloud.down_calls == ["tiny-1-1"]
    assert cloud.running_at_down == []
    assert released.proved


def test_a_machine_that_exists_although_the_cloud_said_error_is_ended_and_paid_for(
    run: RunDir, cloud: Cloud, rented: RentedMachines, clock: Clock
) -> None:
    cloud.fails, cloud.fails_after_creating = ProvisionError("error"), True
    cloud.down_fails = True  # and SkyPilot knows nothing of it
    with pytest.raises(ProvisionError):
        rented.start(run, SPOT)
    clock.now += 30.0

    released = rented.release(run, 1)

    assert cloud.leftovers("") == []
    assert released.proved is None  # SkyPilot may be about to make another one
    assert released.paid is not None
    (paid,) = released.paid
    assert paid.ended_at - paid.started_at >= 30.0
    cloud.down_fails = False
    assert rented.release(run, 1).proved is True


def test_a_machine_whose_end_nobody_tells_is_paid_for_until_its_limit_and_no_longer(
    run: RunDir, cloud: Cloud, rented: RentedMachines, clock: Clock
) -> None:
    limits = read_model(run.limits, Limits).model_copy(update={"started_at": clock.now})
    write_model(run.limits, limits)
    rented.start(run, SPOT)
    stop = limits.stop_at()
    assert stop is not None
    cloud.machines = [replace(one, state="terminated") for one in cloud.machines]
    cloud.end_all = lambda: None  # type: ignore[method-assign]
    clock.now += 7200.0

    (paid,) = rented.release(run, 1).paid or ()

    assert paid.ended_at == stop[0] + rented.closing_s < clock.now
    cloud.machines = []  # and an hour later AWS has forgotten it
    assert (rented.release(run, 1).paid or ())[0].ended_at == paid.ended_at


def test_forgotten_machines_are_paid_for_until_they_said_that_they_would_go(
    run: RunDir, cloud: Cloud, rented: RentedMachines, clock: Clock, tmp_path: Path
) -> None:
    update = {"started_at": clock.now, "store": str(tmp_path / "store")}
    limits = read_model(run.limits, Limits).model_copy(update=update)
    write_model(run.limits, limits)
    rented._mail = StoreMail()
    rented.start(run, SPOT.model_copy(update={"nodes": 3}))
    store, gone_at = open_store(str(tmp_path / "store")), clock.now + 100.0
    say_leaving(store, 1, 0, gone_at)
    say_leaving(store, 1, 2, clock.now + 1e9)  # it said nonsense, and the other nothing
    store.put_bytes("leaving/00000001-9", b"not that either")
    say_leaving(store, 2, 1, clock.now)
    stop = limits.stop_at()
    assert stop is not None
    cloud.machines = []
    clock.now += 7200.0

    paid = rented.release(run, 1).paid or ()

    latest = stop[0] + rented.closing_s
    assert sorted(each.ended_at for each in paid) == [gone_at + SWITCHING_OFF_S, latest, latest]
    assert all(each.guessed for each in paid)


def test_machines_of_another_attempt_are_not_paid_for_again(
    run: RunDir, rented: RentedMachines
) -> None:
    rented.start(run, SPOT)

    assert rented.release(run, 2).paid == ()


def test_what_does_not_go_away_is_named_and_unproved(
    run: RunDir, cloud: Cloud, rented: RentedMachines
) -> None:
    rented.start(run, SPOT)
    cloud.lags = 1_000_000

    released = rented.release(run, 1)

    assert released.proved is False
    assert released.detail == "volume vol-1 in us-east-1"


def test_a_volume_that_goes_late_is_waited_for(
    run: RunDir, cloud: Cloud, rented: RentedMachines
) -> None:
    rented.start(run, SPOT)
    cloud.lags = 3

    assert rented.release(run, 1).proved is True


def test_a_cloud_that_cannot_be_asked_proves_nothing(
    run: RunDir, cloud: Cloud, rented: RentedMachines
) -> None:
    rented.start(run, SPOT)
    cloud.dead = True

    released = rented.release(run, 1)

    assert released.proved is None
    assert "no route to AWS" in released.detail


def test_release_may_be_repeated_by_another_process(
    run: RunDir, cloud: Cloud, rented: RentedMachines, clock: Clock
) -> None:
    rented.start(run, SPOT)
    cloud.dead = True
    rented.release(run, 1)
    cloud.dead = False

    def aws(regions: Any) -> Any:
        return cloud

    other = RentedMachines(cloud, aws, Post(), lambda *_: "", clock, clock.sleep, at_once)

    assert other.release(run, 1).proved is True


def test_a_machine_that_was_taken_is_lost_within_seconds(
    run: RunDir, cloud: Cloud, rented: RentedMachines, clock: Clock
) -> None:
    rented.start(run, SPOT)
    assert rented.look(run) == "alive"

    cloud.end_all()
    clock.now += 11.0

    assert rented.look(run) == "lost"


@pytest.mark.parametrize(("spoke", "sight"), [(False, "lost"), (True, "alive")])
def test_a_machine_nobody_heard_of_is_given_up_before_its_money_ends_since_it_may_have_no_timer(
    run: RunDir, rented: RentedMachines, clock: Clock, spoke: bool, sight: str
) -> None:
    rented.start(run, SPOT)
    if spoke:
        log = EventLog(run.events, attempt=1)
        log.write(WorkerStarted(t=clock(), attempt=1, pid=1, device="cuda"))
        log.close()
    money_ends = money_ends_at(read_model(run.limits, Limits))

    clock.now = money_ends - ENDING_S - 1
    assert rented.look(run) == "alive"
    clock.now = money_ends - ENDING_S
    assert rented.look(run) == sight


def test_a_skypilot_that_never_answers_holds_nothing_up(
    run: RunDir, cloud: Cloud, clock: Clock
) -> None:
    def aws(regions: Any) -> Any:
        return cloud

    hanging: list[Any] = []
    rented = RentedMachines(
        cloud, aws, Post(), lambda *_: "a task", clock, clock.sleep, hanging.append
    )
    rented.start(run, SPOT)
    for _ in range(10):
        clock.now += 30.0
        assert rented.look(run) == "alive"
    cloud.end_all()
    clock.now += 11.0

    assert rented.look(run) == "lost"
    assert len(hanging) == 1  # and it was not asked again meanwhile


def test_one_machine_of_two_that_is_taken_loses_the_attempt(
    run: RunDir, cloud: Cloud, rented: RentedMachines, clock: Clock
) -> None:
    rented.start(run, SPOT)
    taken = Instance("i-9", "us-east-1", "terminated", clock(), clock(), 1)
    cloud.machines.append(taken)
    clock.now += 11.0

    assert rented.look(run) == "lost"


def test_machines_of_earlier_attempts_do_not_count(
    run: RunDir, cloud: Cloud, rented: RentedMachines, clock: Clock
) -> None:
    gone = Instance("i-0", "us-east-1", "terminated", 0.0, 1.0, 0)
    cloud.machines.append(gone)
    rented.start(run, SPOT)
    clock.now += 11.0

    assert rented.look(run) == "alive"
    released = rented.release(run, 1)
    assert released.paid is not None
    assert len(released.paid) == 1


def test_a_look_that_fails_says_nothing_of_the_machine(
    run: RunDir, cloud: Cloud, rented: RentedMachines, clock: Clock
) -> None:
    rented.start(run, SPOT)
    cloud.dead, cloud.job = True, "unknown"
    clock.now += 60.0

    assert rented.look(run) == "alive"


def last_word(run: RunDir, status: Any, t: float) -> None:
    log = EventLog(run.events, 1)
    log.write(WorkerEnded(t=t, attempt=1, status=status))
    log.close()


def test_a_worker_that_failed_has_ended_with_its_last_word(
    run: RunDir, cloud: Cloud, rented: RentedMachines, clock: Clock
) -> None:
    rented.start(run, SPOT)
    last_word(run, "failed", clock())

    assert rented.look(run) == "ended"


def test_a_worker_that_is_done_has_ended_when_its_results_have_come(
    run: RunDir, cloud: Cloud, rented: RentedMachines, clock: Clock
) -> None:
    rented.start(run, SPOT)
    last_word(run, "done", clock())
    assert rented.look(run) == "alive"

    done = Done(status="done", steps=1, of_steps=1, finished_at=clock())
    write_model(run.done, done)

    assert rented.look(run) == "ended"


def test_results_that_never_come_do_not_keep_a_machine(
    run: RunDir, cloud: Cloud, rented: RentedMachines, clock: Clock
) -> None:
    rented.start(run, SPOT)
    last_word(run, "done", clock())
    clock.now += 301.0

    assert rented.look(run) == "ended"


def test_a_job_that_failed_without_a_word_has_ended(
    run: RunDir, cloud: Cloud, rented: RentedMachines, clock: Clock
) -> None:
    rented.start(run, SPOT)
    cloud.job = "failed"
    clock.now += 31.0

    assert rented.look(run) == "ended"
    assert run.log.read_text() == "Killed"  # what the worker said is here before its machine goes


def test_skypilot_is_asked_for_a_job_only_when_nothing_is_heard_of_its_worker(
    run: RunDir, cloud: Cloud, rented: RentedMachines, clock: Clock
) -> None:
    rented.start(run, SPOT)
    cloud.job = "failed"  # as SkyPilot would say, if it were asked
    log = EventLog(run.events, 1)
    for _ in range(5):
        clock.now += 15.0
        log.write(Progress(t=clock(), attempt=1, stage="train", done=1, total=2, unit="steps"))
        assert rented.look(run) == "alive"
    log.close()

    clock.now += 21.0

    assert rented.look(run) == "ended"


def test_a_job_that_was_just_submitted_is_given_time_to_begin(
    run: RunDir, cloud: Cloud, rented: RentedMachines, clock: Clock
) -> None:
    clock.now += 60.0  # so long its plan and its machine took
    cloud.job = "failed"
    rented.start(run, SPOT)

    assert rented.look(run) == "alive"
    clock.now += 21.0
    assert rented.look(run) == "ended"


def test_an_on_demand_machine_that_would_only_stop_on_shutdown_is_refused(
    run: RunDir, cloud: Cloud, rented: RentedMachines
) -> None:
    cloud.on_shutdown = False

    with pytest.raises(ProvisionError, match="i-1 would stop"):
        rented.start(run, SPOT.model_copy(update={"spot": False}))


@pytest.mark.parametrize(("answer", "proved"), [(False, True), (True, False), (None, None)])
def test_where_only_skypilot_can_ask_its_answer_is_the_proof(
    run: RunDir, cloud: Cloud, rented: RentedMachines, answer: Any, proved: Any
) -> None:
    rented.start(run, LAMBDA)
    cloud.is_up = lambda cluster: answer  # type: ignore[method-assign]

    assert rented.release(run, 1).proved is proved


# ---- rented by another home ------------------------------------------------------------------


def adopted(run: RunDir, clock: Clock) -> None:
    """The book of a run whose first machine another home asked for just now."""
    limits = read_model(run.limits, Limits).model_copy(update={"started_at": clock()})
    write_model(run.limits, limits)
    attempt = Attempt(
        number=1,
        started_at=clock(),
        ended_at=None,
        how=None,
        usd_per_hour=SPOT.usd_per_hour,
        price_source="test",
        price_as_of=None,
        offer=SPOT.as_json(),
        reservation="tiny-1/1",
    )
    rebuild_book(run, [attempt], elsewhere=lambda number: True)


def test_the_machine_of_another_home_is_found_by_its_tag_and_given_back(
    run: RunDir, cloud: Cloud, rented: RentedMachines, clock: Clock
) -> None:
    adopted(run, clock)
    cloud.launch("", "tiny-1-1", run.log, 60.0)
    log = EventLog(run.events, attempt=1)
    log.write(WorkerStarted(t=clock(), attempt=1, pid=1, device="cuda"))
    log.close()
    assert rented.look(run) == "alive"

    released = rented.release(run, 1)

    assert released.proved is True
    assert released.paid is not None
    assert len(released.paid) == 1
    assert cloud.leftovers("") == []


def test_what_another_home_may_still_be_launching_is_not_proved_gone(
    run: RunDir, cloud: Cloud, rented: RentedMachines, clock: Clock
) -> None:
    adopted(run, clock)

    released = rented.release(run, 1)
    assert released.proved is None
    assert "may still be launching" in released.detail

    clock.now += LAUNCH_S
    assert rented.release(run, 1).proved is True


def test_nothing_was_rented_is_proved_at_once(run: RunDir, rented: RentedMachines) -> None:
    released = rented.release(run, 1)

    assert released.proved is True
    assert released.paid == ()


# ---- prices ----------------------------------------------------------------------------------


def test_what_aws_charged_comes_with_the_paid_time_of_each_machine(
    run: RunDir, cloud: Cloud, rented: RentedMachines, clock: Clock
) -> None:
    limits = read_model(run.limits, Limits).model_copy(update={"started_at": clock.now})
    write_model(run.limits, limits)
    cloud.prices = [Price(clock.now, Decimal("21.5")), Price(clock.now + 60, Decimal(30))]
    rented.start(run, SPOT.model_copy(update={"nodes": 2, "usd_per_hour": Decimal(43)}))
    clock.now += 120.0

    (paid,) = rented.release(run, 1).paid or ()

    assert paid.prices == Prices(tuple(cloud.prices))  # of one machine, not of both
    assert not paid.guessed


def test_a_price_that_nobody_tells_is_said_to_be_a_guess(
    run: RunDir, cloud: Cloud, rented: RentedMachines
) -> None:
    cloud.prices = None
    rented.start(run, SPOT)

    (paid,) = rented.release(run, 1).paid or ()

    assert paid.prices is None
    assert paid.guessed
    assert rented.prices(SPOT, 0.0) is None


def test_prices_are_asked_for_all_machines_together(cloud: Cloud, rented: RentedMachines) -> None:
    cloud.prices = [Price(5.0, Decimal(20))]
    two = SPOT.model_copy(update={"nodes": 2, "usd_per_hour": Decimal(43)})

    assert rented.prices(two, 0.0) == Prices((Price(5.0, Decimal(40)),))


@pytest.mark.parametrize("told", [[], [Price(5.0, Decimal("0.00001"))]])
def test_where_aws_says_nothing_that_can_be_believed_the_offers_price_stays(
    cloud: Cloud, rented: RentedMachines, told: list[Price]
) -> None:
    cloud.prices = told

    assert rented.prices(SPOT, 0.0) == Prices.fixed(SPOT.usd_per_hour)


def test_a_price_up_to_that_on_demand_is_believed_however_low_it_began(
    cloud: Cloud, rented: RentedMachines
) -> None:
    low = SPOT.model_copy(
        update={"usd_per_hour": Decimal(5), "on_demand_usd_per_hour": Decimal(55)}
    )
    cloud.prices = [Price(5.0, Decimal(52))]

    assert rented.prices(low, 0.0) == Prices((Price(5.0, Decimal(52)),))


def test_machines_on_demand_have_no_price_that_moves(
    run: RunDir, cloud: Cloud, rented: RentedMachines
) -> None:
    cloud.prices = [Price(5.0, Decimal(20))]

    assert rented.prices(SPOT.model_copy(update={"spot": False}), 0.0) is None


# ---- clouds, one after the other -------------------------------------------------------------


@pytest.fixture
def after_lambda(run: RunDir, cloud: Cloud, rented: RentedMachines) -> RunDir:
    """A run whose first offer, of a cloud that cannot be asked, had no machine; the second is of
    AWS, and works."""
    cloud.fails = NoCapacityError("none")
    with pytest.raises(NoCapacityError):
        rented.start(run, LAMBDA)
    cloud.fails, cloud.up = None, False
    limits = read_model(run.limits, Limits).model_copy(update={"attempt": 2})
    write_model(run.limits, limits)
    rented.start(run, SPOT)
    return run


def test_what_is_of_aws_is_ended_proved_and_paid_by_aws_whatever_was_tried_before(
    after_lambda: RunDir, cloud: Cloud, rented: RentedMachines, clock: Clock
) -> None:
    clock.now += 60.0

    released = rented.release(after_lambda, 2)

    assert released.proved is True
    assert "AWS has nothing" in released.detail
    assert "SkyPilot asked the cloud" in released.detail
    assert (cloud.leftovers(""), cloud.running_at_down) == ([], [])
    assert released.paid is not None
    assert [paid.ended_at - paid.started_at for paid in released.paid] == [60.0]


def test_what_skypilot_cannot_say_of_one_cloud_leaves_the_whole_unproved_and_aws_is_ended_still(
    after_lambda: RunDir, cloud: Cloud, rented: RentedMachines
) -> None:
    cloud.down_fails = True
    cloud.is_up = lambda cluster: None  # type: ignore[method-assign]

    released = rented.release(after_lambda, 2)

    assert released.proved is None
    assert cloud.leftovers("") == []


# ---- on the way ------------------------------------------------------------------------------


def test_a_kill_ends_the_machines_also_where_skypilot_does_not(
    run: RunDir, cloud: Cloud, rented: RentedMachines
) -> None:
    rented.start(run, SPOT)
    cloud.down_fails = True

    rented.kill(run)

    assert [machine.is_gone for machine in cloud.machines] == [True]


def test_machines_on_demand_whose_launcher_was_killed_are_told_to_end_by_who_follows(
    run: RunDir, cloud: Cloud, rented: RentedMachines, clock: Clock
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    launch, cloud.launch = cloud.launch, killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        rented.start(run, SPOT.model_copy(update={"spot": False}))
    launch("", "tiny-1-1", run.log, 0.0)  # SkyPilot's server goes on

    for _ in range(3):
        clock.now += 11.0
        rented.look(run)

    assert cloud.ends_on_shutdown == ["i-1"]  # once is enough


def test_what_a_machine_has_cost_is_known_whatever_it_has_written(
    run: RunDir, rented: RentedMachines, clock: Clock
) -> None:
    rented.start(run, SPOT)
    run.events.write_text('{"v":2,"kind":"new"}\n')
    clock.now += 60.0

    released = rented.release(run, 1)

    assert released.paid is not None
    assert [paid.ended_at - paid.started_at for paid in released.paid] == [60.0]


def test_a_disk_that_is_full_is_no_news_and_keeps_no_machine(
    run: RunDir, cloud: Cloud, rented: RentedMachines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(mirror: EventMirror) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(EventMirror, "fetch", full)
    limits = read_model(run.limits, Limits)
    write_model(run.limits, limits.model_copy(update={"store": str(run.path / "store")}))
    rented._mail = StoreMail()
    rented.start(run, SPOT)

    assert rented.look(run) == "alive"
    assert rented.release(run, 1).proved is True
    assert cloud.leftovers("") == []
