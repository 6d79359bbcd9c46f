"""How long does it take to price and rank offers as whole runs, and to plan a run from a shell?

    python benchmarks/plan_speed.py [--offers 100000] [--runs 5] [--only-offers] [--json]

First, so many offers are made up (every GPU of our table, 1 to 8 of them, 1 to 16 machines, spot
and on demand, random prices), and `recipes/s1.yaml` is planned on them: the CPU time of pricing and
ranking alone, and of the whole plan of the best one. The offers are made before the clock starts.

Then `still plan recipes/s1.yaml` and `sky launch --dryrun` of the same machines (2 x H100:8, spot,
on AWS) run in turn on the frozen price catalogs, each as a process, after one of each that is not
counted. SkyPilot's API server is started beforehand and its time is not counted. Both have to
choose the same offer.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path

from sky_offline import SKY, offline_sky

from launcher.estimate.gpus import all_gpus
from launcher.market.offers import Offer
from launcher.plans.planner import plan_offers
from launcher.plans.read_facts import read_facts
from recipes.loading import load_recipe

RECIPE = Path(__file__).parents[1] / "recipes" / "s1.yaml"
NOW = 1_800_000_000.0


def made_up(count: int) -> list[Offer]:
    """Offers by chance, always the same ones. A type of machine has GPUs of one kind and number."""
    chance = random.Random(0)
    gpus = [gpu.name for gpu in all_gpus()]
    offers = []
    for number in range(count):
        gpu, gpus_per_node = chance.choice(gpus), chance.choice((1, 2, 4, 8))
        offers.append(
            Offer(
                cloud=chance.choice(("aws", "gcp", "azure", "lambda")),
                region=f"region-{chance.randrange(30)}",
                zone=f"zone-{number}",
                instance_type=f"{gpu}x{gpus_per_node}",
                accelerator=gpu,
                accelerators=gpus_per_node,
                nodes=chance.choice((1, 2, 4, 8, 16)),
                spot=chance.random() < 0.5,
                usd_per_hour=Decimal(chance.randrange(100, 100_000)) / 1000,
                source="made up",
            )
        )
    return offers


TASK = """\
name: s1
num_nodes: 2
resources: {infra: aws, accelerators: "H100:8", use_spot: true}
run: "true"
"""

CHOSEN = ("us-east-2a", "39.74")
"""Zone and price of the offer that both have to choose."""


def offers_row(count: int, runs: int) -> dict[str, float]:
    """CPU seconds to plan on so many offers."""
    recipe = load_recipe(RECIPE)
    facts, offers = read_facts(recipe), made_up(count)
    plan_offers(recipe, offers[:1000], facts, NOW)  # the fit of the efficiency, once a process
    ranking: list[float] = []
    planning: list[float] = []
    for _ in range(runs):
        began = time.process_time()
        ranked = plan_offers(recipe, offers, facts, NOW)
        ranking.append(time.process_time() - began)
        _ = ranked.chosen
        planning.append(time.process_time() - began)
    return {
        "offers": len(offers),
        "possible": len(ranked),
        "fitting": ranked.fitting,
        "n": runs,
        "ranked_cpu_s": round(statistics.median(ranking), 3),
        "planned_cpu_s": round(statistics.median(planning), 3),
        "worst_cpu_s": round(max(planning), 3),
    }


def shell_row(runs: int) -> dict[str, float]:
    """Wall seconds of `still plan` and of `sky launch --dryrun`, and how many times longer."""
    with tempfile.TemporaryDirectory() as folder, offline_sky(Path(folder)) as environ:
        task = Path(folder) / "s1.yaml"
        task.write_text(TASK)
        own = {**os.environ, "HOME": folder, "STILLHOUSE_HOME": folder}
        still = [str(SKY.with_name("still")), "plan", str(RECIPE)]
        sky = [str(SKY), "launch", "--dryrun", "--yes", str(task)]
        times: dict[str, list[float]] = {"still": [], "sky": []}
        for number in range(runs + 1):
            for name, words, env in (("still", still, own), ("sky", sky, environ)):
                seconds = _wall_s(words, env)
                if number:
                    times[name].append(seconds)
    medians = {name: statistics.median(seen) for name, seen in times.items()}
    return {
        "n": runs,
        "still_plan_s": round(medians["still"], 3),
        "still_plan_worst_s": round(max(times["still"]), 3),
        "sky_dryrun_s": round(medians["sky"], 3),
        "sky_dryrun_best_s": round(min(times["sky"]), 3),
        "times_faster": round(medians["sky"] / medians["still"], 1),
    }


def _wall_s(words: list[str], environ: dict[str, str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode or not all(part in done.stdout for part in CHOSEN):
        sys.exit(f"{' '.join(words[:3])} did not choose {CHOSEN}: {done.stdout}{done.stderr}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--offers", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only-offers", action="store_true", help="without SkyPilot beside it")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()

    rows = {"offers": offers_row(arguments.offers, arguments.runs)}
    if not arguments.only_offers:
        rows["shell"] = shell_row(arguments.runs)
    print(json.dumps(rows, indent=2) if arguments.json else "\n".join(_lines(rows)))


def _lines(rows: dict[str, dict[str, float]]) -> list[str]:
    row = rows["offers"]
    lines = [
        f"{row['offers']:,} offers, {row['possible']:,} can do the work, {row['fitting']:,} fit: "
        f"ranked in {row['ranked_cpu_s']} s of CPU, planned in {row['planned_cpu_s']} s "
        f"(median of {row['n']}; worst {row['worst_cpu_s']} s)"
    ]
    if shell := rows.get("shell"):
        lines.append(
            f"still plan {shell['still_plan_s']} s (worst {shell['still_plan_worst_s']} s), sky "
            f"launch --dryrun {shell['sky_dryrun_s']} s (best {shell['sky_dryrun_best_s']} s): "
            f"{shell['times_faster']} times faster (medians of {shell['n']}, wall time)"
        )
    return lines


if __name__ == "__main__":
    main()
