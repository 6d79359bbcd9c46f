"""What AWS charges for a run, by its own books: Cost Explorer, by the run's tag, day by day.

Each question costs the account $0.01. Credits and refunds are left out: they say who pays, and not
what it costs. A tag counts only from when it was activated for cost allocation.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any

from launcher.machines.aws import RUN_TAG, ClientFactory
from recipes.errors import RefusedError

SOURCE = f"AWS Cost Explorer, tag {RUN_TAG}"

REGION = "us-east-1"
"""Where Cost Explorer answers for all regions."""

METRIC = "UnblendedCost"


@dataclass(frozen=True)
class DayCost:
    """What AWS says of one day."""

    day: date
    """In UTC, as AWS's books are."""
    usd_of: Mapping[str, Decimal] = field(default_factory=dict)
    """Service -> dollars. Without any: AWS has no row for it, which is not the same as $0."""
    estimated: bool = True
    """Whether AWS calls it an estimate yet."""


def ask_costs(run_id: str, first: date, end: date, client: ClientFactory) -> list[DayCost]:
    """The costs that carry a run's tag, a day each.

    Args:
        first: the first day [UTC].
        end: the day after the last one.
        client: makes clients.

    Raises:
        RefusedError: AWS did not say; says why, and what to do.
    """
    usd: dict[date, dict[str, Decimal]] = defaultdict(dict)
    estimated: dict[date, bool] = {}
    for said in _answers(run_id, first, end, client):
        day = date.fromisoformat(said["TimePeriod"]["Start"])
        estimated[day] = estimated.get(day, False) or bool(said.get("Estimated", True))
        for group in said.get("Groups", []):
            service = str(group["Keys"][0])
            usd[day][service] = usd[day].get(service, Decimal(0)) + _usd(group)
    return [DayCost(day, usd.get(day, {}), estimated[day]) for day in sorted(estimated)]


def _answers(
    run_id: str, first: date, end: date, client: ClientFactory
) -> Iterator[Mapping[str, Any]]:
    """The days of all pages; one day may be on two of them."""
    from botocore.exceptions import BotoCoreError, ClientError

    asked: dict[str, Any] = {
        "TimePeriod": {"Start": first.isoformat(), "End": end.isoformat()},
        "Granularity": "DAILY",
        "Metrics": [METRIC],
        "GroupBy": [{"Type": "DIMENSION", "Key": "SERVICE"}],
        "Filter": {
            "And": [
                {"Tags": {"Key": RUN_TAG, "Values": [run_id], "MatchOptions": ["EQUALS"]}},
                {"Not": {"Dimensions": {"Key": "RECORD_TYPE", "Values": ["Credit", "Refund"]}}},
            ]
        },
    }
    try:
        ce = client("ce", REGION)
        while True:
            page = ce.get_cost_and_usage(**asked)
            yield from page["ResultsByTime"]
            if not page.get("NextPageToken"):
                return
            asked["NextPageToken"] = page["NextPageToken"]
    except ClientError as error:
        raise _explained(error) from error
    except BotoCoreError as error:
        raise RefusedError(
            f"AWS could not be asked what {run_id} cost: {error}. Look at the credentials and the "
            "network of this machine: `aws sts get-caller-identity`"
        ) from error


def _explained(error: Any) -> RefusedError:
    code = str(error.response.get("Error", {}).get("Code", "an error without a code"))
    remedy = "Try again later"
    if code in ("AccessDeniedException", "AccessDenied"):
        remedy = (
            "Allow ce:GetCostAndUsage (`still policy aws` prints all that is needed), and let IAM "
            "users see billing in the account's settings"
        )
    elif code == "DataUnavailableException":
        remedy = "Open Cost Explorer once in the console; its first figures take a day to come"
    elif code == "ValidationException":
        remedy = "Cost Explorer keeps the days of 13 months; earlier ones are in the bills only"
    return RefusedError(f"Cost Explorer answered {code}. {remedy}")


def _usd(group: Mapping[str, Any]) -> Decimal:
    cost = group["Metrics"][METRIC]
    if cost.get("Unit") != "USD":
        raise RefusedError(f"AWS bills this account in {cost.get('Unit')}, and we count in USD")
    try:
        amount = Decimal(str(cost["Amount"]))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite():
        raise RefusedError(f"Cost Explorer answered {cost['Amount']!r} where dollars were expected")
    return amount
