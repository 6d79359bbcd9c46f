"""A teacher behind an API on loopback: answers as a test says, and keeps what it was sent."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[[str], tuple[int, str]]
"""`Authorization -> status and body`."""


def answer(text: str) -> str:
    """A whole chat completion."""
    choice = {"message": {"content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 11, "completion_tokens": 5}
    return json.dumps({"choices": [choice], "usage": usage})


class LoopbackTeacher:
    """Answers every question with 7, until told otherwise."""

    def __init__(self) -> None:
        self.behave: Behaviour = lambda authorization: (200, answer("7"))
        self.asked: list[str] = []
        teacher = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                teacher.asked.append(self.headers["Authorization"])
                status, text = teacher.behave(self.headers["Authorization"])
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@contextmanager
def loopback_teacher() -> Iterator[LoopbackTeacher]:
    teacher = LoopbackTeacher()
    thread = threading.Thread(target=teacher.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield teacher
    finally:
        teacher.server.shutdown()
        teacher.server.server_close()
        thread.join()
