"""Errors of the launcher that change what it does next. See `recipes.errors` for the tree."""

from recipes.errors import RefusedError, StillhouseError


class ProvisionError(StillhouseError):
    """No machine came of an offer; another offer may do better."""


class NoCapacityError(ProvisionError):
    """The cloud has no such machine now."""


class StoodDownError(RefusedError):
    """Another home drives the run now, so this one has left everything of it alone."""

    def __init__(self, run_id: str, store: str, host: str) -> None:
        self.run_id = run_id
        self.store = store
        self.host = host
        super().__init__(run_id, store, host)

    def __str__(self) -> str:
        return (
            f"{self.run_id} is driven by {self.host}, so this home leaves it alone: nothing of it "
            f"is started, settled or ended from here. `still adopt {self.store} {self.run_id}` "
            "takes it over"
        )
