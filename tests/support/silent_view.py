"""A view that keeps what was said, and draws nothing."""

from types import TracebackType
from typing import Self

from launcher.runs.view import Watched


class SilentView:
    """Keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.shown: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def say(self, text: str) -> None:
        self.said.append(text)

    def show(self, watched: Watched, now: float) -> None:
        self.shown.append(watched.line(now))
