"""Commands that tell what runs have cost and brought."""

from typing import TYPE_CHECKING

import click

from launcher.commands.options import json_option, pass_outside, print_receipt, run_argument

if TYPE_CHECKING:
    from launcher.outside import Outside


@click.command("ls")
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


@click.command()
@run_argument
@json_option
@pass_outside
def show(outside: "Outside", run: str, as_json: bool) -> None:
    """Print the receipt of a run: dollars, wall time, scores, teardown.

    \b
    Example:
      still show latest --json
    """
    print_receipt(outside, outside.ledger.resolve(run), as_json)


@click.command()
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


@click.command()
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


@click.command()
@run_argument
@json_option
@pass_outside
def reconcile(outside: "Outside", run: str, as_json: bool) -> None:
    """Ask AWS what it charges for a run, beside our own figure; the receipt shows both from then.

    AWS takes a day to say anything, and until the month's bill is closed to say it for good. Each
    question costs $0.01. Other clouds cannot be asked.

    \b
    Example:
      still reconcile s1-261122-0341-k7q2
    """
    from launcher.reconciling import reconcile_run
    from launcher.show_reconciled import render_reconciled

    found = reconcile_run(outside, outside.ledger.resolve(run))
    if as_json:
        outside.print_json(found.as_json())
    else:
        outside.print(render_reconciled(found))
