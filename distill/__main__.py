"""`python -m distill RUN_DIR` does a run, `python -m distill calibrate RECIPE_JSON` tries it, and
`python -m distill leaving RUN_DIR NODE UNIX_SECONDS` says when a machine switches itself off."""

import sys
import time
from pathlib import Path

from recipes.privacy import keep_private

STARTED = time.time()
"""When this process began [unix seconds]; the heavy imports come after it."""

TRUST = "--trust-remote-code"
USAGE = (
    "usage: python -m distill RUN_DIR"
    f" | python -m distill calibrate RECIPE_JSON [{TRUST}]"
    " | python -m distill leaving RUN_DIR NODE UNIX_SECONDS"
)


def main(arguments: list[str]) -> int:
    """Exit code: 0 done or stopped at a limit, 130 interrupted, else as in `recipes.errors`."""
    match arguments:
        case ["calibrate", recipe, *allowed] if allowed in ([], [TRUST]):
            from distill.calibrate import main as calibrate

            return calibrate(Path(recipe), STARTED, allow_remote_code=bool(allowed))
        case ["leaving", folder, node, at] if node.isdecimal() and at.isdecimal():
            from distill.leaving import main as leaving

            return leaving(Path(folder), int(node), float(at))
        case [folder]:
            from distill.worker import run

            return run(Path(folder))
        case _:
            print(USAGE, file=sys.stderr)  # noqa: T201
            return 2


if __name__ == "__main__":
    keep_private()
    sys.exit(main(sys.argv[1:]))
