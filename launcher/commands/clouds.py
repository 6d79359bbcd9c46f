"""Commands that look at clouds."""

from typing import TYPE_CHECKING

import click

from launcher.commands.options import json_option, pass_outside

if TYPE_CHECKING:
    from launcher.market.look import Terms
    from launcher.outside import Outside


@click.command()
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
    from launcher.market.show_offers import offers_json, render_offers

    found = outside.offers(gpus, nodes, terms or "any")
    if as_json:
        outside.print_json(offers_json(found))
    elif everything:
        outside.print(render_offers(found, outside.clock(), limit=None))
    else:
        outside.print(render_offers(found, outside.clock()))


@click.command()
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


@click.command()
@click.option("--region", "regions", multiple=True, help="Only here; else every enabled region.")
@click.option(
    "--store",
    "stores",
    multiple=True,
    metavar="URL",
    help="Also unfinished uploads below s3://bucket/prefix. Else STILLHOUSE_STORE and those of "
    "the runs known here.",
)
@click.option("--apply", "do_apply", is_flag=True, help="End what is found; else only say it.")
@click.option("--yes", is_flag=True, help="Also what has not expired and may be somebody else's.")
@json_option
@pass_outside
def sweep(
    outside: "Outside",
    /,
    regions: tuple[str, ...],
    stores: tuple[str, ...],
    do_apply: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Find what of ours is still in AWS and should not be, by its tags and nothing else.

    Ends with 6 while something is left, or where a region could not be asked.

    \b
    Example:
      still sweep
      still sweep --apply
    """
    from launcher.show_sweep import render_sweep
    from launcher.sweep import to_ask_about
    from launcher.sweeping import Sweeper
    from recipes.errors import TeardownUnprovedError

    sweeper = Sweeper(outside, regions, stores)
    swept = sweeper.look()
    if not as_json:
        outside.print(render_sweep(swept))
    if do_apply and swept.orphans:
        chosen = list(swept.orphans)
        if (doubtful := to_ask_about(chosen)) and not yes:
            outside.ask(f"{len(doubtful)} of these may be another machine's. End all of them?")
        swept = sweeper.end(chosen)
        if not as_json:
            outside.print(render_sweep(swept))
    if as_json:
        outside.print_json(swept.as_json())
    if not swept.is_clean:
        raise click.exceptions.Exit(TeardownUnprovedError.exit_code)
