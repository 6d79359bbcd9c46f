"""Time, chance and trouble of one world: everything in it follows from its seed.

    process of ours  --boundary-->  adapter  --->  what is simulated: EC2, SkyPilot, store, node
         |                                              |
       sleep, slow calls  --------- pass_time ------- events, in their order

Only one thing happens at a time. A process of ours runs until it sleeps or calls out; then the
events that are due happen, such as a step of the worker or the end of a machine. At each boundary
the process may be killed. Which kinds of trouble a world knows is drawn first, so that some worlds
have one kind alone and others many together.
"""

import heapq
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from shaky_store import Killed

BEGINNING = 1_800_000_000.0
"""When every world begins [unix s]."""

SKEW_S = 5.0
"""Clocks are off by so much at most [s]."""

TROUBLES = {
    "kills": "processes of ours end at any boundary, without a word",
    "absence": "hours pass until somebody looks after a run that nobody drives",
    "rivals": "a second process tries to drive the same run",
    "wishes": "a person asks for `stop` or `down`",
    "hours": "the run may take so many hours only",
    "raises": "a person raises the budget of a run that stopped at it, and resumes it",
    "slow calls": "a call takes up to twenty seconds",
    "lying cloud": "EC2 does not tell of things that exist, for less than five seconds",
    "failing cloud": "a call to EC2 fails, before or after it took effect, or counts twice",
    "absent cloud": "EC2 answers nobody for minutes",
    "silent ends": "EC2 does not say when some machines ended",
    "left disks": "the disks of some machines outlive them",
    "failing launches": "SkyPilot's launch fails before, amid or after making machines",
    "no capacity": "an offer has no machine",
    "failing downs": "SkyPilot's teardown fails, before or after it took effect",
    "dying server": "SkyPilot's server dies, and with it a launch that is under way",
    "forgetful server": "SkyPilot has lost its books",
    "spot": "machines are taken away two minutes after a notice",
    "vanishing": "machines are gone at once, or reboot",
    "dying workers": "the worker's process ends without a word, or hangs",
    "failing store": "a call to the store fails, before or after it took effect",
    "absent store": "the store answers nobody for minutes",
    "moving prices": "spot prices change, up to the price on demand",
    "skew": "clocks of launcher and nodes are up to five seconds off",
    "two nodes": "the run needs two machines",
}
"""What can go wrong, each kind in about a third of the worlds."""

Answer = TypeVar("Answer")


class Outages:
    """Minutes in which something answers nobody, spread over the life of a world."""

    def __init__(self, chance: random.Random, until: float, *, longest_s: float) -> None:
        self._spans: list[tuple[float, float]] = []
        for _ in range(chance.randint(1, 3)):
            begin = BEGINNING + chance.uniform(0, until)
            self._spans.append((begin, begin + chance.uniform(10, longest_s)))

    def now(self, now: float) -> bool:
        return bool(self._spans) and any(begin <= now < end for begin, end in self._spans)

    def end(self) -> None:
        self._spans = []


class World:
    """One world.

    Args:
        seed: decides everything.
        folder: where it lives, which is of no account: its name is left out of the story.
        tell_story: whether `story` is written, which takes a while.
    """

    def __init__(self, seed: int, folder: Path, *, tell_story: bool = False) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.now = BEGINNING
        self.story: list[str] = []
        self.tells = tell_story
        self._folder = str(folder)
        share = self.chance.choice((0.1, 0.3, 0.3, 0.5))
        self.troubles = {name for name in TROUBLES if self.chance.random() < share}
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._scheduled = 0
        self.boundaries_to_live: int | None = None
        """How many more the process that runs passes before it is killed; `None`: any number."""
        self.tell(f"world {seed}, with {', '.join(sorted(self.troubles)) or 'no trouble'}")

    # ---- chance

    def happens(self, trouble: str, chance: float) -> bool:
        """Whether a trouble that this world knows comes about now."""
        return trouble in self.troubles and self.chance.random() < chance

    def calm_down(self) -> None:
        """From now on nothing goes wrong any more."""
        self.tell("calm: nothing goes wrong any more")
        self.troubles -= set(TROUBLES) - {
            "two nodes",
            "hours",
            "left disks",
            "silent ends",
            "skew",
        }
        self.boundaries_to_live = None

    # ---- time

    def clock(self, skew_s: float = 0.0) -> Callable[[], float]:
        """A clock that is so many seconds ahead."""
        return lambda: self.now + skew_s

    def at(self, delay_s: float, what: Callable[[], None]) -> None:
        """Have something happen in so many seconds."""
        self._scheduled += 1
        heapq.heappush(self._due, (self.now + delay_s, self._scheduled, what))

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and what is due in it happen."""
        until = self.now + seconds
        while self._due and self._due[0][0] <= until:
            when, _, what = heapq.heappop(self._due)
            self.now = max(self.now, when)
            what()
        self.now = max(self.now, until)

    # ---- processes of ours

    def begin_process(self) -> None:
        """From here on a process of ours runs, which may not have long to live."""
        self.boundaries_to_live = None
        if self.happens("kills", 0.5):
            self.boundaries_to_live = int(10 ** self.chance.uniform(0, 2.6))
        elif self.happens("kills", 0.8):
            # By the clock, so that it is killed in what takes long as well as where much is done.
            self.at(self.chance.uniform(0, 1800), self._kill)

    def _kill(self) -> None:
        """End whichever process of ours runs then, at its next boundary."""
        if "kills" in self.troubles:
            self.boundaries_to_live = 0

    def boundary(self, what: str) -> None:
        """Where a process of ours may be killed.

        Raises:
            Killed: it is.
        """
        if self.boundaries_to_live is not None:
            self.boundaries_to_live -= 1
            if self.boundaries_to_live < 0:
                self.boundaries_to_live = None
                self.tell(f"KILLED {what}")
                raise Killed

    def sleep(self, seconds: float) -> None:
        """As `time.sleep`, for a process of ours."""
        self.boundary("while it sleeps")
        self.pass_time(seconds)

    def call(
        self,
        what: str,
        effect: Callable[[], Answer],
        trouble: str,
        failure: Callable[[], Exception],
    ) -> Answer:
        """A call of a process of ours to the outside.

        Args:
            trouble: the kind of trouble by which it fails.
            failure: makes the error.
        """
        self.boundary(f"before {what}")
        if self.happens("slow calls", 0.05):
            self.pass_time(self.chance.uniform(1, 20))
        if self.happens(trouble, 0.02):
            self.tell(f"{what} fails")
            raise failure()
        if self.happens(trouble, 0.01):
            self.tell(f"{what} counts twice")
            effect()
        answer = effect()
        if self.happens(trouble, 0.02):
            self.tell(f"{what} has worked, and is told to have failed")
            raise failure()
        self.boundary(f"after {what}")
        return answer

    # ---- what happened

    def tell(self, what: str) -> None:
        if self.tells:
            moment = datetime.fromtimestamp(self.now, UTC)
            told = what.replace(self._folder, "~")
            self.story.append(f"{moment:%j %H:%M:%S}.{moment.microsecond // 100_000} {told}")
