"""The `still` command: parse, call, print. Everything heavy is imported where it is used.

Results go to stdout, everything else to stderr, so that `--json` can be piped. Exit codes: 0 done,
2 invalid input, 3 refused and nothing launched, 4 the run failed, 5 stopped at budget or deadline
with the student saved, 6 teardown unproved, 130 interrupted.
"""

import os
import sys
from typing import Any

import click

from launcher.commands import books, clouds, policies, recipes, runs
from recipes.privacy import keep_private

os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for them takes 30 ms


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
            from recipes.errors import InvalidInputError, StillhouseError

            if isinstance(error, OSError) and error.strerror:
                where = f"{error.filename}: " if error.filename else ""
                remedy = "Look at the disk, and at what may be read and written there"
                error = InvalidInputError(f"{where}{error.strerror}. {remedy}")
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
    keep_private()
    cli(prog_name="still")


for room in (recipes, runs, books, clouds, policies):
    for command in vars(room).values():
        if isinstance(command, click.Command):
            cli.add_command(command)


if __name__ == "__main__":
    main()
