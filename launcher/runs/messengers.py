"""Carries notices to people: to a webhook, and to a command. It can hold nothing up.

Each way has a queue and a thread of its own, and a notice has seconds to arrive: whether a webhook
is dead, slow or hostile, the run does not notice, and the other way is not held up either. What did
not arrive is written into `notices.log` in the run's folder, without the webhook's URL, which is a
secret. The two are named by environment variables and never by a recipe: recipes come from
strangers, and must not be able to send anything anywhere.
"""

import json
import logging
import os
import queue
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from launcher.runs.notices import Notice, as_json, for_slack
from recipes.errors import InvalidInputError
from recipes.rundir import open_for_appending

if TYPE_CHECKING:
    import httpx

URL = "STILLHOUSE_NOTIFY_URL"
COMMAND = "STILLHOUSE_NOTIFY_COMMAND"

SLACK = "hooks.slack.com"

ARRIVES_S = 4.0
"""How long a notice may take [s]."""

LAST_WAIT_S = 5.0
"""How long the end of a run waits for notices that are still under way [s]."""


class UndeliveredError(Exception):
    """Why a notice did not arrive, in words that hold no secret."""


class Way(Protocol):
    """One way to tell somebody."""

    @property
    def name(self) -> str:
        """For people, and without a secret."""

    def send(self, notice: Notice, limit_s: float) -> None:
        """Send it.

        Raises:
            UndeliveredError: it did not arrive; nothing else says why in words of ours.
        """


@dataclass(frozen=True)
class Webhook:
    """A POST to a URL, which often holds a secret: it is in no `repr` and in no error."""

    url: str = field(repr=False)
    transport: "httpx.BaseTransport | None" = field(default=None, repr=False)
    """What a test puts in place of the network."""

    @property
    def name(self) -> str:
        return "webhook"

    @property
    def host(self) -> str:
        import httpx

        return httpx.URL(self.url).host

    def send(self, notice: Notice, limit_s: float) -> None:
        import httpx

        logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells the URL of each request
        message = for_slack(notice) if self.host == SLACK else as_json(notice)
        try:
            with (
                httpx.Client(timeout=limit_s, transport=self.transport) as client,
                # Only the first line of the answer is read: the rest may be any size.
                client.stream("POST", self.url, json=message) as answer,
            ):
                status = answer.status_code
        except httpx.HTTPError as error:
            raise UndeliveredError(type(error).__name__) from None  # its words may hold the URL
        if not 200 <= status < 300:
            raise UndeliveredError(f"it answered {status}")


@dataclass(frozen=True)
class Command:
    """A program that is started for each notice and reads its JSON from stdin; no shell."""

    words: tuple[str, ...] = field(repr=False)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)

    @property
    def name(self) -> str:
        return "command"

    def send(self, notice: Notice, limit_s: float) -> None:
        try:
            process = subprocess.Popen(
                self.words,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=dict(self.environ),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise UndeliveredError(f"it cannot be started: {_reason(error)}") from None
        with process:
            try:
                process.communicate(json.dumps(as_json(notice)).encode() + b"\n", limit_s)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # what it has started, too
                raise UndeliveredError(f"it took longer than {limit_s:g} s") from None
        if process.returncode != 0:
            raise UndeliveredError(f"it ended with {process.returncode}")


def ways_of(environ: Mapping[str, str]) -> tuple[Way, ...]:
    """Who is to be told, by the environment; nobody where it says nothing.

    Raises:
        InvalidInputError: a URL is none, or a command has an open quote. Without either's text.
    """
    ways: list[Way] = []
    if url := environ.get(URL, "").strip():
        ways.append(_webhook(url))
    if text := environ.get(COMMAND, "").strip():
        try:
            ways.append(Command(tuple(shlex.split(text)), environ))
        except ValueError as error:
            raise InvalidInputError(
                f"{COMMAND} cannot be split into words: {error}. Quote it as for a shell"
            ) from None
    return tuple(ways)


def _webhook(url: str) -> Webhook:
    import httpx

    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidInputError(f"{URL} has to be a URL that begins with https:// or http://")
    return Webhook(url)


@contextmanager
def messengers(
    ways: tuple[Way, ...],
    log: Path,
    *,
    arrives_s: float = ARRIVES_S,
    last_wait_s: float = LAST_WAIT_S,
) -> Iterator[Callable[[Notice], None] | None]:
    """What takes a notice and returns at once; `None` where nobody is to be told.

    Args:
        log: where it is written what did not arrive.
        arrives_s: how long each notice may take on each way [s].
        last_wait_s: how long the end waits for what is under way, all ways together [s].
    """
    if not ways:
        yield None
        return
    all_of_them = [_Messenger(way, log, arrives_s) for way in ways]

    def notify(notice: Notice) -> None:
        for messenger in all_of_them:
            messenger.take(notice)

    try:
        yield notify
    finally:
        until = time.monotonic() + last_wait_s
        for messenger in all_of_them:
            messenger.finish()
        for messenger in all_of_them:
            messenger.wait(max(0.0, until - time.monotonic()))


class _Messenger:
    """A queue of notices, and the thread that carries them one by one."""

    def __init__(self, way: Way, log: Path, arrives_s: float) -> None:
        self._way = way
        self._log = log
        self._arrives_s = arrives_s
        self._notices: queue.SimpleQueue[Notice | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def take(self, notice: Notice) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._carry, daemon=True)
            self._thread.start()
        self._notices.put(notice)

    def finish(self) -> None:
        self._notices.put(None)

    def wait(self, seconds: float) -> None:
        if self._thread is None:
            return
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._note("the last notices may not have arrived: the run did not wait any longer")

    def _carry(self) -> None:
        while (notice := self._notices.get()) is not None:
            if why := self._why_not_sent(notice):
                self._note(f"{notice.kind} did not arrive: {why}")

    def _why_not_sent(self, notice: Notice) -> str | None:
        """Send a notice in a thread that is left to itself when its time is over.

        A server that answers a byte every few seconds keeps within any timeout of a socket.
        """
        said: list[str | None] = []

        def send() -> None:
            try:
                self._way.send(notice, self._arrives_s)
                said.append(None)
            except UndeliveredError as error:
                said.append(str(error))
            except Exception as error:  # noqa: BLE001 - a notice can fail nothing but itself
                said.append(type(error).__name__)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        sender.join(self._arrives_s + 0.5)  # so that a timeout of its own speaks first
        return said[0] if said else f"it took longer than {self._arrives_s:g} s"

    def _note(self, text: str) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        with suppress(OSError), open_for_appending(self._log) as log:
            log.write(f"{now} {self._way.name}: {text}\n".encode())


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
