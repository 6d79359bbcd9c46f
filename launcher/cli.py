"""The `still` command: parse, call, print. Everything heavy is imported where it is used.

Results go to stdout, everything else to stderr, so that `--json` can be piped. Exit codes: 0 done,
2 invalid input, 3 refused and nothing launched, 4 the run failed, 5 stopped at budget or deadline
with the student saved, 6 teardown unproved, 130 interrupted.
"""

import os
import sys
from collections.abc import Callable
from functools import update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

if TYPE_CHECKING:
    from launcher.market import Terms
    from launcher.outside import Outside
    from recipes.recipe import Recipe

os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for them takes 30 ms

Command = TypeVar("Command", bound=Callable[..., Any])


class Commands(click.Group):
    """Turns our own errors into a message on stderr and the exit code of their kind."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, click.Abort):
            raise
        except KeyboardInterrupt:
            ctx.exit(130)
        except BrokenPipeError:
            sys.stderr.close()  # whoever read our output has seen enough; nothing more to say
            ctx.exit(0)
        except Exception as error:
            from recipes.errors import StillhouseError

            if not isinstance(error, StillhouseError):
                raise  # a fault of ours: its traceback is what we need
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="stillhouse", prog_name="still")
def cli() -> None:
    """Distil a teacher into a student inside a dollar budget.

    \b
    Example:
      still new my-student > my-student.yaml
      still check my-student.yaml
      still launch my-student.yaml
    """


def main() -> None:
    """Entry point of the `still` command."""
    cli(prog_name="still")


def pass_outside(command: Command) -> Command:
    """Give a command the world, made only now: what looks at recipes alone answers sooner."""

    def with_outside(*args: Any, **kwargs: Any) -> Any:
        ctx = click.get_current_context()
        if ctx.obj is None:
            from launcher.outside import Outside

            ctx.obj = Outside()
        return ctx.invoke(command, ctx.obj, *args, **kwargs)

    return cast(Command, update_wrapper(with_outside, command))


# ---- recipes ---------------------------------------------------------------------------------

recipe_argument = click.argument("recipe_file", metavar="RECIPE", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
run_argument = click.argument("run", metavar="[RUN]", default="latest")


def recipe_changes(command: Command) -> Command:
    """The flags that change a field of the recipe; `_changed` applies them."""
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


def _changed(
    recipe_file: Path,
    sets: tuple[str, ...],
    hours: str | None,
    budget: str | None,
    usd_per_hour: str | None,
    local: bool,
) -> "Recipe":
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


@cli.command()
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


@cli.command()
def schema() -> None:
    """Print the JSON Schema of a recipe, for editors.

    \b
    Example:
      still schema > recipe.schema.json
    """
    from recipes.schema import schema_json

    click.echo(schema_json(), nl=False)


@cli.command()
@click.argument("name")
def new(name: str) -> None:
    """Print a commented recipe called NAME that passes `still check`.

    \b
    Example:
      still new my-student > my-student.yaml
    """
    from recipes.new import new_recipe

    click.echo(new_recipe(name), nl=False)


# ---- runs ------------------------------------------------------------------------------------


@cli.command()
@recipe_argument
@recipe_changes
@click.option("--offers", default=5, type=click.IntRange(0), help="Runners-up to show.")
@click.option("--markdown", is_flag=True, help="Print Markdown, for a pull request.")
@json_option
@pass_outside
def plan(
    outside: "Outside",
    /,
    recipe_file: Path,
    offers: int,
    markdown: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Price RECIPE before anything is paid: dollars, hours, assumptions.

    On rented machines every offer is priced as a whole run; the cheapest that fits is chosen.

    \b
    Example:
      still plan recipes/quickstart.yaml
      still plan recipes/s1.yaml --budget 80 --offers 10
    """
    from launcher.plan import check_fits, summary
    from launcher.show_plan import markdown_plan, render_plan
    from launcher.show_ranked import markdown_ranked, ranked_json, render_ranked

    made = outside.plan(_changed(recipe_file, **flags), recipe_file.absolute().parent)
    budget, ranked = made.recipe.budget, made.ranked
    if as_json:
        outside.print_json(ranked_json(ranked, offers) if ranked else summary(made.plan))
    elif markdown:
        text = markdown_ranked(ranked, offers) if ranked else markdown_plan(made.plan, budget)
        click.echo(text, nl=False)
    else:
        shown = render_ranked(ranked, offers) if ranked else render_plan(made.plan, budget)
        outside.print(shown)
    check_fits(made.plan, made.recipe)


@cli.command()
@recipe_argument
@recipe_changes
@click.option("--yes", is_flag=True, help="Do not ask before starting.")
@click.option(
    "--accept-partial",
    is_flag=True,
    help="Start although the plan may not fit: stop at the limit and keep what is done.",
)
@click.option(
    "--trust-remote-code",
    is_flag=True,
    help="Allow code that comes with a model, where the recipe says so too.",
)
@click.option(
    "--store",
    metavar="URL",
    help="Where the files of runs on rented machines live: s3://bucket/prefix, or a folder that "
    "they share. Else STILLHOUSE_STORE.",
)
@json_option
@pass_outside
def launch(
    outside: "Outside",
    /,
    recipe_file: Path,
    yes: bool,
    accept_partial: bool,
    trust_remote_code: bool,
    store: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Plan RECIPE, ask, run it inside its budget, and print the receipt.

    Ctrl-C asks the worker to save and ends; twice ends at once. `still resume` goes on.

    \b
    Example:
      still launch recipes/quickstart.yaml --yes
      still launch my.yaml --budget 2.50 --set training.steps=1000
    """
    from launcher.plan import check_fits
    from launcher.show_plan import headline

    made = outside.plan(_changed(recipe_file, **flags), recipe_file.absolute().parent)
    if not accept_partial:
        check_fits(made.plan, made.recipe)
    click.echo(headline(made.plan, made.recipe.budget), err=True)
    if not yes:
        outside.ask("Start?")
    run_id = outside.open_run(made, store)
    click.echo(f"started {run_id}", err=True)
    _drive(outside, run_id, trust_remote_code, as_json)


@cli.command()
@run_argument
@json_option
@pass_outside
def watch(outside: "Outside", run: str, as_json: bool) -> None:
    """Follow a run on rented machines, and drive it on where nobody does any more.

    Ctrl-C leaves the run going.

    \b
    Example:
      still watch latest
    """
    _drive(outside, outside.ledger.resolve(run), False, as_json)


@cli.command()
@run_argument
@click.option("--trust-remote-code", is_flag=True, help="As for `still launch`.")
@json_option
@pass_outside
def resume(outside: "Outside", run: str, trust_remote_code: bool, as_json: bool) -> None:
    """Take a run from wherever it stands to its end: follow it, or start it again.

    Nothing that was finished is done twice.

    \b
    Example:
      still resume quickstart-261122-0331-k7q2
    """
    _drive(outside, outside.ledger.resolve(run), trust_remote_code, as_json)


def _drive(outside: "Outside", run_id: str, trust_remote_code: bool, as_json: bool) -> None:
    from recipes.errors import StillhouseError

    try:
        outside.launch(run_id, trust_remote_code)
    except StillhouseError:
        _show(outside, run_id, as_json)  # what it cost and what is there, also of a run cut short
        raise
    _show(outside, run_id, as_json)


@cli.command()
@run_argument
@pass_outside
def stop(outside: "Outside", run: str) -> None:
    """Ask the worker of a run to save and end; `still resume` goes on.

    \b
    Example:
      still stop latest
    """
    run_id = outside.ledger.resolve(run)
    outside.wish(run_id, "stop")
    click.echo(f"{run_id} is saving and will end; `still resume {run_id}` goes on", err=True)


@cli.command()
@run_argument
@pass_outside
def down(outside: "Outside", run: str) -> None:
    """End a run at once and give back everything it has rented, with proof; may be repeated.

    \b
    Example:
      still down latest
    """
    run_id = outside.ledger.resolve(run)
    outside.wish(run_id, "down")
    click.echo(f"{run_id} is ended. `still show {run_id}` says what is proved", err=True)


@cli.command()
@run_argument
@click.option("--raise", "raise_usd", required=True, metavar="USD", help="Add so much [USD].")
@pass_outside
def budget(outside: "Outside", run: str, raise_usd: str) -> None:
    """Raise the budget of a run; one that stopped at it can then be resumed.

    \b
    Example:
      still budget latest --raise 5
    """
    from recipes.money import format_usd, from_micro_usd

    run_id = outside.ledger.resolve(run)
    books = outside.raise_budget(run_id, raise_usd)
    click.echo(
        f"{run_id} may now spend {format_usd(from_micro_usd(books.budget_micro_usd))}, of which "
        f"{format_usd(from_micro_usd(books.spent_micro_usd))} is spent. "
        f"`still resume {run_id}` goes on.",
        err=True,
    )


@cli.command()
@run_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends.")
@pass_outside
def logs(outside: "Outside", run: str, follow: bool) -> None:
    """Print what happened in a run, a line an event.

    \b
    Example:
      still logs latest -f
    """
    for line in outside.log_lines(outside.ledger.resolve(run), follow):
        click.echo(line)


# ---- books -----------------------------------------------------------------------------------


@cli.command("ls")
@json_option
@pass_outside
def list_runs(outside: "Outside", as_json: bool) -> None:
    """List all runs, newest first: state, dollars, budget.

    \b
    Example:
      still ls
    """
    from tracking.show import render_runs, runs_json

    books = outside.ledger.runs()
    if as_json:
        outside.print_json(runs_json(books))
    elif books:
        outside.print(render_runs(books))
    else:
        click.echo("no runs yet; `still launch RECIPE` makes one", err=True)


@cli.command()
@run_argument
@json_option
@pass_outside
def show(outside: "Outside", run: str, as_json: bool) -> None:
    """Print the receipt of a run: dollars, wall time, scores, teardown.

    \b
    Example:
      still show latest --json
    """
    _show(outside, outside.ledger.resolve(run), as_json)


def _show(outside: "Outside", run_id: str, as_json: bool) -> None:
    from tracking.show import render_receipt

    receipt = outside.receipt(run_id)
    if as_json:
        click.echo(receipt.model_dump_json(indent=2))
    else:
        outside.print(render_receipt(receipt))


@cli.command()
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@click.option("--experiment", metavar="NAME", help="Only runs of this recipe.")
@click.option("--all", "everything", is_flag=True, help="All runs, not the newest of each recipe.")
@json_option
@pass_outside
def compare(
    outside: "Outside",
    runs: tuple[str, ...],
    experiment: str | None,
    everything: bool,
    as_json: bool,
) -> None:
    """Compare runs by dollars, hours and scores; the cost-quality frontier is marked.

    Without RUN: the newest finished run of each recipe.

    \b
    Example:
      still compare
      still compare --experiment quickstart --all
    """
    from tracking.show import render_comparison

    comparison = outside.compare(runs, experiment, everything)
    if as_json:
        click.echo(comparison.model_dump_json(indent=2))
    else:
        outside.print(render_comparison(comparison))


@cli.command()
@run_argument
@click.option(
    "--all", "everything", is_flag=True, help="Every run that MLflow does not have whole."
)
@pass_outside
def sync(outside: "Outside", run: str, everything: bool) -> None:
    """Bring MLflow up to date from the ledger and the run's folder.

    \b
    Example:
      still sync --all
    """
    for run_id in outside.sync(None if everything else outside.ledger.resolve(run)):
        click.echo(f"MLflow has {run_id}", err=True)


# ---- clouds ----------------------------------------------------------------------------------


@cli.command()
@click.option("--gpus", default="any", metavar="GPU:N", help="GPUs of one node: H100:8, or any.")
@click.option("--nodes", default=1, type=click.IntRange(1), help="Machines together.")
@click.option("--spot", "terms", flag_value="spot", help="Only machines that may be taken away.")
@click.option("--on-demand", "terms", flag_value="on_demand", help="Only machines that stay.")
@click.option("--all", "everything", is_flag=True, help="All offers, not the cheapest 20.")
@json_option
@pass_outside
def offers(
    outside: "Outside",
    /,
    gpus: str,
    nodes: int,
    terms: "Terms | None",
    everything: bool,
    as_json: bool,
) -> None:
    """Print every way to rent GPUs, the cheapest first, with where each price is from.

    \b
    Example:
      still offers --gpus H100:8 --nodes 2
    """
    from launcher.show_offers import offers_json, render_offers

    found = outside.offers(gpus, nodes, terms or "any")
    if as_json:
        outside.print_json(offers_json(found))
    elif everything:
        outside.print(render_offers(found, outside.clock(), limit=None))
    else:
        outside.print(render_offers(found, outside.clock()))


@cli.command()
@json_option
@pass_outside
def doctor(outside: "Outside", as_json: bool) -> None:
    """Look whether everything is in place, before money is at stake.

    \b
    Example:
      still doctor
    """
    checks = []
    for check in outside.examine():
        checks.append(check)
        if not as_json:
            mark = {"ok": "ok", "attention": "!!", "unknown": "??"}[check.state]
            click.echo(f"{mark}  {check.name}: {check.detail}")
            if check.remedy:
                click.echo(f"    {check.remedy}")
    if as_json:
        outside.print_json([check.as_json() for check in checks])


if __name__ == "__main__":
    main()
