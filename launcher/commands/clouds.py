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
@click.option("--spot", is_flag=True, help="Only machines that may be taken away.")
@click.option("--on-demand", is_flag=True, help="Only machines that stay.")
@click.option("--all", "everything", is_flag=True, help="All offers, not the cheapest 20.")
@json_option
@pass_outside
def offers(
    outside: "Outside",
    /,
    gpus: str,
    nodes: int,
    spot: bool,
    on_demand: bool,
    everything: bool,
    as_json: bool,
) -> None:
    """Print every way to rent GPUs, the cheapest first, with where each price is from.

    \b
    Example:
      still offers --gpus H100:8 --nodes 2
    """
    from launcher.market.show_offers import offers_json, render_offers

    if spot and on_demand:
        raise click.UsageError("no machine is both --spot and --on-demand: for either give neither")
    terms: Terms = "spot" if spot else "on_demand" if on_demand else "any"
    found = outside.offers(gpus, nodes, terms)
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

    Ends with 6 while something is left, or where a region could not be asked. With --apply, what
    may be somebody else's and has not expired is asked about, left where nobody is there to answer,
    and no reason for 6.

    \b
    Example:
      still sweep
      still sweep --apply
    """
    from launcher.show_sweep import render_sweep
    from launcher.sweep import is_doubtful
    from launcher.sweeping import Sweeper
    from recipes.errors import RefusedError, TeardownUnprovedError

    sweeper = Sweeper(outside, regions, stores)
    swept = sweeper.look()
    if not as_json:
        outside.print(render_sweep(swept))
    if do_apply and swept.orphans:
        chosen = list(swept.orphans)
        doubtful = sum(map(is_doubtful, chosen))
        if doubtful and not yes:
            try:
                outside.ask(f"{doubtful} of these may be somebody else's. End them too?")
            except RefusedError:
                click.echo(f"left alone: {doubtful}, perhaps somebody else's (--yes)", err=True)
                chosen = [one for one in chosen if not is_doubtful(one)]
        if chosen:
            swept = sweeper.end(chosen)
            if not as_json:
                outside.print(render_sweep(swept))
    if as_json:
        outside.print_json(swept.as_json())
    # What may be somebody's is no alarm to whoever sweeps by the clock: it expires.
    is_clean = swept.is_clean_of_ours if do_apply else swept.is_clean
    if not is_clean:
        raise click.exceptions.Exit(TeardownUnprovedError.exit_code)
