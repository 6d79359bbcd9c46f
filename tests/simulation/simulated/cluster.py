"""SkyPilot: a server that outlives its clients, and what it does to machines.

A launch is a request to the server: a client that is killed leaves it going, and `down` ends it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from launcher.errors import NoCapacityError, ProvisionError
from launcher.machines.skypilot import JobState
from launcher.market.offers import Offer
from recipes.rundir import Limits
from simulated.cloud import Cloud, Machine
from simulated.worker import Node
from simulated.world import World


@dataclass(frozen=True)
class Task:
    """What the launcher asks for: the part of a task's YAML that matters here."""

    run: str
    offer: Offer
    limits: Limits
    limit_s: Callable[[float], float]
    """`now -> after how long a machine ends itself`, asked when its setup begins [s]."""


MakeNode = Callable[[list[Machine], Task], Node]


@dataclass(eq=False)
class Request:
    """A launch, under way in the server."""

    task: Task
    machines: list[Machine] = field(default_factory=list)
    node: Node | None = None
    error: ProvisionError | None = None
    is_over: bool = False
    has_client: bool = True
    """Whether a process of ours waits for it."""

    @property
    def is_unguarded(self) -> bool:
        """Whether it has, or may soon have, a machine without a timer: only we can end that one."""
        if self.node is not None:
            return False
        return not self.is_over or any(one.exists and one.costs for one in self.machines)

    def end(self, error: ProvisionError | None = None) -> None:
        self.error = self.error or error
        self.is_over = True


class Server:
    """SkyPilot's API server and its books."""

    def __init__(self, world: World, cloud: Cloud, make_node: MakeNode) -> None:
        self.world = world
        self.clusters: dict[str, Request] = {}
        self.requests: list[Request] = []
        self._cloud = cloud
        self._make_node = make_node

    def begin(self, task: Task, cluster: str) -> Request:
        request = self.clusters[cluster] = Request(task)
        self.requests.append(request)
        self.world.at(self.world.chance.uniform(2, 60), lambda: self._provision(request))
        return request

    def _provision(self, request: Request) -> None:
        world, offer = self.world, request.task.offer
        if request.is_over:
            return
        if world.happens("no capacity", 0.4):
            request.end(NoCapacityError("the zone is full"))
            return
        nodes = offer.nodes
        fails = world.happens("failing launches", 0.25)
        for _ in range(world.chance.randint(0, nodes) if fails else nodes):
            machine = self._cloud.create(
                request.task.run,
                request.task.limits.attempt,
                offer.region or "",
                offer.spot,
                offer.zone or "",
            )
            request.machines.append(machine)
        self._plan_troubles(request)
        if fails:
            if world.chance.random() < 0.5:
                self._end_machines(request)
            request.end(ProvisionError("something broke while machines were made"))
            return
        world.at(world.chance.uniform(15, 400), lambda: self._set_up(request))
        if world.happens("dying server", 0.3):
            world.at(world.chance.uniform(0, 120), lambda: self._die(request))

    def _set_up(self, request: Request) -> None:
        """`sky/setup.sh`, whose first step is the timer."""
        if request.is_over or not all(one.exists and one.costs for one in request.machines):
            request.end(ProvisionError("a machine went away while it was set up"))
            return
        request.node = self._make_node(request.machines, request.task)
        request.node.set_timers(request.task.limit_s(request.node.clock()))
        self.world.at(self.world.chance.uniform(5, 60), lambda: self._submit(request))

    def _submit(self, request: Request) -> None:
        if request.is_over:
            return
        if self.world.happens("failing launches", 0.15):
            request.end(ProvisionError("setup failed"))
            return
        assert request.node is not None, "a job is submitted to a machine that is set up"
        request.node.run_job()
        request.end()
        if self.world.happens("dying workers", 0.4):
            self.world.at(self.world.chance.uniform(0, 300), request.node.hang)

    def _die(self, request: Request) -> None:
        # With nobody left to be told of it, the machine would have neither a timer nor a watcher:
        # that is not promised (docs/decisions/0007).
        if not request.is_over and request.has_client:
            self.world.tell("SkyPilot's server dies")
            request.end(ProvisionError("the API server is gone"))

    def down(self, cluster: str) -> None:
        """End a cluster, and a launch of it that is under way."""
        request = self.clusters.pop(cluster, None)
        if request is not None:
            request.end(ProvisionError("the cluster was torn down"))
            self._end_machines(request)

    def _end_machines(self, request: Request) -> None:
        for machine in request.machines:
            self._cloud.terminate(machine, "SkyPilot ends it")

    # ---- what becomes of machines

    def _plan_troubles(self, request: Request) -> None:
        """Decide what befalls these machines, and when."""
        world = self.world

        def later(what: Callable[[], None]) -> None:
            world.at(world.chance.uniform(0, 900), what)

        for machine in request.machines:
            if machine.spot and world.happens("spot", 0.5):
                later(lambda machine=machine: self._reclaim(request, machine))
            if world.happens("vanishing", 0.25):
                later(lambda machine=machine: self._cloud.terminate(machine, "it broke"))
        if world.happens("vanishing", 0.25):
            later(lambda: request.node and request.node.die("the machine rebooted"))
        if world.happens("dying workers", 0.4):
            later(lambda: request.node and request.node.die("killed"))

    def _reclaim(self, request: Request, machine: Machine) -> None:
        """AWS gives notice, and takes the machine two minutes later."""
        if machine.exists:
            self.world.tell(f"{machine.id} will be taken in two minutes")
            if request.node is not None:
                request.node.notice()
            self.world.at(120, lambda: self._cloud.terminate(machine, "AWS has taken it"))


class Client:
    """What `launcher.machines.skypilot.SkyPilot` is to one process of ours."""

    def __init__(self, server: Server, read_task: Callable[[str], Task]) -> None:
        self._server = server
        self._world = server.world
        self._read_task = read_task

    def launch(self, task_yaml: str, cluster: str, log: Path, patience_s: float) -> None:
        task = self._read_task(task_yaml)
        self._world.boundary("before sky launch")
        if self._world.happens("failing launches", 0.1):
            raise ProvisionError("the API server did not answer")
        self._world.tell(f"SkyPilot is to launch {cluster} on {task.offer.name}")
        request = self._server.begin(task, cluster)
        until = self._world.now + patience_s
        try:
            while not request.is_over:
                if self._world.now > until:
                    request.end(ProvisionError("it took too long"))
                self._world.sleep(5.0)
        finally:
            request.has_client = False
        self._world.boundary("after sky launch")
        if request.error is not None:
            self._world.tell(f"the launch failed: {request.error}")
            raise request.error
        if self._world.happens("failing launches", 0.1):
            raise ProvisionError("the answer of the API server was lost")

    def job_state(self, cluster: str) -> JobState:
        request = self._known(cluster)
        if request is None or request.node is None or not request.node.is_up:
            return "unknown"
        return request.node.job

    def output(self, cluster: str, into: Path) -> None:
        self._world.boundary("before sky logs")

    def is_up(self, cluster: str) -> bool | None:
        self._world.boundary("before sky status")
        if self._world.happens("failing downs", 0.2):
            return None
        request = self._known(cluster)
        return request is not None and any(one.exists for one in request.machines)

    def down(self, cluster: str, log: Path) -> None:
        self._world.boundary("before sky down")
        if self._world.happens("failing downs", 0.3):
            raise ProvisionError("the API server did not answer")
        self._world.pass_time(self._world.chance.uniform(1, 30))
        if self._known(cluster) is not None:
            self._server.down(cluster)
        self._world.boundary("after sky down")
        if self._world.happens("failing downs", 0.2):
            raise ProvisionError("the answer of the API server was lost")

    def _known(self, cluster: str) -> Request | None:
        if self._world.happens("forgetful server", 0.1):
            # Not those under way: with the launcher gone too, nobody would know of the machine.
            known = self._server.clusters
            self._server.clusters = {name: one for name, one in known.items() if not one.is_over}
        return self._server.clusters.get(cluster)
