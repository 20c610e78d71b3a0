"""A small OpenAI-compatible server in a thread, that does what a test tells it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes | Iterator[bytes]]  # status, headers, body, whole or in parts


def said(text: str | None) -> Reply:
    """A chat completion with this text."""
    return 200, {}, json.dumps({"choices": [{"message": {"content": text}}]}).encode()


@dataclass
class Endpoint:
    """Requests in order of arrival; `behave(number, body)` answers the number-th, counted from 0."""

    behave: Callable[[int, dict[str, Any]], Reply]
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serving(behave: Callable[[int, dict[str, Any]], Reply]) -> Iterator[Endpoint]:
    """An endpoint at `url` for the length of the block."""
    endpoint = Endpoint(behave)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with endpoint.lock:
                number = len(endpoint.bodies)
                endpoint.bodies.append(body)
                endpoint.headers.append(dict(self.headers))
                endpoint.paths.append(self.path)
                endpoint.under_way += 1
                endpoint.most_under_way = max(endpoint.most_under_way, endpoint.under_way)
            try:
                status, headers, answer = endpoint.behave(number, body)
            finally:
                with endpoint.lock:
                    endpoint.under_way -= 1
            self.send_response(status)
            length = {"Content-Length": str(len(answer))} if isinstance(answer, bytes) else {}
            for name, value in {**length, **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            for part in [answer] if isinstance(answer, bytes) else answer:
                self.wfile.write(part)

        do_GET = do_POST  # noqa: N815  (a redirect that is followed would come as one)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that gave up waiting
    server.daemon_threads, server.block_on_close = True, False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
