"""Errors of the launcher that change what it does next. See `recipes.errors` for the tree."""

from recipes.errors import StillhouseError


class ProvisionError(StillhouseError):
    """No machine came of an offer; another offer may do better."""


class NoCapacityError(ProvisionError):
    """The cloud has no such machine now."""
