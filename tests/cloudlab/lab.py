"""The emulated cloud, by hand.

python tests/cloudlab/lab.py up|down|status|image
python tests/cloudlab/lab.py run -- COMMAND...
"""

import argparse
import os
import sys
import time

from emulated import image, tools
from emulated.folder import LabError, LabFolder
from emulated.lab import Lab
from emulated.wheel import ensure_wheel


def main() -> int:
    """Do what the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["up", "down", "status", "image", "run"])
    parser.add_argument("command", nargs=argparse.REMAINDER, help="after --, for run")
    wanted = parser.parse_args()
    lab = Lab(LabFolder.chosen())
    try:
        return _do(wanted.what, wanted.command, lab)
    except LabError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1


def _do(what: str, command: list[str], lab: Lab) -> int:
    if what == "up":
        began = time.monotonic()
        lab.up(say, kept=True)
        say(f"the emulated cloud is up ({time.monotonic() - began:.1f} s): {lab.endpoint}")
    elif what == "down":
        lab.down()
        say("the emulated cloud is down")
    elif what == "status":
        say(f"up: {lab.endpoint}" if lab.is_up() else "down")
    elif what == "image":
        tools.require_root()
        tools.ensure_programs(say)
        say(str(image.ensure_image(lab.folder, ensure_wheel(lab.folder, say), say)))
    elif what == "run":
        words = lab.command(command[1:] if command[:1] == ["--"] else command)
        os.execvpe(words[0], words, lab.env)
    return 0


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
