"""Write launcher/estimate/evidence.csv: what published runs reached, in the estimate's own terms.

    python benchmarks/fit_efficiency.py --runs FILE.csv [--out PATH]

Rows with a rate, a known GPU and a known size become evidence; rows that cannot be true do not.
The regression itself is solved when the table is read (launcher/estimate/efficiency.py), so the
table is the whole of the fit. Printed: each effect before and after.
"""

import argparse
import csv
import sys
from pathlib import Path

from published_runs import Run, UnreadableRuns, read_runs

from launcher.estimate.effects import EFFECTS
from launcher.estimate.efficiency import fit
from launcher.estimate.evidence import EVIDENCE_COLUMNS, Evidence, write_evidence

SHIPPED = Path(__file__).parent.parent / "launcher" / "estimate" / "evidence.csv"


def as_evidence(run: Run) -> Evidence | None:
    """A run as evidence; `None` where something is missing, or its figures cannot be true."""
    if not (run.work and run.machine and run.tokens_per_gpu_s) or run.faults:
        return None
    return Evidence(run.id, run.project, run.work, run.machine, run.tokens_per_gpu_s)


def main(arguments_given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True, help="table of published runs")
    parser.add_argument("--out", type=Path, default=SHIPPED, help="where the evidence goes")
    arguments = parser.parse_args(arguments_given)
    try:
        runs = read_runs(arguments.runs)
    except UnreadableRuns as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    evidence = [row for run in runs if (row := as_evidence(run))]
    with arguments.out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, EVIDENCE_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(write_evidence(row) for row in evidence)
    after = fit(evidence).coefficients()
    print(f"{len(evidence)} of {len(runs)} rows are evidence: {arguments.out}")
    print(f"{'effect':18} {'expected':>14} {'after the runs':>16}")
    for effect in EFFECTS:
        mean, sd = after[effect.name]
        print(
            f"{effect.name:18} {effect.expected:6.2f} ± {effect.doubt:.2f}  {mean:8.2f} ± {sd:.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
