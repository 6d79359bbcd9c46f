"""Commands on recipes: nothing is started and nothing costs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from launcher.commands.options import (
    changed_recipe,
    json_option,
    pass_outside,
    recipe_argument,
    recipe_changes,
    trust_option,
)

if TYPE_CHECKING:
    from launcher.outside import Outside


@click.command()
@click.argument("recipe_files", metavar="RECIPE...", nargs=-1, required=True)
@json_option
def check(recipe_files: tuple[str, ...], as_json: bool) -> None:
    """Say whether recipes are valid, and every fault with its line.

    \b
    Example:
      still check recipes/*.yaml
    """
    from recipes.errors import InvalidInputError, InvalidRecipeError
    from recipes.loading import load_recipe

    faults: dict[str, list[str]] = {}
    for name in recipe_files:
        try:
            load_recipe(Path(name))
            faults[name] = []
        except InvalidRecipeError as error:
            faults[name] = list(error.faults)
    if as_json:
        import json

        click.echo(json.dumps(faults, indent=2))
    else:
        for name, found in faults.items():
            click.echo("\n".join(found) if found else f"{name}: ok", err=bool(found))
    if any(faults.values()):
        raise click.exceptions.Exit(InvalidInputError.exit_code)


@click.command()
def schema() -> None:
    """Print the JSON Schema of a recipe, for editors.

    \b
    Example:
      still schema > recipe.schema.json
    """
    from recipes.schema import schema_json

    click.echo(schema_json(), nl=False)


@click.command()
@click.argument("name")
def new(name: str) -> None:
    """Print a commented recipe called NAME that passes `still check`.

    \b
    Example:
      still new my-student > my-student.yaml
    """
    from recipes.new import new_recipe

    click.echo(new_recipe(name), nl=False)


@click.command()
@recipe_argument
@recipe_changes
@click.option("--offers", default=5, type=click.IntRange(0), help="Runners-up to show.")
@click.option(
    "-o",
    "--save",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write the chosen plan, for `still launch --plan FILE`.",
)
@click.option("--markdown", is_flag=True, help="Print Markdown, for a pull request.")
@trust_option
@json_option
@pass_outside
def plan(
    outside: "Outside",
    /,
    recipe_file: Path,
    offers: int,
    save: Path | None,
    markdown: bool,
    trust_remote_code: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Price RECIPE before anything is paid: dollars, hours, assumptions.

    On rented machines every offer is priced as a whole run; the cheapest that fits is chosen.

    \b
    Example:
      still plan recipes/quickstart.yaml
      still plan recipes/s1.yaml --budget 80 --offers 10
      still plan recipes/s1.yaml --save s1.plan.json
    """
    from launcher.plans.plan import fit_json, summary
    from launcher.plans.saved import save_plan
    from launcher.plans.show_plan import markdown_plan, render_plan
    from launcher.plans.show_ranked import markdown_ranked, ranked_json, render_ranked

    outside.pricing.allow_remote_code = trust_remote_code
    made = outside.pricing.plan(changed_recipe(recipe_file, **flags), recipe_file.absolute().parent)
    budget, ranked = made.recipe.budget, made.ranked
    if as_json:
        here = {**summary(made.plan), **fit_json(made.plan, budget)}
        outside.print_json(ranked_json(ranked, offers) if ranked else here)
    elif markdown:
        text = markdown_ranked(ranked, offers) if ranked else markdown_plan(made.plan, budget)
        click.echo(text, nl=False)
    else:
        shown = render_ranked(ranked, offers) if ranked else render_plan(made.plan, budget)
        outside.print(shown)
    if save is not None:
        save_plan(save, made.recipe, made.plan, outside.clock())
        click.echo(f"plan {made.plan.hash} is in {save}", err=True)
    outside.pricing.check_fits(made)


@click.command()
@click.argument("recipe_a", metavar="A", type=click.Path(path_type=Path))
@click.argument("recipe_b", metavar="B", type=click.Path(path_type=Path))
@recipe_changes
@trust_option
@json_option
@pass_outside
def diff(
    outside: "Outside",
    /,
    recipe_a: Path,
    recipe_b: Path,
    trust_remote_code: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Price the recipes A and B side by side, and name the fields that differ.

    Flags change both. Nothing is refused for its price: what does not fit says so.

    \b
    Example:
      still diff main.yaml mine.yaml
      still diff recipes/s1.yaml recipes/math-1-5b.yaml --json
    """
    from launcher.plans.show_diff import diff_json, render_diff, sides

    outside.pricing.allow_remote_code = trust_remote_code
    made = [
        outside.pricing.plan(changed_recipe(path, **flags), path.absolute().parent)
        for path in (recipe_a, recipe_b)
    ]
    a, b = sides(made[0].recipe, made[0].plan, made[1].recipe, made[1].plan)
    if as_json:
        outside.print_json(diff_json(a, b))
    else:
        outside.print(render_diff(a, b))
