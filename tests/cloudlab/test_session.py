"""When tests get a lab, who takes it down, and what becomes of them without one."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from emulated.folder import LabFolder, LabUnavailable
from emulated.lab import State
from emulated.session import shared


@dataclass
class FakeLab:
    folder: LabFolder
    possible: bool = True
    kept: bool = False
    deeds: list[str] = field(default_factory=list)

    def require(self) -> None:
        if not self.possible:
            raise LabUnavailable("run it as root")

    def up(self, say: Callable[[str], None], *, kept: bool) -> None:
        self.deeds.append("up")

    def down(self) -> None:
        self.deeds.append("down")

    def state(self) -> State:
        return State(pid=1, started=1, port=1, kept=self.kept)


def test_a_lab_that_cannot_be_skips_its_tests_and_says_why(tmp_path: Path) -> None:
    lab = FakeLab(LabFolder(tmp_path), possible=False)

    with pytest.raises(pytest.skip.Exception, match="run it as root"), shared(lab, in_ci=False):
        pass

    assert lab.deeds == []


def test_in_ci_it_fails_them(tmp_path: Path) -> None:
    lab = FakeLab(LabFolder(tmp_path), possible=False)

    with pytest.raises(LabUnavailable), shared(lab, in_ci=True):
        pass


def test_the_last_of_several_takes_it_down(tmp_path: Path) -> None:
    first, last = FakeLab(LabFolder(tmp_path)), FakeLab(LabFolder(tmp_path))

    with shared(last, in_ci=False):
        with shared(first, in_ci=False):
            pass
        assert first.deeds == ["up"]

    assert last.deeds == ["up", "down"]


def test_a_lab_that_was_brought_up_by_hand_stays(tmp_path: Path) -> None:
    lab = FakeLab(LabFolder(tmp_path), kept=True)

    with shared(lab, in_ci=False):
        pass

    assert lab.deeds == ["up"]


def test_it_is_taken_down_also_after_a_failure(tmp_path: Path) -> None:
    lab = FakeLab(LabFolder(tmp_path))

    with pytest.raises(ZeroDivisionError), shared(lab, in_ci=False):
        raise ZeroDivisionError

    assert lab.deeds == ["up", "down"]
