"""The watcher: `python -m launcher.watcher RUN` drives a run to its end, whoever else is there.

What it says goes to `watcher.log` in the run's folder; how the run ended is in the ledger.
"""

import click

from launcher.outside import Outside
from recipes.errors import StillhouseError
from recipes.privacy import keep_private


@click.command()
@click.argument("run_id")
@click.option("--trust-remote-code", is_flag=True)
def main(run_id: str, trust_remote_code: bool) -> None:
    """Drive RUN_ID to its end."""
    try:
        Outside().driving.drive(run_id, trust_remote_code)
    except StillhouseError as error:
        click.echo(error, err=True)
        raise SystemExit(error.exit_code) from error


if __name__ == "__main__":
    keep_private()
    main()
