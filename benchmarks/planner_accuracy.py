"""How far the estimate of training is off on runs that people published.

    python benchmarks/planner_accuracy.py --runs FILE.csv [--json]

Each row's GPU-hours are predicted from what was known before it ran (published_runs.py says what
that is) and put beside the stated figure. A row that the shipped evidence holds is predicted by a
fit without it, and without every other row of its project, because rows of one project share a
team, a stack and a way of measuring: leaving out one row alone would look better than it is. Rows
that are not in the evidence are predicted by the shipped fit. Printed beside these figures: those
of leaving out one row alone, of the expectations before any run, and of a fit that trusts its
expectations four times less, to show how much of the accuracy comes from which.

Counted are rows of tier A and B with time, hardware and tokens whose figures can be true. An error
is |P50 - stated| / stated. Rows without tokens get a rate, and rows whose figures cannot be true a
reason.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from published_runs import Run, UnreadableRuns, read_runs

from launcher.estimate.efficiency import Efficiency, fit, fitted
from launcher.estimate.evidence import Evidence, published
from launcher.estimate.quantiles import Quantiles
from launcher.estimate.training import estimate_training

Keep = Callable[[Evidence, Run], bool]
"""Whether another row of the evidence may inform the prediction of a run that it holds."""


@dataclass(frozen=True)
class Prediction:
    run: Run
    gpu_hours: Quantiles | None
    """[GPU-hours]; `None` where the row's tokens are not known."""
    tokens_per_gpu_s: Quantiles
    """[tokens/s] of one GPU."""
    held_out: bool
    """The evidence holds this row, so it was predicted without its project."""
    notes: tuple[str, ...]

    @property
    def counted(self) -> bool:
        """Tier A or B, with time, hardware and tokens, and figures that can be true."""
        run = self.run
        return bool(run.tier in ("A", "B") and self.gpu_hours and run.gpu_hours and not run.faults)


def main(arguments_given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True, help="table of published runs")
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_args(arguments_given)
    try:
        runs = read_runs(arguments.runs)
    except UnreadableRuns as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    report = accuracy(runs)
    print(json.dumps(report, indent=2) if arguments.json else shown(report))
    return 0


def accuracy(runs: list[Run]) -> dict[str, Any]:
    """Everything that is printed, as one document."""
    predictions = _predict_all(runs, _other_project)
    held_out = sum(predicted.held_out for predicted in predictions)
    flagged = [{"id": run.id, "why": "; ".join(run.faults)} for run in runs if run.faults]
    report: dict[str, Any] = {
        "kept_apart": f"{held_out} rows were fitted on: predicted without their project"
        if held_out
        else "no row was fitted on",
        **_summary(predictions),
        "impossible_flagged": len(flagged),
        "flagged": flagged,
        "left_out": [{"id": run.id, "why": run.unknown} for run in runs if run.unknown],
        "rows": [_row(predicted) for predicted in predictions],
    }
    if held_out:
        report |= {
            "leaving_out_one_row_alone": _summary(_predict_all(runs, _any_other_row)),
            "expectations_before_any_run": _summary(_predict_all(runs, _nothing)),
            "expectations_held_4_times_looser": _summary(_predict_all(runs, _other_project, 4.0)),
        }
    return report


def _predict_all(runs: list[Run], keep: Keep, looseness: float = 1.0) -> list[Prediction]:
    return [predicted for run in runs if (predicted := predict(run, keep, looseness))]


def predict(run: Run, keep: Keep, looseness: float = 1.0) -> Prediction | None:
    """What the estimate says of a run; `None` where its machine or model is not known."""
    if run.work is None or run.machine is None:
        return None
    itself = next((row for row in published() if _is_the_same(row, run)), None)
    known = fitted()
    if itself:
        others = [row for row in published() if row is not itself and keep(row, run)]
        known = _fit(tuple(row.id for row in others), looseness)
    estimate = estimate_training(run.work, run.machine, known)
    hours = estimate.gpu_hours
    rates = (run.work.train_tokens / 3600 / each for each in (hours.p90, hours.p50, hours.p10))
    return Prediction(
        run=run,
        gpu_hours=hours if run.tokens else None,
        tokens_per_gpu_s=Quantiles(*rates),
        held_out=itself is not None,
        notes=estimate.notes,
    )


def _is_the_same(row: Evidence, run: Run) -> bool:
    """By its id, or by its figures under another one."""
    if row.id == run.id:
        return True
    if run.work is None or run.machine is None or run.tokens_per_gpu_s is None:
        return False
    return (
        row.machine.gpu == run.machine.gpu
        and math.isclose(row.work.params, run.work.params, rel_tol=1e-4)
        and math.isclose(row.tokens_per_gpu_s, run.tokens_per_gpu_s, rel_tol=1e-4)
    )


def _other_project(row: Evidence, run: Run) -> bool:
    return row.project != run.project


def _any_other_row(_row: Evidence, _run: Run) -> bool:
    return True


def _nothing(_row: Evidence, _run: Run) -> bool:
    return False


@cache
def _fit(ids: tuple[str, ...], looseness: float) -> Efficiency:
    return fit([row for row in published() if row.id in ids], looseness=looseness)


# ---- figures -----------------------------------------------------------------------------------


def _summary(predictions: list[Prediction]) -> dict[str, float | int | None]:
    counted = [predicted for predicted in predictions if predicted.counted]
    errors = sorted(_error(predicted) for predicted in counted)
    inside = [_inside(predicted) for predicted in counted]
    return {
        "n": len(counted),
        "median_abs_error": round(statistics.median(errors), 4) if errors else None,
        "p90_abs_error": round(_quantile(errors, 0.9), 4) if errors else None,
        "coverage_p10_p90": round(statistics.mean(inside), 4) if inside else None,
    }


def _error(predicted: Prediction) -> float:
    assert predicted.gpu_hours
    assert predicted.run.gpu_hours
    return abs(predicted.gpu_hours.p50 / predicted.run.gpu_hours - 1)


def _inside(predicted: Prediction) -> bool:
    assert predicted.gpu_hours
    assert predicted.run.gpu_hours
    return predicted.gpu_hours.p10 <= predicted.run.gpu_hours <= predicted.gpu_hours.p90


def _quantile(ordered: list[float], share: float) -> float:
    """Linear between neighbours, as statistics packages do it."""
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def _row(predicted: Prediction) -> dict[str, Any]:
    run, hours = predicted.run, predicted.gpu_hours
    quantiles = hours or predicted.tokens_per_gpu_s
    return {
        "id": run.id,
        "tier": run.tier,
        "counted": predicted.counted,
        "unit": "gpu_hours" if hours else "tokens_per_gpu_s",
        "p10": quantiles.p10,
        "p50": quantiles.p50,
        "p90": quantiles.p90,
        "stated": run.gpu_hours if hours else run.tokens_per_gpu_s,
        "kept_apart": predicted.held_out,
        "faults": list(run.faults),
        "notes": list(predicted.notes),
    }


def shown(report: dict[str, Any]) -> str:
    """The report as a person reads it."""
    lines = [f"{'run':36} {'tier':4} {'P10':>10} {'P50':>10} {'P90':>10} {'stated':>10}  unit"]
    for row in report["rows"]:
        figures = " ".join(f"{_figure(row[name]):>10}" for name in ("p10", "p50", "p90", "stated"))
        unit = "GPU-h" if row["unit"] == "gpu_hours" else "tok/s/GPU"
        mark = "" if row["counted"] else "  (not counted)"
        lines.append(f"{row['id'][:36]:36} {row['tier']:4} {figures}  {unit}{mark}")
    for title, name in (("cannot be true", "flagged"), ("not predicted", "left_out")):
        lines.append(f"\n{title}:")
        lines += [f"  {row['id']}: {row['why']}" for row in report[name]]
    lines += ["", report["kept_apart"]]
    lines.append(_summary_line("the figures", report))
    others = [name for name, part in report.items() if isinstance(part, dict)]
    lines += [_summary_line(name.replace("_", " "), report[name]) for name in others]
    return "\n".join([*lines, f"impossible_flagged {report['impossible_flagged']}"])


def _summary_line(title: str, figures: dict[str, Any]) -> str:
    names = ("n", "median_abs_error", "p90_abs_error", "coverage_p10_p90")
    said = "  ".join(f"{name} {_figure(figures[name])}" for name in names)
    return f"{title + ':':34} {said}"


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}"


if __name__ == "__main__":
    sys.exit(main())
