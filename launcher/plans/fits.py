"""Whether a plan fits its recipe's budget and hours, and what would where it does not. Pure."""

from decimal import Decimal

from launcher.machines.least import LEAST_HOURS
from launcher.plans.plan import Plan, format_hours
from recipes.errors import RefusedError
from recipes.money import format_usd
from recipes.recipe import Recipe


class OverBudgetPlanError(RefusedError):
    """The careful estimate is above what the recipe allows, so nothing was started."""

    def __init__(self, figures: str, remedy: str) -> None:
        self.figures = figures
        self.remedy = remedy
        super().__init__(figures, remedy)

    def __str__(self) -> str:
        return f"{self.figures} Nothing was started. {self.remedy}"


def check_begins(plan: Plan, recipe: Recipe, instead: str = "") -> None:
    """Refuse a plan with less money or hours than its machines are begun with.

    Args:
        instead: a sentence on the machines that would fit, where somebody has looked.

    Raises:
        OverBudgetPlanError: with the figures, and what would fit.
    """
    budget, usd, highest = recipe.budget.usd, plan.usd, plan.offer.highest_usd_per_hour
    limit = recipe.budget.hours
    if plan.least_usd > budget:
        raise OverBudgetPlanError(
            f"this run is estimated at {format_usd(usd.p50)}, and one run in ten at more than "
            f"{format_usd(usd.p90)}, but {plan.offer.name} is not begun with less than "
            f"{format_usd(plan.least_usd)}: an hour may come to {format_usd(highest)} while it "
            f"starts; its budget is {format_usd(budget)}.",
            " ".join(filter(None, [f"Raise budget.usd to {_up(plan.needed_usd)}.", instead])),
        )
    if limit is not None and plan.least_hours > limit:
        answers = plan.least_hours - LEAST_HOURS
        first = (
            f", and the teacher may answer for {format_hours(answers)} before" if answers else ""
        )
        raise OverBudgetPlanError(
            f"this run is estimated at {format_hours(plan.hours.p50)}; its limit is "
            f"{format_hours(limit)}, and no machine is begun with less than "
            f"{format_hours(LEAST_HOURS)} left{first}.",
            f"Raise budget.hours to {_up_hours(plan.needed_hours)}.",
        )


def check_fits(plan: Plan, recipe: Recipe, smaller: str = "", instead: str = "") -> None:
    """Refuse a plan whose P90 is above the budget or the hours.

    Args:
        smaller: how much less work would fit, where somebody has looked.
        instead: a sentence on the machines that would, where somebody has looked.

    Raises:
        OverBudgetPlanError: with the figures, and what would fit.
    """
    budget, usd, limit, hours = recipe.budget.usd, plan.usd, recipe.budget.hours, plan.hours
    if plan.needed_usd > budget:
        raise OverBudgetPlanError(
            f"this run is estimated at {format_usd(usd.p50)}, and one run in ten at more than "
            f"{format_usd(usd.p90)}; its budget is {format_usd(budget)}.",
            _remedy(f"Raise budget.usd to {_up(usd.p90)}", smaller, instead),
        )
    if limit is not None and plan.needed_hours > limit:
        raise OverBudgetPlanError(
            f"this run is estimated at {format_hours(hours.p50)}, and one run in ten at more "
            f"than {format_hours(hours.p90)}; its limit is {format_hours(limit)}.",
            _remedy(f"Raise budget.hours to {_up_hours(hours.p90)}", smaller, instead),
        )


def _remedy(more: str, smaller: str, instead: str) -> str:
    sentences = [
        f"{more}, or {smaller}." if smaller else f"{more}.",
        instead,
        "To start all the same and keep what is done when it stops: `still launch` with "
        "--accept-partial.",
    ]
    return " ".join(filter(None, sentences))


def _up(usd: Decimal) -> str:
    """A budget that is enough, rounded up to two significant digits, or as few as are printed.

    >>> _up(Decimal("0.0251")), _up(Decimal("0.00012345")), _up(Decimal("0.0000012"))
    ('$0.0260', '$0.0002', '$0.000002')
    """
    shown = "0.0001" if usd >= Decimal("0.0001") else "0.000001"
    return format_usd(_rounded_up(usd, Decimal(shown))) if usd > 0 else format_usd(usd)


def _up_hours(hours: Decimal) -> str:
    """
    >>> _up_hours(Decimal("0.01234")), _up_hours(Decimal("123.4"))
    ('0.013', '130')
    """
    return f"{_rounded_up(hours):f}"


def _rounded_up(figure: Decimal, finest: Decimal = Decimal(0)) -> Decimal:
    step = max(finest, Decimal(1).scaleb(figure.adjusted() - 1))
    return Decimal((figure / step).to_integral_value("ROUND_CEILING") * step)


# ---- less work -------------------------------------------------------------------------------


def less_by_lines(plan: Plan, recipe: Recipe) -> str:
    """How much less work would fit, where the lines grow in proportion to it but for a fixed part,
    as those of a trial do; empty where none does.

    Fewer samples where their number decides how much is trained, else fewer steps.
    """
    steps, rows = plan.units.get("train", 0), recipe.data.rows
    by_rows = recipe.training.epochs is not None and rows is not None
    grow = ("train", "generate", "teacher_api") if by_rows else ("train",)
    share = _share_that_fits(plan, recipe, grow)
    if by_rows and rows is not None:
        return fewer_samples(int(rows * share), rows)
    return fewer_steps(int(steps * share), steps)


def _share_that_fits(plan: Plan, recipe: Recipe, grow: tuple[str, ...]) -> Decimal:
    """Which share of the lines that grow with the work there is room for; at most all of them."""
    growing = [
        (line, max(Decimal(0), line.quantity.p90 - plan.fixed_hours.get(line.name, Decimal(0))))
        for line in plan.lines
        if line.name.startswith(grow)
    ]
    dollars = sum(quantity * line.usd_per_unit for line, quantity in growing)
    pairs = [(recipe.budget.usd, plan.usd.p90, dollars)]
    if recipe.budget.hours is not None:
        own = sum(quantity for line, quantity in growing if line.unit == "h")
        pairs.append((recipe.budget.hours, plan.hours.p90, own))
    shares = [(limit - (whole - own)) / own for limit, whole, own in pairs if own]
    return max(Decimal(0), min(Decimal(1), *shares)) if shares else Decimal(0)


def fewer_samples(count: int, rows: int) -> str:
    """A way out in words; empty where not even one fits."""
    return f"take {count:,} of {rows:,} samples (--set data.rows={count})" if count else ""


def fewer_steps(count: int, steps: int) -> str:
    """A way out in words; empty where not even one fits."""
    return f"lower the training from {steps:,} to {count:,} steps" if count else ""
