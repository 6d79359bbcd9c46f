"""What a person wants of a run that another process drives: a file in the run's folder."""

from typing import Literal

from recipes.rundir import RunDir, write_atomically

Wish = Literal["stop", "down"]
"""`stop`: save, then end. `down`: end at once and give everything back."""

_NAME = "wish"


def wish_of(run: RunDir) -> Wish | None:
    """What is wished of a run now."""
    try:
        text = (run.path / _NAME).read_text().strip()
    except FileNotFoundError:
        return None
    return "down" if text == "down" else "stop"


def make_wish(run: RunDir, wish: Wish) -> None:
    """Leave a wish for whoever drives the run."""
    write_atomically(run.path / _NAME, wish.encode())


def forget_wish(run: RunDir) -> None:
    """A run that is resumed goes on, whatever was wished of it before."""
    (run.path / _NAME).unlink(missing_ok=True)
