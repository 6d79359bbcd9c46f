"""What several commands share: arguments, flags, the world, the receipt."""

from collections.abc import Callable
from functools import update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

if TYPE_CHECKING:
    from launcher.outside import Outside
    from recipes.recipe import Recipe

Command = TypeVar("Command", bound=Callable[..., Any])


def pass_outside(command: Command) -> Command:
    """Give a command the world, made only now: what looks at recipes alone answers sooner."""

    def with_outside(*args: Any, **kwargs: Any) -> Any:
        ctx = click.get_current_context()
        if ctx.obj is None:
            from launcher.outside import Outside

            ctx.obj = Outside()
        return ctx.invoke(command, ctx.obj, *args, **kwargs)

    return cast(Command, update_wrapper(with_outside, command))


recipe_argument = click.argument("recipe_file", metavar="RECIPE", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
trust_option = click.option(
    "--trust-remote-code",
    is_flag=True,
    help="Allow code that comes with a model, where the recipe says so too.",
)
run_argument = click.argument("run", metavar="[RUN]", default="latest")


def recipe_changes(command: Command) -> Command:
    """The flags that change a field of the recipe; `changed_recipe` applies them."""
    for option in (
        click.option(
            "--set",
            "sets",
            multiple=True,
            metavar="FIELD=VALUE",
            help="Change any field: --set training.steps=100. May be given several times.",
        ),
        click.option("--hours", metavar="H", help="Change budget.hours."),
        click.option("--budget", metavar="USD", help="Change budget.usd."),
        click.option("--usd-per-hour", metavar="USD", help="Change hardware.usd_per_hour."),
        click.option("--local", is_flag=True, help="Run on this machine (hardware.local)."),
    ):
        command = option(command)
    return command


def changed_recipe(
    recipe_file: Path,
    sets: tuple[str, ...],
    hours: str | None,
    budget: str | None,
    usd_per_hour: str | None,
    local: bool,
) -> "Recipe":
    """The recipe of a file, with the changes that the flags ask for.

    Raises:
        InvalidInputError: the file or a change is not valid.
    """
    from recipes.errors import InvalidInputError
    from recipes.loading import load_recipe, with_changes

    changes: dict[str, str] = {}
    for text in sets:
        field, equals, value = text.partition("=")
        if not equals:
            raise InvalidInputError(f"--set {text}: write FIELD=VALUE, such as training.steps=100")
        changes[field] = value
    flags = {"budget.hours": hours, "budget.usd": budget, "hardware.usd_per_hour": usd_per_hour}
    changes.update({field: value for field, value in flags.items() if value is not None})
    if local:
        changes["hardware.local"] = "true"
    recipe = load_recipe(recipe_file)
    return with_changes(recipe, changes) if changes else recipe


def print_receipt(outside: "Outside", run_id: str, as_json: bool) -> None:
    """Print what a run has cost and brought."""
    from tracking.show import render_receipt

    receipt = outside.receipt(run_id)
    if as_json:
        click.echo(receipt.model_dump_json(indent=2))
    else:
        outside.print(render_receipt(receipt))
