"""The errors a person can act on, and the exit code of each kind.

    StillhouseError              4  the run failed
    ├── InvalidInputError        2  what was given cannot be read or makes no sense
    │   └── InvalidRecipeError   2  … in a recipe: every fault of the file at once
    ├── RefusedError             3  understood, and not done: nothing was launched, nothing was paid
    ├── StoppedError             5  stopped at the budget or the deadline, the student saved
    ├── TeardownUnprovedError    6  something may still be running, and costing
    └── InterruptedRunError    130  a person stopped it

To add one: say what happened, the figures, and what to do now; give the arguments to
`super().__init__` (so that it survives pickling) and take words of others back from `args`, where
they hold no secret; choose the class by what the person should do
next and not by where it was noticed. Everything that is not one of these keeps its traceback: it is
a fault of ours.
"""

from typing import Any, ClassVar

from recipes.privacy import redacted


class StillhouseError(Exception):
    """Something a person can act on. `exit_code` is what the command exits with.

    Its words may be those of a cloud or a library: no secret stays in them.
    """

    exit_code: ClassVar[int] = 4

    def __init__(self, *args: Any) -> None:
        super().__init__(*(redacted(arg) if isinstance(arg, str) else arg for arg in args))


class InvalidInputError(StillhouseError):
    """What was given cannot be read or makes no sense. Nothing was started."""

    exit_code = 2


class InvalidRecipeError(InvalidInputError):
    """Every fault found in one recipe file, each as `file:line field: what would be right`."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        self.faults = tuple(redacted(fault) for fault in faults)
        super().__init__(self.faults)

    def __str__(self) -> str:
        return "\n".join(self.faults)


class RefusedError(StillhouseError):
    """Understood, and not done: over budget, impossible, unsafe. Nothing was launched or paid."""

    exit_code = 3


class StoppedError(StillhouseError):
    """The budget or the deadline was reached; the student is saved."""

    exit_code = 5


class TeardownUnprovedError(StillhouseError):
    """The provider could not confirm that everything of the run is gone."""

    exit_code = 6


class InterruptedRunError(StillhouseError):
    """A person stopped the run."""

    exit_code = 130
