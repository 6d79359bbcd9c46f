"""SkyPilot's own wheel, which it builds from its installed files and sends to every node.

It builds it on the first launch, for which pip wants a network; in the lab there is none. So it is
built before, once for each version, by SkyPilot itself.
"""

import sys
from importlib.metadata import version
from pathlib import Path

from emulated.folder import LabError, LabFolder
from emulated.tools import Say, must

_BUILD = """
import shutil
from sky.backends import wheel_utils
copy, _ = wheel_utils.build_sky_wheel()
shutil.rmtree(copy)
"""


def ensure_wheel(folder: LabFolder, say: Say) -> Path:
    """The wheel, in a folder that is named by its hash.

    Raises:
        LabError: SkyPilot cannot build it.
    """
    home = folder.cache / f"skypilot-{version('skypilot')}"
    if not _built(home):
        say("building SkyPilot's wheel")
        home.mkdir(parents=True, exist_ok=True)
        settings = {"HOME": str(home), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
        must([sys.executable, "-c", _BUILD], "build SkyPilot's wheel", **settings)
    wheels = _built(home)
    if len(wheels) != 1:
        raise LabError(f"SkyPilot left {len(wheels)} wheels below {home}: remove that folder")
    return wheels[0]


def _built(home: Path) -> list[Path]:
    return sorted((home / ".sky" / "wheels").glob("*/skypilot-*.whl"))
