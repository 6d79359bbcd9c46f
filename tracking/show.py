"""Receipts, runs and comparisons as a person reads them: 80 columns, and plain text in a pipe.

Only how things look. Every figure comes from `receipt`, `books` or `compare`; a figure that nobody
knows is printed as `unknown`.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from recipes.durations import format_seconds
from recipes.money import SECONDS_PER_HOUR, format_usd, from_micro_usd
from recipes.rundir import Score
from tracking.books import Books
from tracking.compare import Comparison, Difference, Row, ScoreDifference
from tracking.entries import LINES, TERMINAL, RunState
from tracking.receipt import Receipt

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

_STYLES: Mapping[RunState, str] = {"done": "green", "stopped": "yellow", "failed": "red"}


# ---- a receipt


def render_receipt(receipt: Receipt) -> "RenderableType":
    """One run, from its dollars to what they leave out."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_title(receipt), Text(), _money(receipt)]
    parts += [Text(), _lines(receipt)]
    if receipt.scores:
        parts += [Text(), _scores(receipt.scores)]
    parts += [Text(), _facts(receipt)]
    for heading, sentences in (
        ("Warnings", receipt.warnings),
        ("The dollars cover", receipt.included),
        ("They leave out", receipt.not_included),
    ):
        if sentences:
            parts += [Text(), Text(heading, style="bold"), _bullets(sentences)]
    return Group(*parts)


def _title(receipt: Receipt) -> "Text":
    from rich.text import Text

    title = Text.assemble(
        (receipt.run_id, "bold"), "  ", (receipt.status, _STYLES.get(receipt.status, "cyan"))
    )
    if receipt.reason:
        title.append(f"\n{receipt.reason}")
    return title


def _money(receipt: Receipt) -> "Table":
    table = _grid()
    estimated = receipt.estimated_usd
    spread = (
        f"between {format_usd(estimated.p10)} and {format_usd(estimated.p90)} in 8 runs of 10"
        if estimated.p50 is not None
        else ""
    )
    reserved = (
        f", {format_usd(receipt.reserved_usd)} more is reserved" if receipt.reserved_usd else ""
    )
    billed = {None: "", True: "final, by ", False: "may still change, by "}[receipt.billed_final]
    _add(table, "estimated", format_usd(estimated.p50), spread)
    _add(
        table,
        "metered",
        format_usd(receipt.metered_usd),
        f"of a budget of {format_usd(receipt.budget_usd)}{reserved}",
    )
    _add(table, "billed", format_usd(receipt.billed_usd), billed + (receipt.billed_source or ""))
    return table


def _lines(receipt: Receipt) -> "Table":
    table = _table(("Line", "left"), ("Dollars", "right"), ("Time", "right"))
    digits = _digits(receipt.lines.values())
    for line in LINES:
        usd, seconds = receipt.lines.get(line), receipt.stages.get(line)
        if usd or seconds:
            # Time that is not settled yet has a price that nobody has written down.
            cost = "not settled" if usd is None else _usd(usd, digits)
            _add(table, line, cost, "" if seconds is None else format_seconds(seconds))
    table.add_section()
    _add(table, "total", _usd(receipt.metered_usd, digits), format_seconds(receipt.metered_s))
    return table


def _scores(scores: Mapping[str, Score]) -> "Table":
    table = _table(("Score", "left"), ("Value", "right"), ("Answered", "right"))
    for task, score in scores.items():
        cut = f", {score.truncated:,} cut off" if score.truncated else ""
        _add(table, task, _score(score), f"{score.n:,} of {score.of:,}{cut}")
    return table


def _facts(receipt: Receipt) -> "Table":
    table = _grid()
    _add(table, "recipe", receipt.recipe)
    _add(table, "launched", _moment(receipt.opened_at))
    _add(table, "wall time", format_seconds(receipt.wall_s))
    _add(table, "machine", _machine(receipt))
    if receipt.of_steps is not None:
        _add(table, "training", f"{receipt.steps:,} of {receipt.of_steps:,} steps")
    if receipt.teacher:
        teacher = receipt.teacher
        _add(
            table,
            "teacher",
            f"{teacher.answers:,} answers, {teacher.output_tokens:,} tokens; {teacher.cached:,} "
            f"from an earlier run, {teacher.truncated:,} cut off and left out",
        )
    if len(receipt.attempts) > 1:
        ends = ", ".join(attempt.how or "going on" for attempt in receipt.attempts)
        _add(table, "attempts", f"{len(receipt.attempts)}: {ends}")
    proved = {True: "proved", False: "NOT DONE", None: "unproved"}[receipt.teardown.proved]
    _add(table, "teardown", f"{proved} ({receipt.teardown.detail})")
    return table


def _machine(receipt: Receipt) -> str:
    price = receipt.price
    if price is None:
        return "none" if receipt.status in TERMINAL else "none yet"
    seen = "" if price.as_of is None else f", seen {_moment(price.as_of)}"
    offer = price.offer or "unknown"
    return f"{offer} at ${price.usd_per_hour.normalize():f}/h (by {price.source}{seen})"


# ---- runs


def render_runs(runs: Sequence[Books]) -> "Table":
    """All runs, a line each. When each was launched stands in its id."""
    table = _table(("Run", "left"), ("State", "left"), ("Spent", "right"), ("Budget", "right"))
    # An id that is broken over two lines is hard to copy; a very long one is worth no other column.
    longest = max((len(books.run_id) for books in runs), default=0)
    table.columns[0].min_width, table.columns[0].overflow = min(longest, 36), "fold"
    for books in runs:
        budget = format_usd(from_micro_usd(books.budget_micro_usd))
        _add(table, books.run_id, _state(books.state), _spent(books), budget)
    return table


def _spent(books: Books) -> str:
    """What a run has cost; where something is not settled yet, what it may come to."""
    most = format_usd(from_micro_usd(books.spent_micro_usd + books.reserved_micro_usd))
    return f"up to {most}" if books.reservations else most


def runs_json(runs: Iterable[Books]) -> list[dict[str, Any]]:
    """The same for programs: dollars as strings, moments in unix seconds."""
    return [
        {
            "run_id": books.run_id,
            "recipe": books.recipe_name,
            "status": books.state,
            "reason": books.reason,
            "opened_at": books.opened_at,
            "metered_usd": str(from_micro_usd(books.spent_micro_usd)),
            "reserved_usd": str(from_micro_usd(books.reserved_micro_usd)),
            "budget_usd": str(from_micro_usd(books.budget_micro_usd)),
            "attempts": len(books.attempts),
        }
        for books in runs
    ]


# ---- a comparison


def render_comparison(comparison: Comparison) -> "RenderableType":
    """Runs side by side; those on the cost-quality frontier are marked."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_comparison_table(comparison)]
    said = list(comparison.notes)
    if comparison.task:
        said = [
            f"*        no other run here is as cheap and as good in {comparison.task}",
            f"$/point  dollars for each hundredth of {comparison.task}",
            *said,
        ]
    if comparison.difference:
        said += _difference(comparison)
    if said:
        parts += [Text(), *(Text(sentence) for sentence in said)]
    return Group(*parts)


def _comparison_table(comparison: Comparison) -> "Table":
    tasks = list(dict.fromkeys(task for row in comparison.rows for task in row.scores))
    table = _table(
        ("", "left"),
        ("Run", "left"),
        ("State", "left"),
        ("Dollars", "right"),
        ("Time", "right"),
        *((task, "right") for task in tasks),
        ("$/point", "right"),
    )
    digits = _digits(row.usd + row.reserved_usd for row in comparison.rows)
    point_digits = _digits(row.usd_per_point for row in comparison.rows)
    for row in comparison.rows:
        scores = (
            _partial_score(row.scores[task]) if task in row.scores else "unknown" for task in tasks
        )
        _add(
            table,
            "*" if row.on_frontier else "",
            _broken_behind(row.recipe, row.run_id),
            _state(row.status),
            _dollars(row, digits),
            format_seconds(row.hours * SECONDS_PER_HOUR),
            *scores,
            _usd(row.usd_per_point, point_digits),
        )
    return table


def _dollars(row: Row, digits: int) -> str:
    """What a run has cost; where something is not settled yet, what it may come to."""
    if row.reserved_usd:
        return f"up to {_usd(row.usd + row.reserved_usd, digits)}"
    return f"{_usd(row.usd, digits)}{'' if row.status in TERMINAL else ' so far'}"


def _difference(comparison: Comparison) -> list[str]:
    difference = comparison.difference
    assert difference is not None, "asked only where two runs are compared"
    first, second = comparison.rows
    said = [f"{second.run_id} beside {first.run_id}:", f"- {_more_or_less(difference)}"]
    return said + [f"- {_verdict(score)}" for score in difference.scores]


def _more_or_less(difference: Difference) -> str:
    usd, seconds = difference.usd, difference.hours * SECONDS_PER_HOUR
    dollars = f"{format_usd(abs(usd))} {'more' if usd > 0 else 'less'}" if usd else "as dear"
    if usd is None:
        dollars = "dollars not settled yet"
    longer = f"{format_seconds(abs(seconds))} {'longer' if seconds > 0 else 'shorter'}"
    return f"{dollars}, {longer if abs(seconds) >= 0.05 else 'as long'}"


def _verdict(score: ScoreDifference) -> str:
    figures = f"{score.task} {score.value:+.3f} ± {score.stderr:.3f}"
    if not score.beyond_error:
        return f"{figures}: within the error, so neither can be called better"
    return f"{figures}: {'better' if score.value > 0 else 'worse'}, beyond the error"


# ---- pieces


def _grid() -> "Table":
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    return table


def _table(*columns: tuple[str, str]) -> "Table":
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(box=SIMPLE, pad_edge=False, show_edge=False, header_style="bold")
    for heading, justify in columns:
        table.add_column(heading, justify="right" if justify == "right" else "left")
    return table


def _add(table: "Table", *cells: "str | Text") -> None:
    """A row of plain text: brackets in a person's words are no markup."""
    from rich.text import Text

    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def _bullets(sentences: Iterable[str]) -> "Table":
    from rich.table import Table

    table = Table.grid(padding=(0, 1))
    for sentence in sentences:
        _add(table, "-", sentence)
    return table


def _state(state: RunState) -> "Text":
    from rich.text import Text

    return Text(state, style=_STYLES.get(state, "cyan"))


def _score(score: Score) -> str:
    return f"{score.value:.3f} ± {score.stderr:.3f}" if score.n else "unknown"


def _usd(amount: Decimal | None, digits: int) -> str:
    return "unknown" if amount is None else f"${amount:,.{digits}f}"


def _digits(amounts: Iterable[Decimal | None]) -> int:
    """Decimals for a column of dollars: as few as show no line as nothing.

    >>> _digits([Decimal("3.2"), Decimal("0.004")])
    4
    """
    smallest = min((amount for amount in amounts if amount), default=Decimal(1))
    return next((digits for digits in (2, 4) if smallest >= Decimal(1).scaleb(-digits)), 6)


def _partial_score(score: Score) -> str:
    partial = f"\n{score.n:,} of {score.of:,}" if 0 < score.n < score.of else ""
    return _score(score) + partial


def _broken_behind(recipe: str, run_id: str) -> str:
    """An id begins with its recipe's name: a break behind it keeps the column narrow."""
    rest = run_id.removeprefix(f"{recipe}-")
    return run_id if rest == run_id else f"{recipe}-\n{rest}"


def _moment(t: float) -> str:
    """
    >>> _moment(0)
    '1970-01-01 00:00 UTC'
    """
    return datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%d %H:%M UTC")
