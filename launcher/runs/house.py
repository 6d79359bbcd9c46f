"""What a run is given of the world outside, and where its files live."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from launcher.machines.backend import Backend
from launcher.market.offers import Offer
from launcher.plans.plan import Plan
from launcher.runs.mirror import Mirror, NoMirror
from launcher.runs.notices import Notice
from launcher.runs.view import View
from tracking.books import Books
from tracking.home import Home
from tracking.ledger import Ledger

STORE = "store"
"""The note that says where a run's files live."""


@dataclass
class House:
    """Everything outside that a run needs, passed in."""

    home: Home
    ledger: Ledger
    backend: Backend
    view: View
    tracker: Callable[[str], None]
    """Starts what follows a run into MLflow. Whatever happens to it, the run goes on."""
    next_offer: Callable[[Plan, Books], Offer | None] = lambda plan, _books: plan.offer
    """What to rent for the next attempt; `None` where nothing is left to try."""
    notify: Callable[[Notice], None] | None = None
    """Tells people who are not looking. Returns at once and raises nothing."""
    mirror: Mirror = field(default_factory=NoMirror)
    """Keeps the books where other homes find them, and says when one has taken the run over."""
    interrupts: Callable[[], int] = lambda: 0
    """How many times a person has pressed Ctrl-C."""
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    poll_s: float = 0.2
    """How often a run is looked at [s]."""
    patience_s: float = 900.0
    """How long a rented machine may go without any progress [s]."""
