"""`steerkit serve`: what it prints works, what cannot be meant is refused before a model is loaded, and it ends."""

from __future__ import annotations

import http.client
import json
import shlex
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import steerkit
from tests.serving.command import serving
from tests.serving.serving import WAIT


def test_what_is_printed_works_as_it_is_and_a_stream_may_end_after_the_signal(
    tiny_folder: Path, vectors: Path
) -> None:
    with serving("--model", tiny_folder, "--vectors", vectors) as server:
        ready, example = server.printed
        assert ready == f"tiny is served at {server.asked.url}/v1; Ctrl-C ends it"
        program, url, *options, data = shlex.split(example)
        assert (program, options[-1]) == ("curl", "-d")
        if shutil.which("curl"):
            answer = json.loads(subprocess.check_output(f"{example} -s", shell=True, timeout=WAIT))
        else:
            _, answer = server.asked.ask(url.removeprefix(server.asked.url), data)
        assert json.loads(data)["vllm_xargs"] == {"steerkit": ["good@layer=2"]}
        assert answer["choices"][0]["message"]["content"]
        assert answer["usage"]["completion_tokens"] > 1

        connection = http.client.HTTPConnection("127.0.0.1", server.asked.port, timeout=WAIT)
        body = {"prompt": "Hi", "max_tokens": 400, "stream": True, "seed": 1, "temperature": 2.0}
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        first = response.read(10)
        assert first.startswith(b"data:")
        code, said = server.end(signal.SIGINT)
        assert response.read().endswith(b"data: [DONE]\n\n")
        assert (code, said) == (0, "stopped\n")


def test_sigterm_ends_it_and_its_key_is_wanted(tiny_folder: Path) -> None:
    key = {"STEERKIT_SERVER_API_KEY": "s3cret"}
    with serving("--model", tiny_folder, "--host", "0.0.0.0", "--served-name", "mine", **key) as server:
        ready, example = server.printed
        assert ready.startswith("mine is served at http://127.0.0.1:")
        assert "$STEERKIT_SERVER_API_KEY" in example
        assert "s3cret" not in ready + example
        body: dict[str, Any] = {"model": "mine", "prompt": "Hi", "max_tokens": 2}
        for given in ("", "Bearer", "Bearer wrong", "Basic s3cret", "Basic eDp5"):
            status, answer = server.asked.ask("/v1/completions", body, Authorization=given)
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
        assert server.asked.ask("/v1/completions", body, Authorization="Bearer s3cret")[0] == 200
        assert server.asked.ask("/health") == (200, {"status": "ok"})
        assert server.end(signal.SIGTERM) == (0, "stopped\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "lets other machines in: give --api-key"),
        (["--host", "0.0.0.0", "--api-key", ""], "a key is a text"),
        (["--vectors", "nowhere"], "--vectors nowhere is not a folder"),
        (["--runs", "nowhere"], "--runs nowhere is not a folder"),
        (["--runs", ".", "--no-workbench"], "--runs is for the workbench"),
        (["--port", "70000"], "'--port'"),
        (["--most-waiting", "0"], "most-waiting"),
    ],
)
def test_what_cannot_be_meant_is_one_line(options: list[str], said: str) -> None:
    done = steerkit("serve", "--model", "no-such-model", *options)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1


def test_a_port_that_is_taken_is_said_before_the_model_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = steerkit("serve", "--model", "no-such-model", "--port", port)
    assert (done.code, f"127.0.0.1:{port} cannot be listened at" in done.err) == (1, True)


def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steerkit.cli.serve.find_spec", lambda name: None if name == "gradio" else object())
    done = steerkit("serve", "--model", "no-such-model")
    assert (done.code, done.err) == (
        2,
        "error: steerkit serve needs gradio: pip install 'steerkit-lm[serve]'\n",
    )
