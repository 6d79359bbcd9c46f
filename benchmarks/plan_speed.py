"""How long does it take to price and rank offers as whole runs?

    python benchmarks/plan_speed.py [--offers 100000] [--runs 5] [--json]

Makes so many offers up (every GPU of our table, 1 to 8 of them, 1 to 16 machines, spot and on
demand, random prices), plans `recipes/s1.yaml` on them, and prints the CPU time of pricing and
ranking alone and of the whole plan of the best one. The offers are made before the clock starts.
"""

import argparse
import json
import random
import statistics
import time
from decimal import Decimal
from pathlib import Path

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--offers", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()

    recipe = load_recipe(RECIPE)
    facts, offers = read_facts(recipe), made_up(arguments.offers)
    plan_offers(recipe, offers[:1000], facts, NOW)  # the fit of the efficiency, once a process
    ranking: list[float] = []
    planning: list[float] = []
    for _ in range(arguments.runs):
        began = time.process_time()
        ranked = plan_offers(recipe, offers, facts, NOW)
        ranking.append(time.process_time() - began)
        _ = ranked.chosen
        planning.append(time.process_time() - began)
    row = {
        "offers": len(offers),
        "possible": len(ranked),
        "fitting": ranked.fitting,
        "n": arguments.runs,
        "ranked_cpu_s": round(statistics.median(ranking), 3),
        "planned_cpu_s": round(statistics.median(planning), 3),
        "worst_cpu_s": round(max(planning), 3),
    }
    print(json.dumps(row, indent=2) if arguments.json else _line(row))


def _line(row: dict[str, float]) -> str:
    return (
        f"{row['offers']:,} offers, {row['possible']:,} can do the work, {row['fitting']:,} fit: "
        f"ranked in {row['ranked_cpu_s']} s of CPU, planned in {row['planned_cpu_s']} s "
        f"(median of {row['n']}; worst {row['worst_cpu_s']} s)"
    )


if __name__ == "__main__":
    main()
