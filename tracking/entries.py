"""What can stand in the ledger. An entry says one thing that happened, and is never changed.

Amounts are whole micro-dollars, times are unix seconds. An entry with a `once` key can stand in a
run's books a single time; the database itself refuses a second one, whoever writes it.
"""

from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field

from recipes.money import MOST_USD
from recipes.recipe import Part

Line = Literal[
    "boot",
    "teacher_api",
    "generate",
    "train",
    "evaluate",
    "save",
    "lost",
    "idle",
    "storage",
    "egress",
]
"""What money goes to. `boot`: provisioning, setup, download, until the first stage begins. `save`:
after the wish to stop. `lost`: work that has to be done again. `idle`: paid for, and nothing to do.
"""

LINES: tuple[Line, ...] = get_args(Line)

RunState = Literal[
    "planned",
    "starting",
    "provisioning",
    "running",
    "interrupted",
    "saving",
    "tearing_down",
    "done",
    "stopped",
    "failed",
]

TERMINAL: frozenset[RunState] = frozenset({"done", "stopped", "failed"})
"""States after which nothing more happens, unless a person resumes the run."""


class Entry(Part):
    """One line of the ledger."""

    kind: ClassVar[str]

    @property
    def once(self) -> str | None:
        """What can be recorded only once in a run; `None` where there may be many."""
        return None


class Git(Part):
    """The state of the code behind a run. `None` is unknown: no repository, or no git."""

    commit: str | None = None
    dirty: bool | None = None
    """Whether tracked files differed from the commit."""
    diff_sha256: str | None = None
    """Of the difference, where there was one."""


class Quantiles(Part):
    """An estimate [USD]: in one run of ten it is below `p10`, in nine of ten below `p90`."""

    p10: Decimal | None = None
    p50: Decimal | None = None
    p90: Decimal | None = None


class Opened(Entry):
    """A run begins to exist; written before anything is paid."""

    kind: ClassVar[str] = "opened"

    recipe: dict[str, Any]
    """The recipe as JSON. Not as a model: books stay readable when recipes move on."""

    plan: dict[str, Any] = Field(default_factory=dict)
    """The plan as JSON, whatever the launcher puts there."""

    budget_micro_usd: int = Field(ge=0)
    """What may be spent."""

    hours: Decimal | None = None
    """How long the run may take [h]; no limit where left out."""

    estimated_usd: Quantiles = Quantiles()
    """What the plan expects it to cost."""

    git: Git = Git()

    @property
    def once(self) -> str:
        return self.kind


class StateChanged(Entry):
    """Written before the step it names is taken."""

    kind: ClassVar[str] = "state_changed"

    state: RunState
    reason: str = ""
    """Why, in words for people."""


class AttemptStarted(Entry):
    """A machine begins to cost money."""

    kind: ClassVar[str] = "attempt_started"

    attempt: int = Field(ge=1)
    started_at: float
    """By the provider's clock, where it has one [unix seconds]."""

    usd_per_hour: Decimal = Field(ge=0)
    """Of all machines of this attempt together [USD/h]."""

    price_source: str
    """Who says so: `recipe`, `aws spot price history`, …"""

    price_as_of: float | None = None
    """When the price was seen [unix seconds]; `None` is unknown."""

    offer: dict[str, Any] = Field(default_factory=dict)
    """The offer as JSON; `name` in it is shown to people."""

    reservation: str | None = None
    """What pays for it."""

    @property
    def once(self) -> str:
        return f"{self.kind}/{self.attempt}"


class Repriced(Entry):
    """The machines of an attempt that goes on cost more or less by the hour than before."""

    kind: ClassVar[str] = "repriced"

    attempt: int = Field(ge=1)
    at: float
    """When it was seen [unix seconds]."""

    usd_per_hour: Decimal = Field(gt=0)
    """Of all machines of this attempt together [USD/h]."""

    source: str
    """Who says so."""


class AttemptEnded(Entry):
    """The machine has stopped to cost money."""

    kind: ClassVar[str] = "attempt_ended"

    attempt: int = Field(ge=1)
    ended_at: float
    """By the provider's clock, where it has one [unix seconds]."""

    how: str
    """For example `done`, `stopped`, `interrupted`, `failed`, `lost`."""

    @property
    def once(self) -> str:
        return f"{self.kind}/{self.attempt}"


class Reserved(Entry):
    """Money set aside before something is bought."""

    kind: ClassVar[str] = "reserved"

    reservation: str
    line: Line
    micro_usd: int = Field(ge=0)
    why: str = ""

    @property
    def once(self) -> str:
        return f"{self.kind}/{self.reservation}"


class Extended(Entry):
    """More money for a reservation that is still open, such as the next lease of a machine."""

    kind: ClassVar[str] = "extended"

    reservation: str
    micro_usd: int = Field(ge=0)
    """How much is added."""
    why: str = ""


class Settled(Entry):
    """What it came to. Closes the reservation, also with nothing spent."""

    kind: ClassVar[str] = "settled"

    reservation: str
    lines: dict[Line, Annotated[int, Field(ge=0)]]

    @property
    def once(self) -> str:
        return f"{self.kind}/{self.reservation}"

    @property
    def micro_usd(self) -> int:
        return sum(self.lines.values())


class BudgetRaised(Entry):
    kind: ClassVar[str] = "budget_raised"

    micro_usd: int = Field(gt=0, le=MOST_USD * 1_000_000)
    """How much is added to the budget."""


class Teardown(Entry):
    """What the provider said when it was asked for anything that is left of the run."""

    kind: ClassVar[str] = "teardown"

    proved: bool | None
    """`True`: it has nothing. `False`: something is left. `None`: it could not be asked."""
    detail: str = ""


class Billed(Entry):
    """What the provider says it charges for the run so far. Beside our figure, never over it."""

    kind: ClassVar[str] = "billed"

    micro_usd: int = Field(ge=0)
    final: bool
    """Whether the provider may no longer change it."""
    source: str
    """Who says so, and of what where that is not the whole run."""


class Noted(Entry):
    """Anything else worth keeping under a name; the last value counts."""

    kind: ClassVar[str] = "noted"

    key: str
    value: str


ENTRIES: dict[str, type[Entry]] = {
    entry.kind: entry
    for entry in (
        Opened,
        StateChanged,
        AttemptStarted,
        Repriced,
        AttemptEnded,
        Reserved,
        Extended,
        Settled,
        BudgetRaised,
        Teardown,
        Billed,
        Noted,
    )
}
