"""What a receipt's dollars cover and what they leave out, in plain sentences. Pure.

A figure without these is a claim: $0.003 for a distillation is true only for those who know that
nobody paid for the teacher in it.
"""

from typing import Any

from tracking.books import Books


def included(books: Books) -> tuple[str, ...]:
    """What was metered."""
    recipe = books.opened.recipe
    said = [f"{_machine(recipe)}, from the start of each attempt to its end, {_price(books)}"]
    if _kind(recipe, "teacher") == "api":
        said.append("the teacher's answers, by their tokens and the endpoint's prices")
    if len(books.machines) > 1:
        said.append(f"all {len(books.machines)} attempts, and the work that was lost between them")
    said += [f"{line}" for line in ("storage", "egress") if line in books.lines]
    return tuple(said)


def not_included(books: Books, cached_answers: int) -> tuple[str, ...]:
    """What may have cost something, and is not in the figure.

    Args:
        cached_answers: answers of the teacher that an earlier run paid for.
    """
    recipe = books.opened.recipe
    said = []
    match _kind(recipe, "teacher"):
        case "model":
            said.append("making or buying the teacher")
        case "dataset":
            said.append("what it cost somebody else to have the traces written")
        case "none":
            said.append("what it cost to write the labels")
        case _:
            pass
    if cached_answers:
        said.append(f"{cached_answers:,} answers of the teacher that an earlier run paid for")
    if _is_local(recipe):
        said.append("measuring how fast this machine is, before the plan")
        said.append("a bill: nobody sends one for this machine")
    else:
        said += [f"{line}" for line in ("storage", "egress") if line not in books.lines]
        said.append("taxes, credits and discounts")
    return tuple(said)


def _machine(recipe: dict[str, Any]) -> str:
    return "this machine" if _is_local(recipe) else "rented machines"


def _price(books: Books) -> str:
    if not books.machines:
        return "of which there has been none"
    prices = dict.fromkeys(
        (price.usd_per_hour, attempt.price_source)
        for attempt in books.machines
        for price in attempt.prices.changes
    )
    return " and ".join(
        f"at ${usd_per_hour.normalize():f}/h, the recipe's own figure"
        if source == "recipe"
        else f"at ${usd_per_hour.normalize():f}/h by {source}"
        for usd_per_hour, source in prices
    )


def _is_local(recipe: dict[str, Any]) -> bool:
    return bool(recipe.get("hardware", {}).get("local"))


def _kind(recipe: dict[str, Any], part: str) -> str | None:
    kind = recipe.get(part, {}).get("kind")
    return None if kind is None else str(kind)
