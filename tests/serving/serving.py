"""A server of a tiny model in a thread of the test, and how to ask it."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.serving.address import Address
from steerkit.serving.limits import Limits
from steerkit.serving.running import make_server

WAIT = 60.0  # seconds, for what takes a moment; no test measures a time


@dataclass(frozen=True)
class Asked:
    """A server that can be asked."""

    url: str
    model: str

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def send(self, path: str, body: Any, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Send a body as it is, or as JSON where it is no text; a GET without one."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        try:
            data = body if body is None or isinstance(body, str | bytes) else json.dumps(body)
            given = {"Content-Type": "application/json"} | {
                k.replace("_", "-"): v for k, v in headers.items()
            }
            connection.request("GET" if body is None else "POST", path, data, given)
            response = connection.getresponse()
            return response.status, dict(response.headers), response.read()
        finally:
            connection.close()

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Send a body; the status and the answer's JSON."""
        status, _, text = self.send(path, body, **headers)
        return status, json.loads(text)

    def complete(self, steerkit: Any = None, **more: Any) -> tuple[int, Any]:
        """Ask for a short greedy completion."""
        body = {"model": self.model, "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}
        if steerkit is not None:
            body["vllm_xargs"] = {"steerkit": steerkit}
        return self.ask("/v1/completions", body | more)


@contextmanager
def served(
    engine: TransformersEngine,
    folder: Path | None = None,
    key: str | None = None,
    host: str = "127.0.0.1",
    **limits: Any,
) -> Iterator[Asked]:
    """A server in a thread, for the block."""
    address = Address(host, 0, key)
    with address.bound() as listening:
        server = make_server(engine, address, Limits(**limits), folder=folder)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        until = time.monotonic() + WAIT
        while not server.started and thread.is_alive() and time.monotonic() < until:
            time.sleep(0.01)
        assert server.started
        try:
            yield Asked(address.url(listening.getsockname()[1]), engine.lm.name)
        finally:
            server.should_exit = True
            thread.join(WAIT)
            assert not thread.is_alive()
