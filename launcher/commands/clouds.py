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
