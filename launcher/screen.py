"""Where results go. Whoever has read enough of them keeps no command from what it does."""

import os
import sys

from rich.console import Console


class Screen(Console):
    """stdout, for as long as somebody reads it."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        nobody_reads()


def nobody_reads() -> None:
    """Have what is printed from now on go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
