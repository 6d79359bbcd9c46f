"""AWS's figure beside ours: what is added up, what is final, and what stays unknown."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.machines.aws_costs import ask_costs
from launcher.outside import Outside
from launcher.reconciling import reconcile_run
from recipes.errors import RefusedError
from recipes.recipe import Recipe
from tracking.entries import AttemptEnded, AttemptStarted, Opened

Clock = Any

DAY_S = 86_400.0
AWS = {"cloud": "aws", "name": "aws p5.48xlarge", "spot": False, "region": "us-east-1"}
SPOT = {**AWS, "spot": True}
COMPUTE, OTHER = "Amazon Elastic Compute Cloud - Compute", "EC2 - Other"


class CostExplorer:
    """Answers as AWS's does: a row a day, groups by service, pages of so many days."""

    def __init__(self, days_per_page: int = 100) -> None:
        self.usd: dict[str, dict[str, str]] = {}
        """Day -> service -> amount."""
        self.estimated: set[str] = set()
        self.unit = "USD"
        self.error: str | None = None
        self.asked: list[dict[str, Any]] = []
        self.clients: list[tuple[str, str]] = []
        self._days_per_page = days_per_page

    def client(self, service: str, region: str) -> "CostExplorer":
        self.clients.append((service, region))
        return self

    def get_cost_and_usage(self, **asked: Any) -> dict[str, Any]:
        self.asked.append(asked)
        if self.error is not None:
            from botocore.exceptions import ClientError

            raise ClientError({"Error": {"Code": self.error}}, "GetCostAndUsage")
        first = datetime.fromisoformat(asked["TimePeriod"]["Start"])
        end = datetime.fromisoformat(asked["TimePeriod"]["End"])
        days = [(first + timedelta(days=n)).strftime("%Y-%m-%d") for n in range((end - first).days)]
        start = int(asked.get("NextPageToken", "0"))
        over = start + self._days_per_page
        page = {"ResultsByTime": [self._row(day) for day in days[start:over]]}
        return {**page, "NextPageToken": str(over)} if over < len(days) else page

    def _row(self, day: str) -> dict[str, Any]:
        return {
            "TimePeriod": {"Start": day, "End": "unread"},
            "Total": {},
            "Groups": [
                {
                    "Keys": [service],
                    "Metrics": {"UnblendedCost": {"Amount": usd, "Unit": self.unit}},
                }
                for service, usd in self.usd.get(day, {}).items()
            ],
            "Estimated": day in self.estimated,
        }


@pytest.fixture
def aws(outside: Outside) -> CostExplorer:
    explorer = CostExplorer()
    outside.aws = explorer.client
    return explorer


Rent = Callable[..., None]


@pytest.fixture
def rent(outside: Outside, recipe: Recipe, clock: Clock) -> Rent:
    """Books of a run `s1-1` that rented machines and gave them back, each for some dollars."""
    ledger = outside.ledger
    ledger.open_run(
        "s1-1", Opened(recipe=recipe.model_dump(mode="json"), budget_micro_usd=100_000_000)
    )
    outside.home.run("s1-1").path.mkdir()

    def attempt(
        offer: dict[str, Any], usd: str, seconds: float = 3600.0, over: bool = True
    ) -> None:
        number = len(ledger.books("s1-1").attempts) + 1
        amount = int(Decimal(usd) * 1_000_000)
        paid_by = ledger.reserve("s1-1", "train", amount)
        ledger.append(
            "s1-1",
            AttemptStarted(
                attempt=number,
                started_at=clock(),
                usd_per_hour=Decimal(usd),
                price_source="AWS",
                offer=offer,
                reservation=paid_by,
            ),
        )
        clock.now += seconds
        if over:
            end = AttemptEnded(attempt=number, ended_at=clock(), how="done")
            ledger.settle(paid_by, {"train": amount}, end)

    return attempt


def day(clock: Clock, ago: int = 0) -> str:
    return (datetime.fromtimestamp(clock(), UTC) - timedelta(days=ago)).strftime("%Y-%m-%d")


def test_awss_figure_stands_in_the_receipt_beside_ours_and_ours_is_unchanged(
    still: Any, outside: Outside, rent: Rent, aws: CostExplorer, clock: Clock
) -> None:
    rent(AWS, "40")
    clock.now += 30 * DAY_S
    aws.usd = {day(clock, ago=30): {COMPUTE: "39.5", OTHER: "1.6000000001"}}
    before = outside.receipt("s1-1")

    result = still("reconcile", "s1-1")

    after = outside.receipt("s1-1")
    assert result.exit_code == 0, result.stderr
    assert before.billed_usd is None
    assert (after.billed_usd, after.billed_final) == (Decimal("41.1"), True)
    assert after.billed_source == "AWS Cost Explorer, tag stillhouse-run"
    assert after.metered_usd == before.metered_usd == 40
    assert "$41.10" in result.stdout
    assert "+$1.10" in result.stdout
    shown = still("show", "s1-1").stdout
    assert "final, by AWS Cost Explorer, tag stillhouse-run" in " ".join(shown.split())


def test_aws_is_asked_by_tag_for_the_days_of_the_run_and_one_more(
    outside: Outside, rent: Rent, aws: CostExplorer, clock: Clock
) -> None:
    first = day(clock)
    rent(AWS, "40", seconds=DAY_S)
    clock.now += 30 * DAY_S

    reconcile_run(outside, "s1-1")

    (asked,) = aws.asked
    assert aws.clients == [("ce", "us-east-1")]
    assert asked["TimePeriod"] == {"Start": first, "End": day(clock, ago=28)}
    assert asked["Granularity"] == "DAILY"
    assert asked["Metrics"] == ["UnblendedCost"]
    assert asked["GroupBy"] == [{"Type": "DIMENSION", "Key": "SERVICE"}]
    assert {
        "Tags": {"Key": "stillhouse-run", "Values": ["s1-1"], "MatchOptions": ["EQUALS"]}
    } in asked["Filter"]["And"]


def test_the_question_is_one_that_boto3_would_send(
    outside: Outside, rent: Rent, aws: CostExplorer
) -> None:
    import botocore.session
    from botocore.validate import ParamValidator

    rent(AWS, "40")
    reconcile_run(outside, "s1-1")

    model = botocore.session.get_session().get_service_model("ce")
    shape = model.operation_model("GetCostAndUsage").input_shape
    assert ParamValidator().validate(aws.asked[0], shape).generate_report() == ""


def test_no_day_is_lost_between_pages(
    outside: Outside, rent: Rent, aws: CostExplorer, clock: Clock
) -> None:
    rent(AWS, "40", seconds=4 * DAY_S)
    clock.now += 30 * DAY_S
    aws.usd = {day(clock, ago=30 + n): {COMPUTE: "10"} for n in range(5)}
    aws._days_per_page = 2

    assert reconcile_run(outside, "s1-1").billed_usd == 50
    assert len(aws.asked) == 3


def test_no_row_is_unknown_and_not_nothing_and_says_how_to_activate_the_tag(
    still: Any, outside: Outside, rent: Rent, aws: CostExplorer, clock: Clock
) -> None:
    rent(AWS, "40")
    clock.now += 30 * DAY_S

    result = still("reconcile", "s1-1", "--json")
    printed = still("reconcile", "s1-1").stdout

    said = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (said["billed_usd"], said["difference_usd"], said["final"]) == (None, None, False)
    assert outside.ledger.books("s1-1").billed is None
    assert "unknown" in printed
    assert "does not mean $0" in " ".join(printed.split())
    assert "update-cost-allocation-tags-status" in " ".join(printed.split())


def test_a_day_is_final_when_aws_says_so_and_two_days_have_passed(
    outside: Outside, rent: Rent, aws: CostExplorer, clock: Clock
) -> None:
    rent(AWS, "40")
    rented_on = day(clock)
    aws.usd = {rented_on: {COMPUTE: "40"}}

    def is_final() -> bool:
        found = reconcile_run(outside, "s1-1")
        billed = outside.ledger.books("s1-1").billed
        assert billed is not None
        assert billed.final == found.final
        return found.final

    clock.now += 2 * DAY_S  # its own day is two days old, the one after it not yet
    assert not is_final()
    clock.now += 2 * DAY_S
    assert is_final()
    aws.estimated = {rented_on}
    assert not is_final()


def test_what_aws_says_is_written_down_when_it_is_new_and_only_then(
    outside: Outside, rent: Rent, aws: CostExplorer, clock: Clock
) -> None:
    rent(AWS, "40")
    aws.usd = {day(clock): {COMPUTE: "20"}}
    reconcile_run(outside, "s1-1")
    reconcile_run(outside, "s1-1")
    aws.usd = {day(clock): {COMPUTE: "40"}}
    reconcile_run(outside, "s1-1")

    told = [one.entry for one in outside.ledger.books("s1-1").entries]
    assert [entry.micro_usd for entry in told if entry.kind == "billed"] == [20_000_000, 40_000_000]  # type: ignore[attr-defined]


def test_a_day_without_a_row_on_which_a_machine_ran_keeps_the_sum_from_being_final(
    outside: Outside, rent: Rent, aws: CostExplorer, clock: Clock
) -> None:
    rent(AWS, "40", seconds=2 * DAY_S)
    clock.now += 30 * DAY_S
    aws.usd = {day(clock, ago=30): {COMPUTE: "15"}}

    found = reconcile_run(outside, "s1-1")

    assert found.billed_usd == 15
    assert not found.final
    assert f"no row for {day(clock, ago=32)}, {day(clock, ago=31)}" in " ".join(found.reasons)


def test_only_what_aws_bills_is_compared_with_aws(
    still: Any, outside: Outside, rent: Rent, aws: CostExplorer, clock: Clock
) -> None:
    rent({"cloud": "local", "name": "this machine"}, "7")
    rent(AWS, "40")
    clock.now += 30 * DAY_S
    aws.usd = {day(clock, ago=30): {COMPUTE: "40"}}

    said = json.loads(still("reconcile", "s1-1", "--json").stdout)

    assert Decimal(said["metered_usd"]) == 40
    assert Decimal(said["elsewhere_usd"]) == 7
    assert Decimal(said["difference_usd"]) == 0
    assert "machines on AWS alone" in outside.receipt("s1-1").billed_source  # type: ignore[operator]


@pytest.mark.parametrize(
    ("offer", "billed", "named", "not_named"),
    [
        (SPOT, "44", ("spot prices move", "data transfer", "taxes"), ("savings plan",)),
        (SPOT, "36", ("spot prices move", "taxes"), ("savings plan", "data transfer")),
        (AWS, "36", ("savings plan", "taxes"), ("spot prices", "data transfer")),
        (AWS, "40.001", (), ("savings plan", "taxes", "spot")),
    ],
)
def test_only_reasons_that_can_explain_the_difference_are_named(
    outside: Outside,
    rent: Rent,
    aws: CostExplorer,
    clock: Clock,
    offer: dict[str, Any],
    billed: str,
    named: tuple[str, ...],
    not_named: tuple[str, ...],
) -> None:
    rent(offer, "40")
    clock.now += 30 * DAY_S
    aws.usd = {day(clock, ago=30): {COMPUTE: billed}}

    reasons = " ".join(reconcile_run(outside, "s1-1").reasons)

    assert all(words in reasons for words in named)
    assert not any(words in reasons for words in not_named)


def test_a_machine_that_runs_yet_is_in_no_final_figure(
    outside: Outside, rent: Rent, aws: CostExplorer, clock: Clock
) -> None:
    rent(AWS, "40", over=False)
    clock.now += 30 * DAY_S
    aws.usd = {day(clock, ago=n): {COMPUTE: "1"} for n in range(31)}

    found = reconcile_run(outside, "s1-1")

    assert not found.final
    assert "runs yet" in found.reasons[0]


@pytest.mark.parametrize(
    ("cloud", "why"),
    [("runpod", "runpod, and only AWS can be asked"), ("local", "nobody sends a bill")],
)
def test_another_cloud_is_refused_plainly_and_not_asked(
    still: Any, rent: Rent, aws: CostExplorer, cloud: str, why: str
) -> None:
    rent({"cloud": cloud, "name": cloud}, "5")

    result = still("reconcile", "s1-1")

    assert result.exit_code == 3
    assert why in result.stderr
    assert aws.asked == []


def test_a_run_that_rented_nothing_has_nothing_to_compare(
    still: Any, rent: Rent, aws: CostExplorer
) -> None:
    result = still("reconcile", "s1-1")

    assert result.exit_code == 3
    assert "rented nothing" in result.stderr


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("AccessDeniedException", "ce:GetCostAndUsage"),
        ("DataUnavailableException", "Open Cost Explorer once"),
        ("ValidationException", "13 months"),
        ("LimitExceededException", "Try again later"),
    ],
)
def test_an_aws_that_does_not_say_leaves_the_figure_unknown_with_what_to_do(
    still: Any, outside: Outside, rent: Rent, aws: CostExplorer, code: str, remedy: str
) -> None:
    rent(AWS, "40")
    aws.error = code

    result = still("reconcile", "s1-1")

    assert result.exit_code == 3
    assert code in result.stderr
    assert remedy in result.stderr
    assert outside.receipt("s1-1").billed_usd is None


def test_without_credentials_it_says_so(outside: Outside, rent: Rent) -> None:
    from botocore.exceptions import NoCredentialsError

    def none(service: str, region: str) -> Any:
        raise NoCredentialsError

    rent(AWS, "40")
    outside.aws = none

    with pytest.raises(RefusedError, match="aws sts get-caller-identity"):
        reconcile_run(outside, "s1-1")


@pytest.mark.parametrize(("amount", "unit"), [("12", "CNY"), ("NaN", "USD"), ("lots", "USD")])
def test_what_is_no_sum_of_dollars_is_not_taken_for_one(
    outside: Outside, rent: Rent, aws: CostExplorer, clock: Clock, amount: str, unit: str
) -> None:
    rent(AWS, "40")
    aws.usd, aws.unit = {day(clock): {COMPUTE: amount}}, unit

    with pytest.raises(RefusedError):
        reconcile_run(outside, "s1-1")
    assert outside.ledger.books("s1-1").billed is None


def test_a_sum_below_nothing_is_shown_and_not_written_down(
    outside: Outside, rent: Rent, aws: CostExplorer, clock: Clock
) -> None:
    rent(AWS, "40")
    aws.usd = {day(clock): {COMPUTE: "1", "Savings Plans": "-1.5"}}

    assert reconcile_run(outside, "s1-1").billed_usd == Decimal("-0.5")
    assert outside.ledger.books("s1-1").billed is None


@given(
    amounts=st.lists(
        st.tuples(st.integers(0, 6), st.sampled_from([COMPUTE, OTHER]), st.integers(0, 10**12)),
        max_size=12,
    ),
    page=st.integers(1, 8),
)
def test_days_hold_every_row_to_the_last_digit(
    amounts: list[tuple[int, str, int]], page: int
) -> None:
    explorer = CostExplorer(page)
    for number, service, units in amounts:
        of_day = explorer.usd.setdefault(f"2026-11-{10 + number}", {})
        of_day[service] = str(Decimal(of_day.get(service, "0")) + Decimal(units).scaleb(-10))
    first = datetime(2026, 11, 10, tzinfo=UTC).date()

    days = ask_costs("s1-1", first, first + timedelta(days=7), explorer.client)

    assert len(days) == 7
    total = sum(usd for one in days for usd in one.usd_of.values())
    assert total == sum(Decimal(units).scaleb(-10) for _, _, units in amounts)
