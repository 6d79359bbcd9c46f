"""A teacher behind an endpoint: no dollar above the limit, no paid answer lost, no key let out."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.context import Context, StageStopped, Stop, WorkerError
from distill.data import load_rows
from distill.endpoint import LONGEST_RETRY_S, Endpoint, Reply, TryAgain, _reply, _retry_after
from distill.generate import generate, read_traces, training_rows
from distill.teacher_api import Patience, api_key, ask_endpoint, worst_input_tokens
from distill.traces import TraceLog, jobs
from recipes.recipe import ApiTeacher, Recipe
from recipes.rundir import (
    ApiReserved,
    ApiUsage,
    Generated,
    Limits,
    Progress,
    Warned,
    asked_micro_usd,
    attempt_events,
    read_events,
)

KEY = "sk-very-secret-0123456789"
ENVIRON = {"OPENAI_API_KEY": KEY}
INPUT_PRICE, OUTPUT_PRICE = Decimal("3"), Decimal("15")
MAX_NEW = 50
MakeContext = Callable[..., Context]

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""


def completion(
    text: str = "7", finish: str | None = "stop", usage: Any = "right", **message: Any
) -> bytes:
    answer: dict[str, Any] = {
        "choices": [{"message": {"content": text, **message}, "finish_reason": finish}]
    }
    if usage == "right":
        usage = {"prompt_tokens": 11, "completion_tokens": 5}
    if usage is not None:
        answer["usage"] = usage
    return json.dumps(answer).encode()


@dataclass
class Server:
    """A small endpoint of ours on the loopback, which keeps count."""

    behave: Callable[[dict[str, Any], int], Answer | None] = lambda _request, _n: (
        200,
        {},
        completion(),
    )
    """From a request and its number to the answer; `None` drops the connection."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    base_url: str = ""

    def prompts(self) -> Counter[str]:
        return Counter(request["messages"][-1]["content"] for request in self.asked)


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is part of the tests."""


@pytest.fixture
def server() -> Iterator[Server]:
    ours = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with ours.lock:
                number = len(ours.asked)
                ours.asked.append(request)
                ours.keys.add(self.headers["Authorization"])
            answer = ours.behave(request, number)
            if answer is None:
                self.close_connection = True
                return
            status, headers, body = answer
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = "Content-Length" in headers  # it said more than there is

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    http = QuietServer(("127.0.0.1", 0), Handler)
    ours.base_url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield ours
    http.shutdown()
    http.server_close()
    thread.join()


class FakeTime:
    """A clock that only sleeping moves on."""

    def __init__(self) -> None:
        self._now = 0.0
        self._lock = threading.Lock()

    def now(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self._now += seconds
        time.sleep(0)

    def patience(self) -> Patience:
        return Patience(self.now, self.sleep, grace_s=0.5)


class StopWhen(Stop):
    """A stop for this reason as soon as this is so."""

    def __init__(self, reason: str, condition: Callable[[], bool]) -> None:
        super().__init__(Limits(attempt=1, started_at=0, usd_per_hour=0, machine_usd=0))
        self._reason = reason
        self._condition = condition

    def due(self, reserve_s: float = 0.0) -> Any:
        return self._reason if self._condition() else None


@pytest.fixture
def api_recipe(server: Server, make_recipe: Callable[..., Recipe]) -> Callable[..., Recipe]:
    """20 additions, asked of our server."""

    def make(concurrency: int = 4, rows: int = 20, **sampling: Any) -> Recipe:
        teacher = {
            "kind": "api",
            "base_url": server.base_url,
            "model": "big",
            "concurrency": concurrency,
            "sampling": {"max_new_tokens": MAX_NEW} | sampling,
        }
        data = {"kind": "generated", "prompt": "{question}=", "rows": rows, "system": "Add."}
        return make_recipe(teacher=teacher, data=data)

    return make


@pytest.fixture
def paid(make_context: MakeContext) -> MakeContext:
    """A context with prices and, where not said otherwise, a dollar."""

    def make(recipe: Recipe, folder: str = "run", stop: Stop | None = None, **limits: Any) -> Any:
        money = {
            "api_usd": Decimal(1),
            "api_usd_per_million_input_tokens": INPUT_PRICE,
            "api_usd_per_million_output_tokens": OUTPUT_PRICE,
        }
        return make_context(recipe, folder, stop, **(money | limits))

    return make


def ask(context: Context, environ: dict[str, str] = ENVIRON) -> FakeTime:
    """Run the stage with a clock of our own; returns that clock."""
    teacher, clock = context.recipe.teacher, FakeTime()
    assert isinstance(teacher, ApiTeacher)
    rows = load_rows(context.recipe.data, context.run.path)
    with TraceLog(context, list(jobs(rows, teacher.sampling, "x")), None) as traces:
        ask_endpoint(context, teacher, traces, environ, clock.patience())
    return clock


def events(context: Context, kind: type) -> list[Any]:
    return [event for event, _ in read_events(context.run.events) if isinstance(event, kind)]


def spent(context: Context) -> int:
    return sum(event.micro_usd for event in events(context, ApiUsage))


def worst(context: Context) -> int:
    """The most that one request of this recipe can cost [micro-dollars]."""
    recipe = context.recipe
    assert isinstance(recipe.teacher, ApiTeacher)
    wanted = jobs(load_rows(recipe.data, context.run.path), recipe.teacher.sampling, "x")
    return int(INPUT_PRICE * worst_input_tokens(next(wanted)) + OUTPUT_PRICE * MAX_NEW)


# ---- answers ---------------------------------------------------------------------------------


def test_every_row_is_asked_once_and_the_cost_is_what_the_endpoint_counted(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext, own_home: Any
) -> None:
    context = paid(api_recipe())

    generate(context, ENVIRON | {"STILLHOUSE_HOME": str(own_home)})

    traces = read_traces(context.run)
    assert sorted(trace.row for trace in traces) == list(range(20))
    assert {(t.text, t.finish, t.input_tokens, t.output_tokens) for t in traces} == {
        ("7", "stop", 11, 5)
    }
    assert set(server.prompts().values()) == {1}
    assert [event.micro_usd for event in events(context, ApiUsage)] == [11 * 3 + 5 * 15] * 20
    assert events(context, Progress)[-1].done == 20
    assert server.keys == {f"Bearer {KEY}"}
    assert server.asked[0] == {
        "model": "big",
        "messages": [
            {"role": "system", "content": "Add."},
            {"role": "user", "content": server.asked[0]["messages"][1]["content"]},
        ],
        "temperature": 0.0,
        "max_tokens": MAX_NEW,
    }

    second = paid(api_recipe(), "second", api_usd=Decimal(0))
    generate(second, ENVIRON | {"STILLHOUSE_HOME": str(own_home)})

    assert len(server.asked) == 20
    assert spent(second) == 0
    assert events(second, Generated)[0].cached == 20


BROKEN_OFF = ["model_length", "max_tokens", "error", "abort", "tool_calls", "none of these"]


@pytest.mark.parametrize(
    ("body", "text", "finish"),
    [
        (completion("a", "length"), "a", "length"),
        (completion("a", "content_filter"), "a", "length"),
        *((completion("a", word), "a", "length") for word in BROKEN_OFF),
        (completion("a", None), "a", "stop"),
        *((completion("a", word), "a", "stop") for word in ("", "STOP", "eos", "end_turn")),
        (completion("a", reasoning_content="hm"), "<think>\nhm\n</think>\n\na", "stop"),
        (completion("a", reasoning="hm"), "<think>\nhm\n</think>\n\na", "stop"),
        (json.dumps({"choices": [{"message": {"content": None}}]}).encode(), "", "stop"),
    ],
)
def test_a_reply_is_read(body: bytes, text: str, finish: str) -> None:
    reply = _reply(body)

    assert (reply.text, reply.finish) == (text, finish)


def test_an_answer_broken_off_for_another_reason_is_not_learnt_and_the_reason_is_named_once(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext
) -> None:
    server.behave = lambda _r, n: (200, {}, completion(finish="abort" if n % 2 else "stop"))
    context = paid(api_recipe(rows=6, concurrency=1))

    ask(context)

    [warning] = events(context, Warned)
    assert "row 1 of the data off ('abort')" in warning.message
    assert len(training_rows(context)) == 3


@pytest.mark.parametrize("count", [0, -5, 1.5, "7", True, None, [], 10**18])
def test_a_count_that_cannot_be_is_paid_at_its_worst(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext, count: Any
) -> None:
    usage = {"prompt_tokens": 11, "completion_tokens": count}
    server.behave = lambda _r, _n: (200, {}, completion(usage=usage))
    context = paid(api_recipe(rows=3))

    ask(context)

    assert [e.output_tokens for e in events(context, ApiUsage)] == [MAX_NEW] * 3
    assert [e.micro_usd for e in events(context, ApiUsage)] == [11 * 3 + MAX_NEW * 15] * 3
    assert len(events(context, Warned)) == 1
    assert len(read_traces(context.run)) == 3


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists) | st.binary())
@settings(max_examples=60, deadline=None)
def test_whatever_comes_back_is_a_reply_or_a_reason_to_try_again(value: Any) -> None:
    bodies = [value] if isinstance(value, bytes) else []
    if not isinstance(value, bytes):
        shapes = [
            value,
            {"choices": value},
            {"choices": [value]},
            {"choices": [{"message": value}]},
            {"choices": [{"message": {"content": value}, "finish_reason": value}]},
            {"choices": [{"message": {"content": "a"}}], "usage": value},
        ]
        bodies = [json.dumps(shape).encode() for shape in shapes]
    for body in bodies:
        with suppress(TryAgain):
            assert isinstance(_reply(body), Reply)


# ---- bad days --------------------------------------------------------------------------------


BROKEN = {
    "garbage": (200, {}, b"<html>welcome</html>"),
    "truncated": (200, {}, completion()[:30]),
    "deep": (200, {}, b"[" * 100_000),
    "empty": (200, {}, b""),
    "shorter than it says": (200, {"Content-Length": "1000"}, completion()),
    "half a character": (200, {}, completion("\ud800")),
    "100 MB": (200, {}, b'{"choices": "' + b"x" * (100 * 2**20)),
}


@pytest.mark.parametrize("kind", list(BROKEN))
def test_an_answer_that_cannot_be_used_is_paid_at_its_worst_and_asked_for_again(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext, kind: str
) -> None:
    fine = (200, {}, completion())
    server.behave = lambda _request, number: BROKEN[kind] if number == 0 else fine
    context = paid(api_recipe(rows=3, concurrency=1))

    ask(context)

    assert len(read_traces(context.run)) == 3
    assert [e.micro_usd for e in events(context, ApiUsage)] == [
        worst(context),
        *[11 * 3 + 5 * 15] * 3,
    ]


def test_a_lost_connection_is_tried_again_at_its_worst_cost(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext
) -> None:
    server.behave = lambda _request, number: None if number == 0 else (200, {}, completion())
    context = paid(api_recipe(rows=3, concurrency=1))

    ask(context)

    assert len(read_traces(context.run)) == 3
    assert spent(context) == worst(context) + 3 * (11 * 3 + 5 * 15)


@pytest.mark.parametrize("status", [408, 429, 500, 503, 529])
def test_a_busy_endpoint_is_asked_again_later_and_later_and_costs_nothing(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext, status: int
) -> None:
    busy = (status, {}, b"busy")
    server.behave = lambda _r, number: busy if number < 5 else (200, {}, completion())
    context = paid(api_recipe(rows=1))

    clock = ask(context)

    # 1 + 2 + 4 + 8 + 16 seconds, each shortened by chance to a half at most.
    assert 15.5 <= clock.now() <= 31.1
    assert spent(context) == 11 * 3 + 5 * 15
    assert len(server.asked) == 6


@pytest.mark.parametrize("status", [502, 504, 524])
def test_a_request_that_a_proxy_gave_up_may_have_been_billed_and_counts_at_its_worst(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext, status: int
) -> None:
    late = (status, {}, b"too late")
    server.behave = lambda _r, number: late if number == 0 else (200, {}, completion())
    context = paid(api_recipe(rows=1))

    ask(context)

    assert spent(context) == worst(context) + 11 * 3 + 5 * 15


@pytest.mark.parametrize(
    ("named", "shortest", "longest"),
    [("90", 90, 91), ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0), ("soon", 0.5, 1.1), ("-3", 0, 0)],
)
def test_the_time_that_the_endpoint_names_is_waited(
    server: Server,
    api_recipe: Callable[..., Recipe],
    paid: MakeContext,
    named: str,
    shortest: float,
    longest: float,
) -> None:
    busy = (429, {"Retry-After": named}, b"")
    server.behave = lambda _r, number: busy if number == 0 else (200, {}, completion())

    clock = ask(paid(api_recipe(rows=1)))

    assert shortest <= clock.now() <= longest


@given(
    st.text(max_size=30) | st.sampled_from(["nan", "inf", "-1", "1e999", "Mon, 99 X 9" + "9" * 20])
)
@settings(max_examples=200)
def test_whatever_time_an_endpoint_names_is_a_time_or_none(named: str) -> None:
    wait_s = _retry_after(httpx.Headers({"Retry-After": named.encode(errors="replace")}))

    assert wait_s is None or 0 <= wait_s <= LONGEST_RETRY_S


def test_an_endpoint_that_stays_broken_ends_the_stage_and_keeps_what_is_answered(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext
) -> None:
    def behave(_request: dict[str, Any], number: int) -> Answer:
        return (200, {}, completion()) if number < 3 else (503, {}, b"down for the day")

    server.behave = behave
    context = paid(api_recipe(concurrency=1))

    with pytest.raises(WorkerError, match=r"in 8 tries: .*503: down for the day") as caught:
        ask(context)

    assert caught.value.code == "teacher_api"
    assert "Resume" in caught.value.remedy
    assert len(read_traces(context.run)) == 3
    assert len(server.asked) == 3 + 8

    server.behave = Server().behave
    ask(context)
    assert set(Counter(trace.row for trace in read_traces(context.run)).values()) == {1}
    assert spent(context) == 20 * (11 * 3 + 5 * 15)


def test_an_address_where_nobody_listens_is_not_paid_for(
    server: Server, make_recipe: Callable[..., Recipe], paid: MakeContext
) -> None:
    teacher = {"kind": "api", "base_url": "http://127.0.0.1:9/v1", "model": "m"}
    data = {"kind": "generated", "prompt": "{question}=", "rows": 2}
    context = paid(make_recipe(teacher=teacher, data=data))

    with pytest.raises(WorkerError, match="ConnectError"):
        ask(context)

    assert spent(context) == 0


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(401, "OPENAI_API_KEY"), (404, "teacher.model"), (302, "")],
)
def test_a_refusal_is_final_and_shown_in_one_line(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext, status: int, remedy: str
) -> None:
    server.behave = lambda _r, _n: (
        status,
        {"Location": "http://x/"},
        b"no\n\x1b[31m such \x00thing",
    )
    context = paid(api_recipe(concurrency=2))

    with pytest.raises(WorkerError, match=rf"answers {status}: no \[31m such thing") as caught:
        ask(context)

    assert remedy in caught.value.remedy
    assert len(server.asked) <= 2
    assert spent(context) == 0


REFUSED = (400, {}, b"the prompt was\nfiltered")


@pytest.mark.parametrize("status", [400, 413, 422])
def test_an_endpoint_that_refuses_every_prompt_ends_the_stage_after_three_and_names_them(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext, status: int
) -> None:
    server.behave = lambda _r, _n: (status, {}, b"no\n\x1b[31m such \x00thing")
    context = paid(api_recipe(concurrency=1))

    with pytest.raises(WorkerError, match=rf"answers {status}: no \[31m such thing") as caught:
        ask(context)

    assert "rows 0, 1, 2 of the data" in caught.value.message
    assert "as the endpoint says" in caught.value.remedy
    assert len(server.asked) == 3
    assert spent(context) == 0


def test_a_few_prompts_that_the_endpoint_refuses_are_left_out_and_named(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext
) -> None:
    refused = {0, 20, 30}  # also the first; the others are more than two, and less than a tenth
    server.behave = lambda _r, n: REFUSED if n in refused else (200, {}, completion())
    context = paid(api_recipe(rows=40, concurrency=1))

    ask(context)

    assert sorted(set(range(40)) - {row.index for row, _ in training_rows(context)}) == [0, 20, 30]
    assert spent(context) == 37 * (11 * 3 + 5 * 15)
    [warning] = (event for event in events(context, Warned) if event.code == "refused")
    assert "rows 0, 20, 30 of the data, so they are left out" in warning.message
    assert "answers 400: the prompt was filtered" in warning.message

    # As after a kill before the stage was said to be done.
    server.behave = lambda _r, _n: REFUSED
    ask(context)
    assert len(training_rows(context)) == 37


def test_more_than_a_tenth_refused_is_a_fault_and_what_was_answered_stays(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext
) -> None:
    server.behave = lambda _r, n: REFUSED if n % 2 else (200, {}, completion())
    context = paid(api_recipe(rows=40, concurrency=1))

    with pytest.raises(WorkerError, match="rows 1, 3, 5, 7, 9 of the data cannot be asked"):
        ask(context)

    assert len(read_traces(context.run)) == 5


def test_when_all_of_few_are_refused_nothing_passes_for_answered(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext
) -> None:
    server.behave = lambda _r, _n: REFUSED
    context = paid(api_recipe(rows=1))

    with pytest.raises(WorkerError, match="row 0 of the data cannot be asked"):
        ask(context)


def test_the_newer_name_of_the_length_is_used_where_the_endpoint_wants_it(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext
) -> None:
    def behave(request: dict[str, Any], _number: int) -> Answer:
        if "max_tokens" in request:
            return 400, {}, b"Unsupported parameter. Use 'max_completion_tokens' instead."
        return 200, {}, completion()

    server.behave = behave
    context = paid(api_recipe(rows=5, concurrency=1))

    ask(context)

    assert [("max_tokens" in request) for request in server.asked] == [True] + [False] * 5
    assert server.asked[-1]["max_completion_tokens"] == MAX_NEW


# ---- the key ---------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [None, "", "  ", "two words", "line\nbreak", "schlüssel"])
def test_without_a_usable_key_nothing_is_sent(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext, held: str | None
) -> None:
    context = paid(api_recipe())

    with pytest.raises(WorkerError, match="OPENAI_API_KEY") as caught:
        ask(context, {} if held is None else {"OPENAI_API_KEY": held})

    assert caught.value.code == "api_key"
    assert not held or not held.strip() or held not in str(caught.value)
    assert server.asked == []


def test_a_key_may_have_a_line_break_at_its_end() -> None:
    teacher = ApiTeacher(base_url="http://x", model="m")

    assert api_key(teacher, {"OPENAI_API_KEY": KEY + "\n"}) == KEY


def test_the_key_is_in_no_message_and_in_no_file_even_if_the_endpoint_says_it(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext
) -> None:
    server.behave = lambda _r, number: (
        (503, {}, f"busy, {KEY}".encode()) if number < 3 else (401, {}, f"wrong: {KEY}".encode())
    )
    context = paid(api_recipe())

    with pytest.raises(WorkerError, match=r"wrong: \[key\]") as caught:
        ask(context)

    chain: BaseException | None = caught.value
    while chain is not None:
        assert KEY not in repr(chain)
        chain = chain.__cause__ or chain.__context__
    for file in context.run.path.rglob("*"):
        assert KEY.encode() not in file.read_bytes()


def test_the_key_is_taken_out_of_answers_too_and_of_those_that_cannot_be_read(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext
) -> None:
    server.behave = lambda _r, number: (
        (200, {}, f"{KEY}?".encode()) if number < 3 else (200, {}, completion(f"it is {KEY}"))
    )
    context = paid(api_recipe())

    ask(context)

    answers = {trace.text for trace in read_traces(context.run)}
    assert answers == {"it is [key]"}
    for file in context.run.path.rglob("*"):
        assert KEY.encode() not in file.read_bytes()


def test_a_word_in_place_of_a_key_stays_in_the_answers(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext
) -> None:
    server.behave = lambda _r, _n: (200, {}, completion("not any one"))
    context = paid(api_recipe())

    ask(context, environ={"OPENAI_API_KEY": "any"})

    assert {trace.text for trace in read_traces(context.run)} == {"not any one"}


# ---- money -----------------------------------------------------------------------------------


class Meter:
    """The endpoint's own books: what it billed, and the most it could yet bill."""

    def __init__(self, server: Server, tokens: Callable[[int], int], seconds: float) -> None:
        self._lock = threading.Lock()
        self._tokens = tokens
        self._seconds = seconds
        self.billed = 0
        self.under_way = 0
        self.most = 0
        self.at_once = 0
        self.most_at_once = 0
        server.behave = self.behave

    def behave(self, request: dict[str, Any], number: int) -> Answer:
        inputs = sum(len(message["content"]) for message in request["messages"])
        could = 3 * inputs + 15 * request["max_tokens"]
        with self._lock:
            self.under_way += could
            self.at_once += 1
            self.most = max(self.most, self.billed + self.under_way)
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(self._seconds)
        outputs = self._tokens(number)
        with self._lock:
            self.under_way -= could
            self.at_once -= 1
            self.billed += 3 * inputs + 15 * outputs
        usage = {"prompt_tokens": inputs, "completion_tokens": outputs}
        return 200, {}, completion(usage=usage)


@pytest.mark.parametrize("concurrency", [1, 4, 32])
@pytest.mark.parametrize("requests_worth", [0.5, 1, 1.7, 5])
def test_what_is_billed_and_what_could_be_never_pass_the_limit(
    server: Server,
    api_recipe: Callable[..., Recipe],
    paid: MakeContext,
    concurrency: int,
    requests_worth: float,
) -> None:
    recipe = api_recipe(concurrency=concurrency, rows=40)
    limit = int(worst(paid(recipe, "measure")) * requests_worth)
    meter = Meter(server, tokens=lambda number: (number * 7) % MAX_NEW + 1, seconds=0.002)
    context = paid(recipe, api_usd=Decimal(limit) / 10**6)

    with pytest.raises(StageStopped, match="budget"):
        ask(context)

    assert meter.most <= limit
    assert spent(context) == meter.billed <= limit
    assert len(read_traces(context.run)) == len(server.asked)
    assert bool(server.asked) == (requests_worth >= 1)
    [warned] = [event for event in events(context, Warned) if event.code == "api_budget"]
    assert "nothing more is sent" in warned.message


def test_money_is_not_kept_from_threads_that_could_work(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext
) -> None:
    meter = Meter(server, tokens=lambda _number: 5, seconds=0.02)
    context = paid(api_recipe(concurrency=8, rows=40))

    ask(context)

    assert meter.most_at_once > 4
    assert meter.billed == spent(context)


def test_a_run_that_gets_more_money_buys_only_what_is_missing(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext
) -> None:
    recipe = api_recipe()
    limit = Decimal(worst(paid(recipe)) * 12 // 10) / 10**6
    with pytest.raises(StageStopped, match="budget"):
        ask(paid(recipe, api_usd=limit))

    context = paid(recipe, attempt=2)
    ask(context)

    assert set(server.prompts().values()) == {1}
    assert len(read_traces(context.run)) == 20


def test_free_tokens_need_no_money(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext
) -> None:
    free = {
        "api_usd": Decimal(0),
        "api_usd_per_million_input_tokens": Decimal(0),
        "api_usd_per_million_output_tokens": Decimal(0),
    }
    context = paid(api_recipe(), **free)

    ask(context)

    assert len(read_traces(context.run)) == 20


def test_without_a_price_nothing_is_sent(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext
) -> None:
    context = paid(api_recipe(), api_usd_per_million_output_tokens=None)

    with pytest.raises(WorkerError, match="no limit could be kept"):
        ask(context)
    assert server.asked == []


def test_a_bill_above_the_worst_case_is_booked_as_it_is(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext
) -> None:
    usage = {"prompt_tokens": 11, "completion_tokens": 3 * MAX_NEW}
    server.behave = lambda _r, _n: (200, {}, completion(usage=usage))
    context = paid(api_recipe(rows=2))

    ask(context)

    assert spent(context) == 2 * (11 * 3 + 3 * MAX_NEW * 15)


def test_a_cost_is_rounded_up_to_a_micro_dollar(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext
) -> None:
    cheap = {
        "api_usd_per_million_input_tokens": Decimal("0.01"),
        "api_usd_per_million_output_tokens": Decimal("0.001"),
    }
    context = paid(api_recipe(rows=3), **cheap)

    ask(context)

    assert [event.micro_usd for event in events(context, ApiUsage)] == [1, 1, 1]


def test_a_request_of_a_killed_worker_counts_at_its_worst_for_its_own_attempt_alone(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext
) -> None:
    context = paid(api_recipe(rows=3))
    amounts = {"input_tokens": 250, "output_tokens": MAX_NEW, "micro_usd": 1500}
    for request in (0, 1):
        context.say(ApiReserved, request=request, **amounts)
    context.say(ApiUsage, request=0, input_tokens=11, output_tokens=5, micro_usd=108)

    resumed = paid(api_recipe(rows=3), attempt=2)
    ask(resumed)

    assert asked_micro_usd(attempt_events(context.run, 1)) == 108 + 1500
    settled = [e for e in events(resumed, ApiUsage) if e.attempt == 2]
    assert sorted(e.request for e in settled) == [2, 3, 4]


def test_every_reservation_is_made_before_and_settled_after_its_request(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext
) -> None:
    context = paid(api_recipe(concurrency=8))
    seen: list[tuple[int, int, int, int]] = []

    def behave(_request: dict[str, Any], number: int) -> Answer:
        settled, reserved = events(context, ApiUsage), events(context, ApiReserved)
        paid_for = sum(event.micro_usd > 0 for event in settled)
        seen.append((len(reserved), len(settled), paid_for, len(read_traces(context.run))))
        return (503, {}, b"") if number % 3 == 0 else (200, {}, completion())

    server.behave = behave
    ask(context)

    assert all(reserved > settled for reserved, settled, _, _ in seen)
    # An answer that is paid for is on the disk already.
    assert all(paid_for <= kept for _, _, paid_for, kept in seen)
    reservations = {event.request for event in events(context, ApiReserved)}
    assert reservations == {event.request for event in events(context, ApiUsage)}


# ---- stopping --------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["interrupt", "deadline"])
def test_a_stop_waits_for_answers_under_way_and_asks_for_no_more(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext, reason: str
) -> None:
    def behave(_request: dict[str, Any], _number: int) -> Answer:
        time.sleep(0.02)
        return 200, {}, completion()

    server.behave = behave
    stop = StopWhen(reason, lambda: len(server.asked) >= 5)
    context = paid(api_recipe(rows=200), stop=stop)

    with pytest.raises(StageStopped, match=reason):
        ask(context)

    assert 5 <= len(server.asked) < 200
    assert len(read_traces(context.run)) == len(server.asked)


def test_a_stop_does_not_wait_for_ever_and_what_is_open_counts_at_its_worst(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext
) -> None:
    release = threading.Event()

    def behave(_request: dict[str, Any], _number: int) -> Answer:
        release.wait(30)
        return 200, {}, completion()

    server.behave = behave
    stop = StopWhen("interrupt", lambda: len(server.asked) >= 2)
    context = paid(api_recipe(concurrency=2), stop=stop)

    with pytest.raises(StageStopped, match="interrupt"):
        ask(context)
    release.set()

    assert read_traces(context.run) == []
    assert len(events(context, ApiReserved)) == 2
    assert asked_micro_usd(attempt_events(context.run, 1)) == 2 * worst(context)
    server.behave = Server().behave
    resumed = paid(api_recipe(concurrency=2), attempt=2)
    ask(resumed)
    settled = [e.micro_usd for e in events(resumed, ApiUsage) if e.attempt == 2]
    assert sum(settled) == 20 * (11 * 3 + 5 * 15)


def test_waiting_for_a_busy_endpoint_ends_with_a_stop(
    server: Server, api_recipe: Callable[..., Recipe], paid: MakeContext
) -> None:
    server.behave = lambda _r, _n: (429, {"Retry-After": "100000"}, b"")
    context = paid(api_recipe(), stop=StopWhen("deadline", lambda: len(server.asked) >= 4))
    teacher = context.recipe.teacher
    assert isinstance(teacher, ApiTeacher)
    wanted = list(jobs(load_rows(context.recipe.data, context.run.path), teacher.sampling, "x"))

    with TraceLog(context, wanted, None) as traces, pytest.raises(StageStopped, match="deadline"):
        ask_endpoint(context, teacher, traces, ENVIRON, Patience(grace_s=5))


def test_an_address_that_is_none_is_named_by_its_field() -> None:
    teacher = ApiTeacher(base_url="http://host:port/v1", model="m")

    with pytest.raises(WorkerError, match=r"Correct teacher\.base_url"):
        Endpoint(teacher, KEY).ask([{"role": "user", "content": "1"}])
