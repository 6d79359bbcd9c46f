"""Simulated worlds by the thousand: `make simulate [SEED=N] [WORLDS=N] [FIRST=N]`.

With SEED one world is lived through, and its whole story printed; else as many as WORLDS says from
FIRST on, on all cores. Ctrl-C ends it with what was seen so far, and with the FIRST to go on from.
Exits with 1 where an invariant was broken, with 130 where it was ended before.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]

from simulated.api import live_api  # noqa: E402 - after the path is set
from simulated.worlds import Result, folder_in_memory, live_many, tell  # noqa: E402

CHUNK = 100
API_WORLDS = 100


@click.command()
@click.option("--seed", type=int, help="Tell the story of this one world.")
@click.option("--worlds", type=int, default=1_000_000, show_default=True)
@click.option("--first", type=int, default=0, help="Seed of the first world.", show_default=True)
def main(seed: int | None, worlds: int, first: int) -> None:
    """Live through simulated worlds."""
    sys.exit(_tell(seed) if seed is not None else _live_all(first, worlds))


def _tell(seed: int) -> int:
    story, broken = tell(seed)
    click.echo("\n".join(story))
    click.echo(f"\n{broken or f'world {seed}: everything held'}")
    return 1 if broken else 0


def _live_all(first: int, worlds: int) -> int:
    whole, began = Result(), time.monotonic()
    # Ctrl-C is for this process; the others end the worlds that they are in.
    ignore = (signal.SIGINT, signal.SIG_IGN)
    pool = ProcessPoolExecutor(os.cpu_count(), initializer=signal.signal, initargs=ignore)
    try:
        for result in pool.map(live_many, _chunks(first, worlds)):
            whole += result
            for message in result.broken.values():
                click.echo(f"\r{message}")
            _show_progress(whole, worlds, time.monotonic() - began)
    except KeyboardInterrupt:
        pass
    finally:
        pool.shutdown(cancel_futures=True)
    _show_summary(whole, first, time.monotonic() - began)
    if whole.worlds < worlds:
        left = f"FIRST={first + whole.worlds} WORLDS={worlds - whole.worlds}"
        click.echo(f"ended before its time; go on with: make simulate {left}")
        return 130
    return _live_apis(first) or int(bool(whole.broken))


def _show_progress(whole: Result, worlds: int, seconds: float) -> None:
    left_minutes = (worlds - whole.worlds) * seconds / whole.worlds / 60
    click.echo(
        f"\r{whole.worlds:,} of {worlds:,} worlds, {len(whole.broken):,} broken, "
        f"{whole.worlds / seconds:.0f} a second, {left_minutes:.0f} minutes left ",
        nl=False,
        err=True,
    )


def _show_summary(whole: Result, first: int, seconds: float) -> None:
    click.echo(err=True)
    click.echo(
        f"{whole.worlds:,} worlds from {first:,} on in {seconds / 60:.1f} minutes "
        f"({whole.worlds / seconds:.0f} a second), {len(whole.broken):,} with a broken invariant; "
        f"highest overshoot {100 * whole.overshoot:.4f} % of the budget"
    )


def _live_apis(first: int) -> int:
    with folder_in_memory() as folder:
        shares = [live_api(seed, folder).overshoot for seed in range(first, first + API_WORLDS)]
    click.echo(
        f"{API_WORLDS} worlds with a teacher's API at 128 streams; highest overshoot "
        f"{100 * max(shares):.4f} % of the budget"
    )
    return 1 if max(shares) > 0 else 0


def _chunks(first: int, worlds: int) -> Iterator[range]:
    for begin in range(first, first + worlds, CHUNK):
        yield range(begin, min(begin + CHUNK, first + worlds))


if __name__ == "__main__":
    main()
