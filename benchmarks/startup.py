"""How soon does the command answer? `still --help` and `still check` beside `sky` and `mlflow`.

    python benchmarks/startup.py [--runs 7] [--json]

Each command runs as a process of its own, in turn (A B C D, A B C D, …), after one run of each that
is not counted, so that a machine whose speed drifts slows all alike. Prints the wall time of each
and how many times longer it takes than `still --help`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "still --help": [str(BIN / "still"), "--help"],
    "still check": [str(BIN / "still"), "check", str(ROOT / "recipes" / "quickstart.yaml")],
    "sky --help": [str(BIN / "sky"), "--help"],
    "mlflow --help": [str(BIN / "mlflow"), "--help"],
}


def wall_s(command: list[str], home: str) -> float:
    environ = {**os.environ, "HOME": home, "STILLHOUSE_HOME": home}
    started = time.perf_counter()
    subprocess.run(command, env=environ, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7, help="counted runs of each command")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()

    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as home:
        for number in range(arguments.runs + 1):
            for name, command in COMMANDS.items():
                seconds = wall_s(command, home)
                if number:
                    times[name].append(seconds)

    base = statistics.median(times["still --help"])
    rows = {
        name: {
            "n": len(seen),
            "median_s": round(statistics.median(seen), 3),
            "min_s": round(min(seen), 3),
            "max_s": round(max(seen), 3),
            "times_still_help": round(statistics.median(seen) / base, 1),
        }
        for name, seen in times.items()
    }
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'command':<16}{'median s':>10}{'min':>8}{'max':>8}{'x still --help':>16}")
    for name, row in rows.items():
        print(
            f"{name:<16}{row['median_s']:>10.3f}{row['min_s']:>8.3f}{row['max_s']:>8.3f}"
            f"{row['times_still_help']:>16.1f}"
        )


if __name__ == "__main__":
    main()
