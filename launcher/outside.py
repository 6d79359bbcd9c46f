"""The world as the command line meets it: home, ledger, screen, clock, machine, git, MLflow.

One object, made once a command and passed in, so that a test can pass another. Each part is made
when it is first asked for: `still --help` touches none of them.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from recipes.errors import InvalidInputError, RefusedError
from tracking.books import Books
from tracking.home import Home, home
from tracking.ledger import Ledger

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from launcher.doctor import Check
    from launcher.driving import Driving
    from launcher.machines.aws import ClientFactory
    from launcher.machines.backend import Backend
    from launcher.market.look import Found, Terms
    from launcher.plans.speeds import Trial
    from launcher.pricing import Pricing
    from tracking.compare import Comparison
    from tracking.receipt import Receipt


class Outside:
    """The real world; each argument replaces one part of it.

    Args:
        environ: environment variables.
        clock: seconds since 1970.
        sleep: waits so many seconds.
        backend: where workers run.
        trial: measures how fast this machine does a recipe's work.
        track: starts what follows a run into MLflow.
        aws: makes clients of AWS, where a command asks what a run was charged.
    """

    def __init__(
        self,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        backend: "Backend | None" = None,
        trial: "Trial | None" = None,
        track: Callable[[str], None] | None = None,
        aws: "ClientFactory | None" = None,
    ) -> None:
        self.environ = environ
        self.clock = clock
        self.sleep = sleep
        self._backend = backend
        self._trial = trial
        self._track = track
        self.aws = aws or _boto3_client

    @cached_property
    def pricing(self) -> "Pricing":
        """What recipes cost, here and on everything that can be rented."""
        from launcher.pricing import Pricing

        return Pricing(self, self._trial)

    @cached_property
    def driving(self) -> "Driving":
        """What is done to runs."""
        from launcher.driving import Driving

        return Driving(self, self._backend, self._track)

    @cached_property
    def home(self) -> Home:
        return home(self.environ)

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.home.ledger, self.clock)

    @cached_property
    def screen(self) -> "Console":
        """Results: stdout."""
        from launcher.screen import Screen

        return Screen()

    @cached_property
    def progress(self) -> "Console":
        """Everything that is no result: stderr."""
        from rich.console import Console

        return Console(stderr=True)

    # ---- the screen

    def print(self, what: "RenderableType") -> None:
        self.screen.print(what)

    def print_json(self, what: Any) -> None:
        import json

        import click

        try:
            click.echo(json.dumps(what, indent=2))
        except BrokenPipeError:
            from launcher.screen import nobody_reads

            nobody_reads()

    def ask(self, question: str) -> None:
        """Ask a person yes or no.

        Raises:
            RefusedError: the answer is no, or nobody is there to answer.
        """
        if not sys.stdin.isatty():
            raise RefusedError(f"nobody is there to answer {question!r}. To start at once: --yes")
        self.progress.print(f"{question} [y/N] ", end="", markup=False, highlight=False)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise RefusedError("not started")

    # ---- clouds

    def offers(self, accelerators: str, nodes: int, terms: "Terms") -> "Found":
        """Every way to rent these GPUs, the cheapest first.

        Raises:
            NoOfferError: looked, and there is none.
            CouldNotLookError: there is nothing to look at.
        """
        from launcher.market.look import Wanted, look_for_offers
        from launcher.market.spot_prices import ask_aws

        with self.busy("looking at what can be rented"):
            return look_for_offers(
                Wanted.parse(accelerators, nodes, terms),
                environ=self.environ,
                clock=self.clock,
                spot_prices=ask_aws,
            )

    def examine(self) -> "Iterator[Check]":
        """Whether everything is in place, line by line."""
        from launcher.doctor import examine
        from launcher.machines.aws import boto3_client

        return examine(self.home, self.environ, boto3_client, clock=self.clock)

    # ---- results

    def receipt(self, run_id: str) -> "Receipt":
        from tracking.receipt import make_receipt

        return make_receipt(self.ledger.books(run_id), self.home.run(run_id))

    def compare(
        self, runs: tuple[str, ...], experiment: str | None, everything: bool
    ) -> "Comparison":
        from tracking.compare import compare

        chosen = (
            [self.ledger.books(self.ledger.resolve(run)) for run in runs]
            if runs
            else _default_choice(self.ledger.runs(), experiment, everything)
        )
        if not chosen:
            raise InvalidInputError(
                f"no finished run of {experiment} yet" if experiment else "no finished run yet"
            )
        return compare([self.receipt(books.run_id) for books in chosen])

    def sync(self, run_id: str | None) -> Iterator[str]:
        """Bring MLflow up to date, for one run or all that need it; their ids as they are done."""
        from tracking.mlflow_store import sync_run, unsynced

        for one in [run_id] if run_id else unsynced(self.home):
            with self.busy(f"writing {one} to MLflow"):
                sync_run(self.home, one)
            yield one

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Say what takes a while, for as long as it does."""
        if self.progress.is_terminal and not self.progress.is_dumb_terminal:
            with self.progress.status(what):
                yield
        else:
            yield


def _boto3_client(service: str, region: str) -> Any:
    from launcher.machines.aws import boto3_client

    return boto3_client(service, region)


def _default_choice(runs: list[Books], experiment: str | None, everything: bool) -> list[Books]:
    """The newest finished run of each recipe, or all finished ones; newest first."""
    finished = [
        books
        for books in runs
        if books.state in ("done", "stopped") and experiment in (None, books.recipe_name)
    ]
    if everything:
        return finished
    newest: dict[str, Books] = {}
    for books in finished:
        newest.setdefault(books.recipe_name, books)
    return list(newest.values())
