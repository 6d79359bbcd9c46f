"""Commands that start runs, follow them and end them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from launcher.commands.options import (
    changed_recipe,
    json_option,
    pass_outside,
    print_receipt,
    recipe_argument,
    recipe_changes,
    run_argument,
    trust_option,
)

if TYPE_CHECKING:
    from launcher.outside import Outside


@click.command()
@recipe_argument
@recipe_changes
@click.option(
    "--plan",
    "plan_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Run exactly the plan of `still plan --save FILE`; refused where it no longer holds.",
)
@click.option(
    "--tolerance",
    metavar="PERCENT",
    type=click.IntRange(0),
    help="With --plan: how much dearer an hour may be by now; 10 where left out. A lower price is "
    "always taken.",
)
@click.option("--yes", is_flag=True, help="Do not ask before starting.")
@click.option(
    "--accept-partial",
    is_flag=True,
    help="Start although the plan may not fit: stop at the limit and keep what is done.",
)
@trust_option
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
    plan_file: Path | None,
    tolerance: int | None,
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
      still launch my.yaml --plan my.plan.json --tolerance 5
    """
    from launcher.plans.saved import TOLERANCE
    from launcher.plans.show_plan import headline

    recipe, folder = changed_recipe(recipe_file, **flags), recipe_file.absolute().parent
    outside.pricing.allow_remote_code = trust_remote_code
    if plan_file is not None:
        allowed = TOLERANCE if tolerance is None else tolerance
        made = outside.pricing.plan_as_saved(recipe, folder, plan_file, allowed)
    elif tolerance is not None:
        raise click.UsageError("--tolerance is for a saved plan: give --plan FILE too")
    else:
        made = outside.pricing.plan(recipe, folder)
    outside.pricing.check_fits(made, accept_partial=accept_partial)
    click.echo(headline(made.plan, made.recipe.budget), err=True)
    if not yes:
        outside.ask("Start?")
    run_id = outside.driving.open_run(made, store)
    click.echo(f"started {run_id}", err=True)
    _drive(outside, run_id, trust_remote_code, as_json)


@click.command()
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


@click.command()
@run_argument
@trust_option
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


@click.command()
@click.argument("store", metavar="STORE")
@click.argument("run", metavar="[RUN]", required=False)
@click.option("--books-only", is_flag=True, help="Bring its books and receipt; leave it alone.")
@click.option("--yes", is_flag=True, help="Do not ask before taking over what somebody drives.")
@json_option
@pass_outside
def adopt(
    outside: "Outside", /, store: str, run: str | None, books_only: bool, yes: bool, as_json: bool
) -> None:
    """List the runs in a run store; take RUN over, wherever it was launched, and drive it on.

    Whoever drove it until now stands down. Of a run that is done, books, receipt and student are
    brought here; one that stopped or failed can then be resumed here.

    \b
    Example:
      still adopt s3://bucket/prefix
      still adopt s3://bucket/prefix s1-261122-0341-k7q2
      still adopt s3://bucket/prefix s1-261122-0341-k7q2 --books-only
    """
    from launcher.adopting import Adopter
    from launcher.show_adopt import render_stored, stored_json
    from recipes.errors import TeardownUnprovedError

    adopter = Adopter(outside, store)
    if run is None:
        runs, known = adopter.runs(), set(outside.ledger.run_ids())
        if as_json:
            outside.print_json(stored_json(runs, known))
        elif runs:
            outside.print(render_stored(runs, known, outside.clock()))
        else:
            click.echo(f"no runs of ours in {store}", err=True)
        return
    found = adopter.find(run)
    if books_only or found.is_done:
        new = adopter.take_books(run, with_student=not books_only)
        click.echo(f"{run}: {new} new entries; `still show {run}` has its receipt", err=True)
        print_receipt(outside, run, as_json)
        return
    if found.is_driven(outside.clock()) and not yes and found.driver is not None:
        outside.ask(f"{found.driver.host} drives {run} now, and would stand down. Take it over?")
    adopter.take_over(run)
    books = outside.ledger.books(run)
    if found.is_over:
        click.echo(f"{run} {books.state}; `still resume {run}` goes on with it here", err=True)
        print_receipt(outside, run, as_json)
        return
    if books.over:
        raise TeardownUnprovedError(
            f"{run} is over, and it was never proved that its machines are gone. "
            f"`still down {run}` gives them back"
        )
    click.echo(f"{run} is driven from here", err=True)
    _drive(outside, run, False, as_json)


def _drive(outside: "Outside", run_id: str, trust_remote_code: bool, as_json: bool) -> None:
    from recipes.errors import StillhouseError

    try:
        outside.driving.launch(run_id, trust_remote_code)
    except StillhouseError:
        print_receipt(outside, run_id, as_json)  # also of a run that was cut short
        raise
    print_receipt(outside, run_id, as_json)


@click.command()
@run_argument
@pass_outside
def stop(outside: "Outside", run: str) -> None:
    """Ask the worker of a run to save and end; `still resume` goes on.

    \b
    Example:
      still stop latest
    """
    run_id = outside.ledger.resolve(run)
    outside.driving.wish(run_id, "stop")
    click.echo(f"{run_id} is saving and will end; `still resume {run_id}` goes on", err=True)


@click.command()
@run_argument
@pass_outside
def down(outside: "Outside", run: str) -> None:
    """End a run at once and give back everything it has rented, with proof; may be repeated.

    \b
    Example:
      still down latest
    """
    run_id = outside.ledger.resolve(run)
    if outside.driving.wish(run_id, "down"):
        text = f"{run_id} is ended. `still show {run_id}` says what is proved"
    else:
        text = (
            f"whoever drives {run_id} ends it now. `still watch {run_id}` shows how, and "
            f"`still show {run_id}` what is proved"
        )
    click.echo(text, err=True)


@click.command()
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
    books = outside.driving.raise_budget(run_id, raise_usd)
    click.echo(
        f"{run_id} may now spend {format_usd(from_micro_usd(books.budget_micro_usd))}, of which "
        f"{format_usd(from_micro_usd(books.spent_micro_usd))} is spent. "
        + (
            "It stopped at its hours all the same: launch its recipe again with more of them."
            if books.state == "stopped"
            else f"`still resume {run_id}` goes on."
        ),
        err=True,
    )


@click.command()
@run_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends.")
@pass_outside
def logs(outside: "Outside", run: str, follow: bool) -> None:
    """Print what happened in a run, a line an event.

    \b
    Example:
      still logs latest -f
    """
    for line in outside.driving.log_lines(outside.ledger.resolve(run), follow):
        click.echo(line)


@click.command()
@recipe_argument
@recipe_changes
@click.option("--usd", default="2", metavar="USD", help="What it may cost; $2 where left out.")
@click.option("--yes", is_flag=True, help="Do not ask before starting.")
@trust_option
@click.option("--store", metavar="URL", help="As for `still launch`.")
@json_option
@pass_outside
def rehearse(
    outside: "Outside",
    /,
    recipe_file: Path,
    usd: str,
    yes: bool,
    trust_remote_code: bool,
    store: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Run the first steps of RECIPE on one real machine, and price the whole of it again.

    A rehearsal is a run of its own, with its own budget and receipt; what it measures counts in
    every later plan.

    \b
    Example:
      still rehearse recipes/reasoning-7b.yaml --usd 10
      still rehearse my.yaml --local --usd-per-hour 0.40 --usd 0.05
    """
    from launcher.plans.show_diff import render_diff
    from launcher.plans.show_plan import headline
    from launcher.rehearse import (
        before_and_after,
        look_back,
        open_rehearsal,
        plan_rehearsal,
        rehearsal_json,
    )
    from recipes.errors import StillhouseError, StoppedError

    outside.pricing.allow_remote_code = trust_remote_code
    made = outside.pricing.plan(changed_recipe(recipe_file, **flags), recipe_file.absolute().parent)
    planned = plan_rehearsal(outside, made, usd)
    click.echo(headline(planned.plan, planned.recipe.budget), err=True)
    if not yes:
        outside.ask("Start the rehearsal?")
    run_id = open_rehearsal(outside, planned, made.plan, store)
    click.echo(f"started {run_id}", err=True)
    stopped: StoppedError | None = None
    try:
        outside.driving.launch(run_id, trust_remote_code)
    except StoppedError as error:
        stopped = error  # its steps until then are measured all the same
    except StillhouseError:
        print_receipt(outside, run_id, as_json)
        raise
    rehearsed = look_back(outside, run_id, made)
    if as_json:
        outside.print_json(rehearsal_json(outside, made, rehearsed))
    else:
        print_receipt(outside, run_id, as_json)
        click.echo(f"\nmeasured: {rehearsed.measured or 'nothing: it ended too soon'}\n")
        outside.print(render_diff(*before_and_after(made, rehearsed)))
    if stopped is not None:
        raise stopped
