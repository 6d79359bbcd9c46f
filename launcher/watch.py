"""The watcher: `python -m launcher.watch RUN` drives a run to its end, whoever else is there.

`still launch` starts one for each run on rented machines, in a session of its own, so that the run
survives the terminal, the launcher and Ctrl-C. What it says goes to `watcher.log` in the run's
folder; how the run ended is in the ledger.
"""

import subprocess
import sys
from collections.abc import Mapping

import click

from recipes.errors import StillhouseError
from recipes.rundir import RunDir


def start_watcher(run: RunDir, environ: Mapping[str, str], *, allow_remote_code: bool) -> None:
    """Start a watcher that outlives this process."""
    words = ["--trust-remote-code"] if allow_remote_code else []
    with (run.path / "watcher.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "launcher.watch", run.path.name, *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(environ),
            start_new_session=True,
        )


@click.command()
@click.argument("run_id")
@click.option("--trust-remote-code", is_flag=True)
def main(run_id: str, trust_remote_code: bool) -> None:
    """Drive RUN_ID to its end."""
    from launcher.outside import Outside

    try:
        Outside().drive(run_id, trust_remote_code)
    except StillhouseError as error:
        click.echo(error, err=True)
        raise SystemExit(error.exit_code) from error


if __name__ == "__main__":
    main()
