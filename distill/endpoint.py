"""One request to an OpenAI-compatible `/chat/completions`, and what may come back.

Knows HTTP and JSON, and neither money nor threads' doings: a failure only says whether the request
may have been billed, and when to try again. The key is in one header and nowhere else: no message
of ours carries it, and it is taken out of whatever the endpoint says before anybody reads that.
"""

import email.utils
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import httpx

from distill.context import WorkerError
from recipes.privacy import SHORTEST
from recipes.recipe import ApiTeacher

LARGEST_ANSWER_BYTES = 32 * 2**20
CONNECT_S = 10.0
SILENCE_S = 600.0
"""Longest wait for the next byte: a reasoning model may think for minutes before the first."""

WHOLE_ANSWER_S = 1800.0

LONGEST_RETRY_S = 3600.0
"""However long an endpoint asks to wait, it is asked again after so long."""

WHOLE = ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete")
"""What endpoints call the end of an answer that the model ended itself, in small letters."""

_TRY_AGAIN = (408, 409, 425, 429)
"""Beside 5xx: the endpoint is busy, and has not answered."""

_WAITED_IN_VAIN = (502, 504, 524)
"""A proxy had no answer in time. The model behind it may have written one, and it be billed."""

_UNWANTED = (400, 413, 422)
"""The endpoint will not have this request: for what every request has, or for its prompt."""


@dataclass(frozen=True)
class Reply:
    text: str
    finish: Literal["stop", "length"]
    """`length`: cut off, by its length or by anything else."""
    input_tokens: int | None
    """As the endpoint counted; `None` where it gave no number that can be."""
    output_tokens: int | None
    cut_by: str | None = None
    """The endpoint's word for why it cut the answer off, where that is not the length."""


class TryAgain(Exception):
    """No usable answer this time."""

    def __init__(self, what: str, *, maybe_billed: bool, wait_s: float | None = None) -> None:
        self.what = what
        self.maybe_billed = maybe_billed
        self.wait_s = wait_s
        """What the endpoint asked for, if it did [s]."""
        super().__init__(what, maybe_billed, wait_s)


class Unwanted(Exception):
    """The endpoint refuses this request, and would again; another prompt it may answer."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(what)


class Endpoint:
    """A teacher's address. Safe for threads."""

    def __init__(
        self, teacher: ApiTeacher, key: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._teacher = teacher
        self._key = key
        self._clock = clock
        self._length_field = "max_tokens"
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}", "Accept-Encoding": "identity"},
            timeout=httpx.Timeout(SILENCE_S, connect=CONNECT_S),
            limits=httpx.Limits(max_connections=teacher.concurrency),
        )

    def close(self) -> None:
        self._client.close()

    def ask(self, messages: list[dict[str, str]]) -> Reply:
        """Send one request.

        Raises:
            TryAgain: busy, broken off, or nothing that can be read.
            Unwanted: the endpoint refuses this request. It is not billed.
            WorkerError: the endpoint refuses, and would any other.
        """
        length_field = self._length_field
        status, headers, body = self._post(self._request(messages, length_field))
        if status == 200:
            return _reply(body)
        if status == 400 and length_field == "max_tokens" and b"max_completion_tokens" in body:
            # The newer name of the same field; some endpoints know only the one or the other.
            self._length_field = "max_completion_tokens"
            raise TryAgain("the endpoint wants max_completion_tokens", maybe_billed=False, wait_s=0)
        said = f"{self._teacher.base_url} answers {status}: {_shown(body)}"
        if status in _TRY_AGAIN or status >= 500:
            is_unknown = status in _WAITED_IN_VAIN
            raise TryAgain(said, maybe_billed=is_unknown, wait_s=_retry_after(headers))
        if status in _UNWANTED:
            raise Unwanted(said)
        raise WorkerError("teacher_api", said, _remedy(status, self._teacher))

    def _request(self, messages: list[dict[str, str]], length_field: str) -> dict[str, Any]:
        """Only fields that every endpoint knows: some refuse a request for a further one."""
        sampling = self._teacher.sampling
        request: dict[str, Any] = {
            "model": self._teacher.model,
            "messages": messages,
            "temperature": sampling.temperature,
            length_field: sampling.max_new_tokens,
        }
        if sampling.top_p < 1:
            request["top_p"] = sampling.top_p
        return request

    def _post(self, request: dict[str, Any]) -> tuple[int, httpx.Headers, bytes]:
        url = self._teacher.base_url.rstrip("/") + "/chat/completions"
        try:
            with self._client.stream("POST", url, json=request) as response:
                body = self._without_key(self._body(response))
                return response.status_code, response.headers, body
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise TryAgain(self._broken(error), maybe_billed=False) from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise TryAgain(self._broken(error), maybe_billed=True) from error
        except httpx.InvalidURL as error:
            raise WorkerError(
                "teacher_api", f"{url} is no address: {error}", "Correct teacher.base_url."
            ) from error

    def _body(self, response: httpx.Response) -> bytes:
        began, body = self._clock(), bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > LARGEST_ANSWER_BYTES:
                raise TryAgain(
                    f"an answer is larger than {LARGEST_ANSWER_BYTES / 2**20:g} MiB",
                    maybe_billed=True,
                )
            if self._clock() - began > WHOLE_ANSWER_S:
                raise TryAgain(
                    f"an answer takes longer than {WHOLE_ANSWER_S:g} s", maybe_billed=True
                )
        return bytes(body)

    def _without_key(self, said: bytes) -> bytes:
        """Also as JSON writes it; but no word that stands in for a key where none is wanted."""
        if len(self._key) < SHORTEST:
            return said
        for form in {self._key, json.dumps(self._key)[1:-1], self._key.replace("/", "\\/")}:
            said = said.replace(form.encode(), b"[key]")
        return said

    def _broken(self, error: Exception) -> str:
        said = _shown(self._without_key(str(error).encode()))
        return f"{self._teacher.base_url}: {type(error).__name__} {said}".strip()


def _shown(said: bytes) -> str:
    """What the endpoint said, fit for a message: one short line."""
    text = said.decode(errors="replace")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]


def _reply(body: bytes) -> Reply:
    try:
        answer = json.loads(body)
        choice = answer["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        text = message.get("content") or ""
        # Where the thinking comes apart from the answer, the student is to learn both.
        thinking = message.get("reasoning_content") or message.get("reasoning") or ""
        if not isinstance(text, str) or not isinstance(thinking, str):
            _unreadable(body)
        (text + thinking).encode()
        usage = answer.get("usage")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        _unreadable(body)
    counts = usage if isinstance(usage, dict) else {}
    # Whatever a filter or a fault broke off is no more whole than what the length broke off.
    is_whole = not finish or str(finish).lower() in WHOLE
    return Reply(
        text=f"<think>\n{thinking}\n</think>\n\n{text}" if thinking else text,
        finish="stop" if is_whole else "length",
        cut_by=None if is_whole or finish == "length" else _shown(str(finish).encode())[:40],
        input_tokens=_count(counts.get("prompt_tokens")),
        output_tokens=_count(counts.get("completion_tokens")),
    )


def _unreadable(body: bytes) -> NoReturn:
    shown = body[:80].decode(errors="replace")
    raise TryAgain(f"an answer is no chat completion: {shown!r}", maybe_billed=True) from None


def _count(value: object) -> int | None:
    """A number of tokens, or `None`: neither a prompt nor an answer has none."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return value if is_count else None  # type: ignore[return-value]


def _retry_after(headers: httpx.Headers) -> float | None:
    """Seconds that the endpoint asks to wait, from a number or a date; an hour at most."""
    value = headers.get("retry-after", "").strip()
    try:
        wait_s = float(value)
    except ValueError:
        try:
            wait_s = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return None if math.isnan(wait_s) else min(max(0.0, wait_s), LONGEST_RETRY_S)


def _remedy(status: int, teacher: ApiTeacher) -> str:
    if status in (401, 403):
        return f"Check the key in {teacher.api_key_env}."
    if status == 404:
        return "Check teacher.base_url and teacher.model."
    return "Change the recipe as the endpoint says; what is answered stays."
