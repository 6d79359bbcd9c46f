"""What is rented next, by what the plan says and what the books say."""

from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import recipes
from launcher.errors import NoCapacityError, ProvisionError
from launcher.machines.least import beginning_usd
from launcher.market.offers import Offer
from launcher.plans.plan import Plan
from launcher.plans.planner import plan_offers
from launcher.plans.read_facts import read_facts
from launcher.runs.house import House
from launcher.runs.next_offer import next_offer
from launcher.runs.run import drive, open_run
from recipes.loading import load_recipe, with_changes
from recipes.money import from_micro_usd, to_micro_usd
from recipes.recipe import Recipe
from tracking.books import NO_MACHINE, Books, Recorded, fold
from tracking.entries import (
    AttemptEnded,
    AttemptStarted,
    BudgetRaised,
    Entry,
    Git,
    Line,
    Opened,
    Settled,
    StateChanged,
)

NOW = 1_800_000_000.0
HOUR = 3600.0


def offer(zone: str, usd: str, **fields: Any) -> Offer:
    known: dict[str, Any] = {
        "cloud": "aws",
        "region": zone[:-1],
        "zone": zone,
        "instance_type": "p5.48xlarge",
        "accelerator": "H100",
        "accelerators": 8,
        "nodes": 2,
        "spot": True,
        "usd_per_hour": usd,
        "source": "test",
    }
    return Offer.model_validate(known | fields)


CHEAP = offer("us-east-2a", "39")
SAME_ZONE = offer("us-east-2a", "40", instance_type="p5e.48xlarge")
SECOND = offer("us-east-2b", "41")
STAYS = offer("us-west-3a", "46", spot=False)
ALL = (CHEAP, SAME_ZONE, SECOND, STAYS)


@cache
def recipe(**changes: str) -> Recipe:
    made = load_recipe(Path(recipes.__file__).parent / "s1.yaml")
    return with_changes(made, changes) if changes else made


@cache
def planned(*offers: Offer, **changes: str) -> Plan:
    of = recipe(**changes)
    return plan_offers(of, offers or ALL, read_facts(of), NOW).chosen


class Story:
    """What happened in a run, told in order, as the ledger keeps it."""

    def __init__(self, usd: str = "50", hours: str | None = "4") -> None:
        limit = None if hours is None else Decimal(hours)
        opened = Opened(recipe={}, budget_micro_usd=to_micro_usd(Decimal(usd)), hours=limit)
        self.entries: list[Entry] = [opened]
        self.attempts = 0
        self.now = NOW

    def tell(self, *entries: Entry) -> "Story":
        self.entries += entries
        return self

    def attempt(self, on: Offer, how: str, hours: float = 0.0, **lines: float) -> "Story":
        """An attempt that took so many hours of each line, and ended so."""
        self.attempts += 1
        began, self.now = self.now, self.now + (hours or sum(lines.values())) * HOUR
        micro_usd: dict[Line, int] = {
            line: to_micro_usd(on.usd_per_hour * Decimal(repr(each)))
            for line, each in lines.items()  # type: ignore[misc]
        }
        return self.tell(
            StateChanged(state="provisioning", reason=on.name),
            AttemptStarted(
                attempt=self.attempts,
                started_at=began,
                usd_per_hour=on.usd_per_hour,
                price_source="test",
                offer=on.as_json(),
                reservation=f"r{self.attempts}",
            ),
            *([] if how == NO_MACHINE else [StateChanged(state="running")]),
            Settled(reservation=f"r{self.attempts}", lines=micro_usd),
            AttemptEnded(attempt=self.attempts, ended_at=self.now, how=how),
            *([StateChanged(state="interrupted", reason="")] if how == "lost" else []),
        )

    @property
    def books(self) -> Books:
        return fold(
            Recorded(number, "run", NOW + number, entry)
            for number, entry in enumerate(self.entries)
        )


def zones(story: Story, plan: Plan) -> Iterator[str | None]:
    """Where a run goes while nobody has a machine."""
    while (chosen := next_offer(plan, story.books)) is not None:
        yield chosen.zone
        story.attempt(chosen, NO_MACHINE)


# ---- which one -------------------------------------------------------------------------------


def test_a_run_begins_on_the_offer_of_its_plan() -> None:
    assert next_offer(planned(), Story().books) == CHEAP


def test_this_machine_is_its_own_only_offer(plan: Plan) -> None:
    assert next_offer(plan, Story().books) == plan.offer


def test_an_offer_that_has_no_machine_is_not_asked_again_in_this_round() -> None:
    went = list(zones(Story(usd="60"), planned()))

    assert went == ["us-east-2a", "us-east-2a", "us-east-2b", "us-west-3a"]


def test_a_new_round_asks_all_offers_again() -> None:
    story = Story(usd="60")
    assert len(list(zones(story, planned()))) == 4

    story.tell(StateChanged(state="failed", reason="no machine"))

    assert next_offer(planned(), story.books) == CHEAP


def test_after_a_loss_another_zone_comes_first_and_this_one_last() -> None:
    story = Story(usd="200").attempt(CHEAP, "lost", boot=0.1, train=0.05)

    went = list(zones(story, planned()))

    assert went == ["us-east-2b", "us-west-3a", "us-east-2a", "us-east-2a"]


def test_a_run_that_a_person_stopped_goes_on_where_it_was() -> None:
    story = Story(usd="200").attempt(STAYS, "interrupted", boot=0.1, train=0.05)

    assert next_offer(planned(), story.books) == CHEAP


# ---- what is left ----------------------------------------------------------------------------


def test_what_is_left_decides_whether_a_dear_offer_is_still_possible() -> None:
    dear = offer("us-west-3a", "46", spot=False)
    plan = planned(CHEAP, dear)
    careful = sum(plan.alternatives[1].careful_hours.values()) * 46
    enough, short = f"{careful + 5:.2f}", f"{careful - 1:.2f}"

    after = [
        next_offer(plan, Story(usd=usd).attempt(CHEAP, NO_MACHINE).books) for usd in (enough, short)
    ]

    assert after == [dear, None]


def test_what_could_not_be_begun_with_what_is_left_is_passed_over() -> None:
    """Its price may rise while it starts, and the other one's not, though that is dearer now."""
    spot = offer("us-east-2b", "20", on_demand_usd_per_hour=Decimal(110))
    stays = offer("us-west-3a", "30", spot=False)
    plan = planned(CHEAP, spot, stays)
    story = Story(usd="60").attempt(CHEAP, "lost", boot=0.2, train=0.856)
    left = Decimal(60) - from_micro_usd(story.books.spent_micro_usd)
    assert beginning_usd(stays) < left < beginning_usd(spot)

    assert next_offer(plan, story.books) == stays


def test_training_that_is_done_and_paid_need_not_be_paid_again() -> None:
    begun = Story(usd="60").attempt(CHEAP, "lost", boot=0.2, train=0.4)
    nothing_done = Story(usd="60").attempt(CHEAP, "lost", boot=0.2, lost=0.4)

    assert next_offer(planned(), begun.books) == SECOND
    assert next_offer(planned(), nothing_done.books) is None


def test_hours_that_are_used_up_leave_nothing_to_rent() -> None:
    early, late = (
        Story(usd="500", hours="2").attempt(CHEAP, "lost", hours=used, boot=0.1)
        for used in (0.5, 1.9)
    )

    assert next_offer(planned(), early.books) == SECOND
    assert next_offer(planned(), late.books) is None


def test_a_budget_that_was_raised_counts() -> None:
    story = Story(usd="50").attempt(CHEAP, "lost", boot=0.2, lost=0.9)
    assert next_offer(planned(), story.books) is None

    story.tell(BudgetRaised(micro_usd=to_micro_usd(Decimal(50))))

    assert next_offer(planned(), story.books) == SECOND


def test_a_person_who_took_what_it_would_come_to_gets_machines_to_the_end() -> None:
    partial = Story(usd="20").attempt(CHEAP, "lost", boot=0.2, lost=0.1)

    assert next_offer(planned(), partial.books) == SECOND


def test_answers_of_an_endpoint_that_are_still_to_be_paid_are_set_aside() -> None:
    made = load_recipe(Path(recipes.__file__).parent / "api-teacher.yaml")
    one = offer("us-east-2a", "2", accelerators=1, nodes=1)
    two = offer("us-east-2b", "2", accelerators=1, nodes=1)
    plan = plan_offers(made, [one, two], read_facts(made), NOW).chosen
    paid = float(plan.usd_of("teacher_api").p90) / 2  # hours at $2 that come to so much

    def after(**lines: float) -> Story:
        budget = f"{plan.usd.p90 + Decimal('0.1'):.2f}"
        return Story(usd=budget, hours=None).attempt(one, "lost", hours=0.1, **lines)

    unpaid, already = after(boot=0.1), after(boot=0.01, teacher_api=paid)

    assert next_offer(plan, unpaid.books) is None
    assert next_offer(plan, already.books) == two


@given(
    lost=st.floats(0, 1),
    more=st.floats(0, 1),
    usd=st.decimals("45", "200", places=2),
    none=st.integers(0, 4),
)
def test_less_money_never_rents_what_more_money_would_not(
    lost: float, more: float, usd: Decimal, none: int
) -> None:
    def left(spent: float) -> Offer | None:
        story = Story(usd=str(usd)).attempt(CHEAP, "lost", boot=0.1, lost=spent)
        for each in ALL[:none]:
            story.attempt(each, NO_MACHINE)
        return next_offer(planned(), story.books)

    if left(lost) is None:
        assert left(lost + more) is None


# ---- in a run --------------------------------------------------------------------------------


def test_a_run_goes_from_offer_to_offer_until_one_has_a_machine(
    house: House, machine: Any, recipe: Recipe, plan: Plan
) -> None:
    rented = planned()
    tried: list[str] = []
    start = machine.start

    def sold_out(run: Any, on: Offer) -> None:
        tried.append(on.name)
        if len(tried) < 3:
            raise NoCapacityError("sold out")
        start(run, on)

    machine.start, house.next_offer = sold_out, next_offer
    made = rented.model_copy(update={"checkpoint_s": plan.checkpoint_s})
    bigger = recipe.model_copy(
        update={"budget": recipe.budget.model_copy(update={"usd": Decimal(60)})}
    )
    open_run(house.home, house.ledger, "tiny-1", bigger, made, Git())

    drive(house, "tiny-1")

    assert tried == [CHEAP.name, SAME_ZONE.name, SECOND.name]
    assert house.ledger.books("tiny-1").state == "done"


def test_a_run_that_finds_no_machine_says_what_it_tried(
    house: House, machine: Any, recipe: Recipe
) -> None:
    def sold_out(run: Any, on: Offer) -> None:
        raise NoCapacityError("sold out")

    machine.start, house.next_offer = sold_out, next_offer
    bigger = recipe.model_copy(
        update={"budget": recipe.budget.model_copy(update={"usd": Decimal(60)})}
    )
    open_run(house.home, house.ledger, "tiny-1", bigger, planned(), Git())

    with pytest.raises(
        ProvisionError, match=r"no machine could be had for tiny-1: tried .*us-west-3a"
    ):
        drive(house, "tiny-1")
