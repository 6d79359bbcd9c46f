"""What a person sees of a run under way: stage, tokens/s, dollars against the budget, time left.

`Watched` folds events into the few facts that are shown; `Live` draws them over and over on a
terminal, `Lines` prints a line now and then where there is none. Neither writes to stdout: that
is for results.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from launcher.plans.plan import Plan, format_hours
from launcher.plans.reprice import Pace, Projection, Spent, project
from recipes.durations import format_seconds
from recipes.money import format_usd, from_micro_usd, machine_micro_usd
from recipes.rundir import (
    AnyEvent,
    CheckpointLoaded,
    Failed,
    Generated,
    Progress,
    Scored,
    StageDone,
    StageStarted,
    Stopping,
    TrainStep,
    Warned,
    WorkerStarted,
)
from tracking.prices import Price, Prices

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


@dataclass(frozen=True)
class Watched:
    """The few facts of a run that are shown while it goes on."""

    run_id: str
    budget_usd: Decimal
    usd_per_hour: Decimal
    started_at: float
    """When the machine began to cost money in this attempt [unix s]."""
    spent_micro_usd: int = 0
    """Settled before this attempt."""
    stage: str = "boot"
    done: int = 0
    total: int = 0
    unit: str = ""
    tokens_per_s: float | None = None
    left_s: float | None = None
    loss: float | None = None
    plan: Plan | None = None
    """What the run was launched with; `None` while it is not known."""
    budget_hours: Decimal | None = None
    """The run's limit [h]; `None`: no limit."""
    earlier_hours: Decimal = Decimal(0)
    """What earlier attempts took [h]."""
    pace: Pace = field(default_factory=Pace)
    repriced: tuple[Price, ...] = ()
    """Changes of the price in this attempt."""
    moved_at: float = 0.0
    """When anything last advanced [unix s]; a repeated progress event only says that it lives."""

    def see(self, event: AnyEvent) -> "Watched":
        """The facts after one more event."""
        after = replace(self._seen(event), pace=self.pace.see(event))
        stands = isinstance(event, Progress) and (after.stage, after.done) == (
            self.stage,
            self.done,
        )
        return after if stands else replace(after, moved_at=event.t)

    def _seen(self, event: AnyEvent) -> "Watched":
        match event:
            case StageStarted():
                return replace(
                    self,
                    stage=event.stage,
                    done=0,
                    total=0,
                    unit="",
                    tokens_per_s=None,
                    left_s=None,
                )
            case Progress():
                return replace(
                    self,
                    stage=event.stage,
                    done=event.done,
                    total=event.total,
                    unit=event.unit,
                    tokens_per_s=event.tokens_per_s,
                    left_s=event.left_s,
                )
            case TrainStep():
                return replace(self, loss=event.loss)
            case Stopping():
                return replace(self, stage="save", left_s=None)
            case _:
                return self

    def usd(self, now: float) -> Decimal:
        """Dollars so far, this attempt's machine included."""
        return from_micro_usd(self.spent_micro_usd + self.running_micro_usd(now))

    def running_micro_usd(self, now: float) -> int:
        """What this attempt's machine has cost until now."""
        prices = Prices((Price(self.started_at, self.usd_per_hour), *self.repriced))
        return prices.micro_usd(self.started_at, max(now, self.started_at))

    def projection(self, now: float) -> Projection | None:
        """What the whole run will have cost and taken, by the speed that was measured; `None` where
        that is not known yet."""
        if self.plan is None or self.pace.seconds_per_unit is None:
            return None
        price = self.repriced[-1].usd_per_hour if self.repriced else self.usd_per_hour
        # The rest is reckoned at today's price, and what has run at the prices of then.
        at_this_price = machine_micro_usd(price, max(0.0, now - self.started_at))
        before = self.spent_micro_usd + self.running_micro_usd(now) - at_this_price
        spent = Spent(from_micro_usd(before), self.earlier_hours, price, self.started_at, now)
        return project(self.plan, self.pace, spent)

    def warning(self, now: float) -> str | None:
        """What a person should know in time: that the run will likely pass a limit."""
        ahead = self.projection(now)
        if ahead is None:
            return None
        usd, hours, limit = ahead.usd, ahead.hours, self.budget_hours
        if usd.p50 > self.budget_usd:
            return (
                f"warning: at this speed the run comes to {format_usd(usd.p50)} "
                f"({format_usd(usd.p10)} to {format_usd(usd.p90)}), and its budget is "
                f"{format_usd(self.budget_usd)}. It will stop while there is money left to save. "
                f"`still budget {self.run_id} --raise USD` lets it finish."
            )
        if limit is not None and hours.p50 > limit:
            return (
                f"warning: at this speed the run takes {format_hours(hours.p50)} "
                f"({format_hours(hours.p10)} to {format_hours(hours.p90)}), and its limit is "
                f"{format_hours(limit)}. It will stop while there is time left to save."
            )
        return None

    def line(self, now: float) -> str:
        """Everything in one line.

        >>> watched = Watched("r", Decimal("0.05"), Decimal("0.36"), 0.0)
        >>> watched.see(Progress(t=9, attempt=1, stage="train", done=3, total=9, unit="steps",
        ...     tokens_per_s=5100.0, left_s=12.0)).line(10.0)
        'train 3/9 steps · 5,100 tokens/s · $0.0010 of $0.0500 · 12 s left'
        """
        parts = [f"{self.stage} {self.done:,}/{self.total:,} {self.unit}"]
        if not self.total:
            parts = [self.stage]
        if self.tokens_per_s is not None:
            parts.append(f"{self.tokens_per_s:,.0f} tokens/s")
        if self.stage == "train" and self.loss is not None:
            parts.append(f"loss {self.loss:.3f}")
        parts.append(f"{format_usd(self.usd(now))} of {format_usd(self.budget_usd)}")
        if ahead := self.projection(now):
            parts.append(f"{format_usd(ahead.usd.p50)} in the end")
        if self.left_s is not None:
            parts.append(f"{format_seconds(self.left_s)} left")
        return " · ".join(parts)


def news(event: AnyEvent) -> str | None:
    """What an event has to say that should stay on the screen, or nothing."""
    match event:
        case WorkerStarted():
            return f"worker {event.pid} on {event.device}" + (
                f", {event.processes} processes" if event.processes > 1 else ""
            )
        case Generated():
            cached = f", {event.cached:,} of them from an earlier run at no cost"
            cut = f", {event.truncated:,} cut off and left out"
            return (
                f"the teacher wrote {event.answers:,} answers "
                f"({event.output_tokens:,} tokens)"
                + (cached if event.cached else "")
                + (cut if event.truncated else "")
            )
        case CheckpointLoaded():
            return f"going on from the checkpoint of step {event.step:,}"
        case StageDone():
            return f"{event.stage} done"
        case Scored():
            of = f" (of {event.of:,})" if event.of > event.n else ""
            cut = f", {event.truncated:,} answers cut off" if event.truncated else ""
            return (
                f"{event.task}: {event.value:.3f} ± {event.stderr:.3f} on {event.n:,}{of} "
                f"problems{cut}"
            )
        case Warned():
            return f"warning: {event.message}"
        case Failed():
            return f"failed: {event.message}. {event.remedy}"
        case Stopping():
            return {
                "budget": "the budget is nearly used: saving",
                "deadline": "the time is nearly up: saving",
                "interrupt": "asked to stop: saving",
            }[event.reason]
        case _:
            return None


class View(Protocol):
    """Where a run under way is shown."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def say(self, text: str) -> None:
        """Something that stays."""

    def show(self, watched: Watched, now: float) -> None:
        """How it stands now; called several times a second."""


class Lines:
    """For pipes, logs and dumb terminals: a line every few seconds, and the news."""

    def __init__(self, write: Callable[[str], None], every_s: float = 5.0) -> None:
        self._write = write
        self._every_s = every_s
        self._next = 0.0
        self._stage = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def say(self, text: str) -> None:
        self._write(text)

    def show(self, watched: Watched, now: float) -> None:
        if now >= self._next or watched.stage != self._stage:
            self._write(watched.line(now))
            self._next = now + self._every_s
            self._stage = watched.stage


class Live:
    """For a terminal: one line that is drawn again and again, the news above it."""

    def __init__(self, console: "Console") -> None:
        from rich.live import Live as RichLive

        self._console = console
        self._live = RichLive(console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)

    def show(self, watched: Watched, now: float) -> None:
        self._live.update(_bar(watched, now))


def _bar(watched: Watched, now: float) -> "Table":
    from rich.progress_bar import ProgressBar
    from rich.spinner import Spinner
    from rich.table import Table
    from rich.text import Text

    row = Table.grid(padding=(0, 1))
    row.add_column(width=2)
    row.add_column(width=22)
    row.add_column(no_wrap=True)
    row.add_row(
        Spinner("dots"),
        ProgressBar(total=watched.total or None, completed=watched.done, pulse=not watched.total),
        Text(watched.line(now)),
    )
    return row


def choose_view(console: "Console") -> View:
    """A drawn line on a terminal, plain lines elsewhere."""
    if console.is_terminal and not console.is_dumb_terminal:
        return Live(console)
    return Lines(lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True))
