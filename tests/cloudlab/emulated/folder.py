"""Where the lab keeps its things, and the errors a person can act on.

<lab>/cache, tools, moto   made once, kept
<lab>/image/<key>          root filesystem of the hosts, kept as long as its key holds
<lab>/logs                 of the last start; written over by the next
<lab>/run                  everything of a lab that is up: gone when it is down
<lab>/beside/<name>        another lab, on the same tools and image
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

ENDPOINT = "http://10.77.0.254:5566"
"""Where the emulated AWS answers, inside the lab: the same for launcher and hosts."""

GATEWAY = "10.77.0.254"
"""Our own address on the lab's bridge."""

REPOSITORY = Path(__file__).parents[3]
SCRIPTS = Path(__file__).parents[1]
"""Folder of the lab's files; `emulated` is imported from here."""


class LabError(Exception):
    """The lab cannot start or go on. Says what is missing and what mends it."""


class LabUnavailable(LabError):
    """This machine cannot have a lab: not root, another Python, a program that is missing."""


MADE_ONCE = ("cache", "tools", "moto", "image")
"""What several labs may share: nobody writes to it while they run."""


@dataclass(frozen=True)
class LabFolder:
    """The layout of one lab. Two labs in two folders share nothing that changes."""

    path: Path

    @classmethod
    def chosen(cls) -> "LabFolder":
        """`$STILLHOUSE_LAB`, or `.cloudlab` in the repository."""
        named = os.environ.get("STILLHOUSE_LAB")
        return cls((Path(named) if named else REPOSITORY / ".cloudlab").resolve())

    def beside(self, name: str) -> "LabFolder":
        """Another lab, on what is made once for this one."""
        other = self.path / "beside" / name
        other.mkdir(parents=True, exist_ok=True)
        for made in MADE_ONCE:
            (self.path / made).mkdir(exist_ok=True)
            if not (other / made).is_symlink():
                (other / made).symlink_to(self.path / made)
        return LabFolder(other)

    @property
    def maker(self) -> "LabFolder":
        """The lab whose tools and image this one uses: itself, unless it is beside another."""
        return LabFolder(self.cache.resolve().parent)

    @property
    def mark(self) -> str:
        """Eight hexadecimal digits that tell this lab from others on the same machine."""
        return hashlib.sha256(str(self.path).encode()).hexdigest()[:8]

    @property
    def cache(self) -> Path:
        return self.path / "cache"

    @property
    def uv(self) -> Path:
        return self.path / "tools" / "bin" / "uv"

    @property
    def moto_python(self) -> Path:
        return self.path / "moto" / "bin" / "python"

    @property
    def images(self) -> Path:
        return self.path / "image"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def run(self) -> Path:
        return self.path / "run"

    @property
    def state(self) -> Path:
        return self.run / "lab.json"

    @property
    def home(self) -> Path:
        """`HOME` of every command that runs in the lab; nobody's real home is touched."""
        return self.run / "home"

    @property
    def hosts(self) -> Path:
        return self.run / "hosts"
