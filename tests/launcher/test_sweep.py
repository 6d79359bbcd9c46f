"""A sweep finds by tag what is there and should not be, and nothing else."""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from launcher.machines.aws_inventory import Inventory, Thing, take_inventory
from launcher.machines.labels import labels
from launcher.plans.plan import Plan
from launcher.runs.house import House
from launcher.runs.run import open_run
from launcher.show_sweep import render_sweep
from launcher.sweep import is_doubtful, judge
from recipes.recipe import Recipe
from tracking.books import Books
from tracking.entries import AttemptEnded, AttemptStarted, Git

Still = Any

NOW = 1_800_000_000.0
ME = "ada@lab"

MACHINE = Thing("instance", "i-1", "us-east-1", "tiny-1", ME, NOW + 3600)


@pytest.fixture
def books_of(house: House, recipe: Recipe, plan: Plan) -> Callable[..., Books]:
    """Books of `tiny-1` with one attempt on AWS, which has ended or not."""

    def make(*, ended: bool) -> Books:
        ledger = house.ledger
        open_run(house.home, ledger, "tiny-1", recipe, plan, Git())
        started = AttemptStarted(
            attempt=1,
            started_at=NOW,
            usd_per_hour=plan.offer.usd_per_hour,
            price_source="test",
            price_as_of=None,
            offer={"cloud": "aws", "name": "aws p5.48xlarge us-east-1b spot"},
            reservation=ledger.reserve("tiny-1", "train", 5),
        )
        ledger.append("tiny-1", started)
        if ended:
            ledger.append("tiny-1", AttemptEnded(attempt=1, ended_at=NOW, how="done"))
        return ledger.books("tiny-1")

    return make


def verdicts(*things: Thing, runs: tuple[Books, ...] = (), now: float = NOW) -> list[str]:
    swept = judge(Inventory(things, {}), runs, ME, now)
    return [one.verdict for one in (*swept.orphans, *swept.live)]


def test_a_machine_past_its_own_time_is_nobodys_whatever_the_ledger_says(
    books_of: Callable[..., Books],
) -> None:
    open_ = books_of(ended=False)

    assert verdicts(MACHINE, runs=(open_,)) == ["live"]
    assert verdicts(MACHINE, runs=(open_,), now=NOW + 3600) == ["expired"]


def test_what_a_closed_run_left_is_an_orphan(books_of: Callable[..., Books]) -> None:
    assert verdicts(MACHINE, runs=(books_of(ended=True),)) == ["over"]


def test_what_somebody_else_rented_for_a_run_that_is_closed_here_may_be_his_who_adopted_it(
    books_of: Callable[..., Books],
) -> None:
    theirs = replace(MACHINE, owner="bob@lab")

    assert verdicts(theirs, runs=(books_of(ended=True),)) == ["unknown"]


def test_what_this_ledger_has_never_heard_of_is_found_but_asked_about() -> None:
    swept = judge(Inventory((MACHINE, replace(MACHINE, id="i-2", expires_at=NOW)), {}), (), ME, NOW)

    assert [one.verdict for one in swept.orphans] == ["unknown", "expired"]
    assert [one.thing.id for one in swept.orphans if is_doubtful(one)] == ["i-1"]
    assert not swept.is_clean


def test_a_run_whose_machines_the_cloud_does_not_have_is_a_ghost(
    books_of: Callable[..., Books],
) -> None:
    open_ = books_of(ended=False)

    assert [ghost.run_id for ghost in judge(Inventory((), {}), [open_], ME, NOW).ghosts] == [
        "tiny-1"
    ]
    assert judge(Inventory((MACHINE,), {}), [open_], ME, NOW).ghosts == ()
    # Where a region could not be asked, its machines may be just there.
    assert judge(Inventory((), {"us-west-2": "no answer"}), [open_], ME, NOW).ghosts == ()


def test_a_place_that_could_not_be_asked_is_not_called_clean() -> None:
    swept = judge(Inventory((), {"us-west-2": "no answer"}), (), ME, NOW)

    assert not swept.is_clean
    assert swept.as_json()["unasked"] == {"us-west-2": "no answer"}


# ---- the inventory ---------------------------------------------------------------------------


class Account:
    """As much of boto3 as an inventory uses: two regions, one of which does not answer."""

    def __init__(self, instances: list[dict[str, Any]], uploads: list[dict[str, str]]) -> None:
        self._instances = instances
        self._uploads = uploads

    def __call__(self, service: str, region: str) -> Any:
        if region == "us-west-2":
            raise ConnectionError("no answer")
        return self

    def describe_regions(self) -> Any:
        return {"Regions": [{"RegionName": name} for name in ("us-west-2", "us-east-1")]}

    def get_paginator(self, call: str) -> Any:
        self._call = call
        return self

    def paginate(self, **_: Any) -> Any:
        yield {
            "describe_instances": {"Reservations": [{"Instances": self._instances}]},
            "list_multipart_uploads": {"Uploads": self._uploads},
            "describe_volumes": {"Volumes": []},
            "describe_network_interfaces": {"NetworkInterfaces": []},
        }[self._call]

    def describe_addresses(self, **_: Any) -> Any:
        return {"Addresses": []}


def instance(name: str, state: str = "running", **tags: str) -> dict[str, Any]:
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    return {"InstanceId": name, "State": {"Name": state}, "Tags": listed}


def test_only_what_carries_our_tag_and_still_costs_is_in_the_inventory() -> None:
    ours = labels("aws", run_id="tiny-1", owner="ada@lab", expires_at=NOW)
    account = Account(
        [
            instance("i-ours", **ours),
            instance("i-gone", "terminated", **ours),
            instance("i-theirs", **{"Name": "database"}),
        ],
        [
            {"Key": "runs/tiny-1/checkpoints/model", "UploadId": "u1"},
            {"Key": "runs/loose", "UploadId": "u2"},
        ],
    )

    found = take_inventory(account, [], [("bucket", "runs")])

    assert found.things == (
        Thing("instance", "i-ours", "us-east-1", "tiny-1", "ada@lab", NOW),
        Thing("upload", "runs/tiny-1/checkpoints/model?uploadId=u1", "bucket", "tiny-1"),
    )
    assert found.unasked == {"us-west-2": "no answer"}


def test_a_person_reads_what_was_found_why_and_where_nobody_looked() -> None:
    from rich.console import Console

    console = Console(width=120, file=io.StringIO(), record=True)
    swept = judge(Inventory((MACHINE,), {"us-west-2": "no answer"}), (), ME, NOW)

    console.print(render_sweep(swept))

    text = console.export_text()
    assert "i-1" in text
    assert "rented from elsewhere" in text
    assert "not looked at: us-west-2: no answer" in text


# ---- the command -----------------------------------------------------------------------------


class Ec2(Account):
    """One region, whose machines can be ended."""

    def __call__(self, service: str, region: str) -> Any:
        return self

    def describe_regions(self) -> Any:
        return {"Regions": [{"RegionName": "us-east-1"}]}

    def terminate_instances(self, InstanceIds: list[str]) -> None:
        self._instances = [one for one in self._instances if one["InstanceId"] not in InstanceIds]

    @property
    def left(self) -> list[str]:
        return [one["InstanceId"] for one in self._instances]


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch) -> Ec2:
    """A machine that has expired, and one of a run that this ledger has never heard of."""

    def one(name: str, expires_at: float) -> dict[str, Any]:
        return instance(name, **labels("aws", run_id=name, owner="bob@lab", expires_at=expires_at))

    account = Ec2([one("i-expired", NOW - 86400), one("i-live", NOW + 3600)], [])
    monkeypatch.setattr("launcher.sweeping.boto3_client", account)
    return account


def test_by_the_clock_what_has_expired_is_ended_and_what_may_be_somebodys_left_without_alarm(
    still: Still, ec2: Ec2
) -> None:
    result = still("sweep", "--apply")

    assert ec2.left == ["i-live"]
    assert "left alone: 1" in result.stderr
    assert result.exit_code == 0


def test_only_looking_names_both_and_a_person_may_have_both_ended(still: Still, ec2: Ec2) -> None:
    assert still("sweep").exit_code == 6
    assert ec2.left == ["i-expired", "i-live"]

    assert still("sweep", "--apply", "--yes").exit_code == 0
    assert ec2.left == []


def test_a_store_that_is_none_is_refused_and_not_passed_over(still: Still, ec2: Ec2) -> None:
    result = still("sweep", "--store", "https://user:password@host/x")

    assert result.exit_code == 2
    assert "password" not in result.stderr
