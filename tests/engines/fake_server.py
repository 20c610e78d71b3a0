"""A vLLM server with the plugin, as far as a client can tell, in a thread of the test."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Reply = tuple[int, dict[str, Any], dict[str, str]]


def completion(body: dict[str, Any]) -> dict[str, Any]:
    """What a deterministic server answers: tokens drawn from the prompt and the steering alone."""
    asked = json.dumps([body["prompt"], body.get("vllm_xargs"), body.get("seed")]).encode()
    drawn = hashlib.shake_256(asked).digest(body["max_tokens"])
    tokens = [5 + 60 + byte % 40 for byte in drawn]
    scored = [None, *({str(token): {"logprob": -token / 100}} for token in body["prompt"][1:])]
    answer = {
        "choices": [
            {"token_ids": tokens, "finish_reason": "length", "prompt_logprobs": scored, "text": ""},
        ]
    }
    if read := (body.get("vllm_xargs") or {}).get("steerkit_readers"):
        return answer | {"kv_transfer_params": {"steerkit": {"readings": readings(body, len(read))}}}
    return answer


def readings(body: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Reader `r` reads 100 r + i at position i, and nothing of the newest token, nor, if uneven, of the first."""
    prompt, tokens = len(body["prompt"]), body["max_tokens"]
    return [
        {
            "reader": str(reader),
            "prompt": [None if not at and reader % 2 else 100.0 * reader + at for at in range(prompt)],
            "completion": [
                *(100.0 * reader + at for at in range(prompt, prompt + tokens - 1)),
                None,
            ],
        }
        for reader in range(count)
    ]


class FakeServer:
    """A vLLM server with the plugin, as far as a client can tell. `before` may answer in its place, or stall."""

    def __init__(self, before: Callable[[FakeServer, dict[str, Any]], Reply | None] | None = None) -> None:
        self.answered: list[dict[str, Any]] = []
        self.models: list[dict[str, Any]] = [{"id": "the-model"}]
        self.keys: set[str | None] = set()
        self.busy = self.most_busy = 0
        self.dead = False
        self.plugin = True
        self._before = before
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._reply(200, {"data": fake.models}, {})

            def do_POST(self) -> None:
                fake.keys.add(self.headers["Authorization"])
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._reply(*fake.handle(body))

            def _reply(self, status: int, answer: dict[str, Any], headers: dict[str, str]) -> None:
                if fake.dead:  # a killed process sends nothing any more
                    self.close_connection = True
                    return
                data = json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that hang up are the point
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.dead:
            self.kill()

    def handle(self, body: dict[str, Any]) -> Reply:
        with self._lock:
            self.busy += 1
            self.most_busy = max(self.busy, self.most_busy)
        try:
            if self.plugin and body.get("vllm_xargs", {}).get("steerkit") == "@":
                return 400, {"error": {"message": "no vector", "param": "steerkit"}}, {}
            reply = self._before(self, body) if self._before is not None else None
            if reply is not None:
                return reply
            with self._lock:
                self.answered.append(body)
            return 200, completion(body), {}
        finally:
            with self._lock:
                self.busy -= 1

    def kill(self) -> None:
        """As SIGKILL does: open requests get nothing, new ones are refused."""
        self.dead = True
        self._server.shutdown()
        self._server.server_close()
