"""One life of a run: people and processes of ours, one after the other, until all is given back.

The code under test is the real one: `drive` and `release` in a `House` with the real ledger, the
real `RentedMachines`, the real mail. A process that is killed is followed by another sooner or
later. In the end nothing goes wrong any more, and somebody says `still down` until it is proved.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path

from shaky_store import Killed
from silent_view import SilentView

from launcher.machines.aws import Aws
from launcher.machines.mail import StoreMail
from launcher.machines.rent import limit_at
from launcher.machines.rented import RentedMachines
from launcher.market.offers import Offer
from launcher.runs import run as runs
from launcher.runs.next_offer import next_offer
from launcher.runs.wishes import make_wish
from recipes.errors import RefusedError, StillhouseError, StoppedError, TeardownUnprovedError
from recipes.rundir import Limits, RunDir, read_model
from simulated.cloud import AwsOneByOne, Cloud, Ec2, Machine, Market
from simulated.cluster import Client, Server, Task
from simulated.invariants import BrokenInvariantError, Invariants
from simulated.setting import ON_DEMAND, ledger_of, plan_of, recipe_of, rows_of
from simulated.store import MemoryStore, StoreInTheWorld
from simulated.worker import Node, Work
from simulated.world import SKEW_S, World
from tracking.entries import BudgetRaised, Git, StateChanged
from tracking.home import Home
from tracking.ledger import Ledger

RUN = "simulated-1"

STEP_S = 60.0
"""A step of the training, and how often a run is looked at [s]: long, so that worlds are short."""

MOST_PROCESSES = 4
"""After so many nobody tries any more, and the run is given back."""


@dataclass(frozen=True)
class Parts:
    """The real code, of which a test replaces a part to see whether it is missed."""

    machines: type[RentedMachines] = RentedMachines
    ledger: type[Ledger] = Ledger
    aws: type[AwsOneByOne] = AwsOneByOne
    limits: Callable[[Limits], Limits] = lambda limits: limits
    """What a node is told of its limits, from what the launcher wrote."""
    limit_s: Callable[[Limits, float], float] = lambda limits, now: limit_at(limits) - now
    """`limits, now -> after how long a machine ends itself`, asked when its setup begins [s]."""


REAL = Parts()


class Life:
    """A world with everything in it.

    Args:
        folder: what this life may write in; empty.
    """

    def __init__(self, seed: int, folder: Path, parts: Parts, *, tell_story: bool = False) -> None:
        self.world = world = World(seed, folder, tell_story=tell_story)
        self._parts = parts
        self._folder = folder
        self._home = Home(folder)
        self._run = self._home.run(RUN)
        self.cloud = Cloud(world)
        self._store = StoreInTheWorld(world, MemoryStore())
        self.invariants = Invariants(
            world, self.cloud, self._store.inner, self._run.path / "rented.jsonl"
        )
        self.cloud.on_create = self.invariants.born
        self._server = Server(world, self.cloud, self._make_node)
        self._nodes: list[Node] = []
        self._is_driven = False
        nodes = 2 if "two nodes" in world.troubles else 1
        self._work = Work(
            steps=world.chance.randint(2, 8) * (3 if "moving prices" in world.troubles else 1),
            step_s=STEP_S,
            save_s=world.chance.uniform(1, 15),
            evaluation_s=world.chance.uniform(1, 30),
            checkpoint_every_s=world.chance.choice((90.0, 200.0)),
        )
        self._plan = plan_of(nodes, Decimal(world.chance.randint(2, 60)))
        on_demand = self._plan.offer.usd_per_node_hour * ON_DEMAND
        for each in self._plan.alternatives:
            self.cloud.markets[each.offer.zone or ""] = Market(
                world, each.offer.usd_per_node_hour, on_demand
            )
        needed_s = self._work.steps * STEP_S + 1300
        most = 1.2 if "moving prices" in world.troubles else 3
        self._budget = (
            self._plan.offer.usd_per_hour
            * Decimal(round(needed_s * world.chance.uniform(0.6, most)))
            / 3600
        ).quantize(Decimal("0.000001"))
        hours = Decimal(round(needed_s * world.chance.uniform(0.5, 2))) / 3600
        self._hours = hours if "hours" in world.troubles else None

    # ---- from beginning to end

    def live(self) -> None:
        """
        Raises:
            BrokenInvariantError: something that has to hold does not.
        """
        self._home.runs.mkdir()
        kind, watch = self._parts.ledger, self.invariants.wrote
        with ledger_of(self._folder, kind, self.world, watch) as ledger:
            self._ledger = ledger
            try:
                self._people_come_and_go()
                self._give_everything_back()
                self.world.pass_time(4 * 3600)
                self.invariants.check_ledger(rows_of(ledger))
                self.invariants.check_end()
            finally:
                for node in self._nodes:
                    node.close()

    def _people_come_and_go(self) -> None:
        recipe = recipe_of(self._budget, self._hours)
        runs.open_run(
            self._home, self._ledger, RUN, recipe, self._plan, Git(), self._store.inner.url
        )
        chance = self.world.chance
        act = "drive"
        for _ in range(MOST_PROCESSES):
            self._expect_visitors()
            after = self._process(act)
            if after is None:
                return
            act = after
            unguarded = any(request.is_unguarded for request in self._server.requests)
            late = self.world.happens("absence", 0.8) and not unguarded
            self.world.pass_time(10 ** (chance.uniform(3, 4.6) if late else chance.uniform(-1, 2)))

    def _give_everything_back(self) -> None:
        self.world.calm_down()
        self.cloud.outages.end()
        self._store.outages.end()
        for _ in range(10):
            try:
                self.world.tell("still down")
                runs.release(self._house(), RUN)
                return
            except TeardownUnprovedError as error:
                self.world.tell(f"still down: {error}")
                self.world.pass_time(60)
        raise BrokenInvariantError(f"world {self.world.seed}: no teardown was ever proved")

    def _process(self, act: str) -> str | None:
        """One process of ours; what is tried next, `None` where nobody tries any more."""
        world = self.world
        world.tell(f"a process begins: {act}")
        world.begin_process()
        after: str | None = None
        self._is_driven = True
        try:
            if act == "drive":
                runs.drive(self._house(), RUN)
            else:
                runs.release(self._house(), RUN)
                after = world.chance.choice(("drive", None))
        except Killed:
            after = world.chance.choice(("drive", "drive", "release"))
        except StoppedError as error:
            world.tell(f"stopped: {error}")
            after = self._raise_budget()
        except TeardownUnprovedError as error:
            world.tell(f"unproved: {error}")
            after = world.chance.choice(("drive", "release"))
        except RefusedError as error:
            world.tell(f"refused: {error}")
        except StillhouseError as error:
            world.tell(f"{type(error).__name__}: {error}")
            after = world.chance.choice(("drive", None))
        except BrokenInvariantError:
            raise
        except Exception as error:
            raise BrokenInvariantError(f"world {world.seed}: {act} crashed: {error!r}") from error
        finally:
            self._is_driven = False
        return after

    def _raise_budget(self) -> str | None:
        """As `still budget --raise` does."""
        if not self.world.happens("raises", 0.7):
            return None
        try:
            self._ledger.append(RUN, BudgetRaised(micro_usd=self.invariants.account.budget // 2))
            self._ledger.append(RUN, StateChanged(state="interrupted", reason="raised"))
        except Killed:
            self.world.tell("killed while it raised the budget")
        return "drive"

    def _expect_visitors(self) -> None:
        """People and processes that come while another one drives."""
        for trouble, visit in (("rivals", self._rival), ("wishes", self._wish)):
            if self.world.happens(trouble, 0.5):
                self.world.at(self.world.chance.uniform(1, 900), visit)

    def _wish(self) -> None:
        if self._is_driven:
            wish = self.world.chance.choice(("stop", "down"))
            self.world.tell(f"still {wish}")
            make_wish(self._run, wish)

    def _rival(self) -> None:
        if self._is_driven:
            act = self.world.chance.choice((runs.drive, runs.release))
            try:
                act(self._house(), RUN)
            except RefusedError:
                return
            raise BrokenInvariantError(f"world {self.world.seed}: two processes drove one run")

    # ---- what a process of ours is made of

    def _house(self) -> runs.House:
        world = self.world
        skew = world.chance.uniform(-SKEW_S, SKEW_S) if "skew" in world.troubles else 0.0
        clock = world.clock(skew)

        def aws(regions: Sequence[str]) -> Aws:
            return self._parts.aws(regions, lambda _service, region: Ec2(self.cloud, region))

        machines = self._parts.machines(
            Client(self._server, partial(_read_task, self._parts)),
            aws,
            StoreMail(lambda url: self._store.for_launcher()),
            _write_task,
            clock,
            world.sleep,
            aside=lambda work: work(),
        )
        return runs.House(
            home=self._home,
            ledger=self._ledger,
            backend=machines,
            view=SilentView(),
            tracker=lambda run_id: None,
            next_offer=next_offer,
            clock=clock,
            sleep=world.sleep,
            poll_s=STEP_S,
            patience_s=300.0,
        )

    def _make_node(self, machines: list[Machine], task: Task) -> Node:
        node = Node(
            self.cloud,
            machines,
            store=self._store.for_worker(),
            folder=self._folder / f"node-{len(self._nodes)}",
            limits=task.limits,
            work=self._work,
            on_stored=self.invariants.stored,
        )
        self._nodes.append(node)
        return node


# ---- the task, as launcher and node tell it each other ---------------------------------------


def _write_task(run: RunDir, offer: Offer, cluster: str) -> str:
    return json.dumps(
        [run.path.name, offer.model_dump_json(), read_model(run.limits, Limits).model_dump_json()]
    )


def _read_task(parts: Parts, text: str) -> Task:
    run, offer, limits_json = json.loads(text)
    limits = parts.limits(Limits.model_validate_json(limits_json))
    return Task(run, Offer.model_validate_json(offer), limits, partial(parts.limit_s, limits))


# ---- one world --------------------------------------------------------------------------------


def live(seed: int, folder: Path, parts: Parts = REAL) -> Life:
    """Live one world through, in a folder of its own that is removed.

    Raises:
        BrokenInvariantError: with the seed.
    """
    own = folder / f"world-{seed}"
    own.mkdir()
    life = Life(seed, own, parts)
    try:
        life.live()
    finally:
        shutil.rmtree(own)
    return life
