"""The scripts of a host are clean shell."""

import subprocess
import sys
from pathlib import Path

import pytest

GUEST = Path(__file__).parent / "guest"


@pytest.mark.parametrize("script", sorted(path.name for path in GUEST.iterdir()))
def test_shellcheck_finds_nothing(script: str) -> None:
    checked = subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), "--severity=style", GUEST / script],
        capture_output=True,
        text=True,
    )

    assert checked.stdout == ""
    assert checked.returncode == 0
