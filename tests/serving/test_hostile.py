"""A thousand hostile or broken requests leave others' answers, the process and its memory unharmed."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.serving.command import Process, serving
from tests.serving.serving import WAIT, Asked

STEERINGS: list[Any] = [
    "../secret@layer=1",
    "/etc/passwd@layer=1",
    "%2e%2e%2fsecret@layer=1",
    "good@layer=1,gate=../secret,threshold=0",
    "good@layer=1,gate=semantic-entropy",
    "good@layer=1,follows=../secret,low=0,high=1",
    "huge@layer=1",
    "nan@layer=1",
    "pickle@layer=1",
    "pickle.pt@layer=1",
    "note.json@layer=1",
    "wrong@layer=1",
    "loop@layer=1",
    "folder@layer=1",
    "pipe@layer=1",
    "doubt@layer=1",
    "good@layer=30",
    "good@layer=999999999999",
    "good@layer=1,strength=nan",
    "good@layer=1,strength=1e38",
    "good@layer=1,strength=1e7,follows=entropy,low=0,high=1,most=1e30",
    "good@layer=1,scope=nowhere",
    "good@layer=0:9999999",
    "x" * 100_000,
    "[" * 60_000,
    ["good@layer=1"] * 10_000,
    7,
    [[["good@layer=1"]]],
    "",
    "@",
    '{"vector": "good"}',
    {"vector": {"name": "good", "sha256": "0" * 64}, "layers": [1]},
    {"vector": "good", "layers": [1], "gate": {"kind": "position", "vector": "../secret", "threshold": 0}},
    {"form": "steerkit-program-3", "cells": []},
    {"kind": "prompt", "system": "\ud800"},
]
FIELDS: list[dict[str, Any]] = [
    {"unknown": 1},
    {"steerkit": 1.5},
    {"steerkit_readers": "../secret@layer=1"},
    {"steerkit_readers": ["entropy"] * 99},
    {"steerkit_readers": "entropy", "n": 2},
    {"vllm_xargs": {"Steerkit": "good@layer=1"}},
    {"vllm_xargs": {"steerkit_prompt_tokens": 3}},
    {"vllm_xargs": ["steerkit"]},
    {"temperature": -1},
    {"temperature": "hot"},
    {"temperature": 1e-300},
    {"top_p": 0},
    {"top_p": 2},
    {"min_p": -0.1},
    {"repetition_penalty": 0},
    {"max_tokens": 0},
    {"max_tokens": 10**9},
    {"max_tokens": 10**4000},
    {"max_tokens": True},
    {"n": 10**6},
    {"n": -1},
    {"seed": 10**400},
    {"stop": ["x"] * 1000},
    {"stop": "y" * 10_000},
    {"stop": [""]},
    {"stop": [1]},
    {"logit_bias": {"5": 100}},
    {"logprobs": 10_000},
    {"prompt": ""},
    {"prompt": []},
    {"prompt": [10**6]},
    {"prompt": [-1]},
    {"prompt": [[1], "a"]},
    {"prompt": ["a"] * 10_000},
    {"prompt": "\ud800"},
    {"prompt": "a " * 200_000},
    {"prompt": 3},
    {"model": "x" * 100_000},
    {"stream_options": {"include_usage": True}},
    {"prompt_logprobs": 5},
    {"messages": []},
]
TEXTS: list[str | bytes] = [
    "",
    "{",
    "nonsense",
    '{"prompt": "Hi", "temperature": NaN}',
    '{"prompt": "Hi", "temperature": Infinity}',
    '{"prompt": "Hi", "temperature": 1e999}',
    '{"prompt": "Hi", "prompt"',
    '["prompt"]',
    "null",
    "[" * 100_000,
    '{"a":' * 50_000,
    b"\xff\xfe\x00",
    b"\x80\x04\x95\x10\x00\x00\x00pickle",
    '{"prompt": "' + "z" * (5 << 20) + '"}',
]
CHATS: list[Any] = [
    [],
    "Hi",
    [{"role": "wizard", "content": "Hi"}],
    [{"role": "user"}],
    [{"role": "user", "content": None}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}],
    [{"role": "user", "content": "Hi", "tool_calls": []}],
    [{"role": "user", "content": ""}],
]


def connected(server: Asked, head: str, body: bytes = b"") -> socket.socket:
    made = socket.create_connection(("127.0.0.1", server.port), timeout=WAIT)
    made.sendall(head.replace("\n", "\r\n").encode() + body)
    return made


def head(length: int, path: str = "/v1/completions") -> str:
    return (
        f"POST {path} HTTP/1.1\nHost: 127.0.0.1\nContent-Type: application/json\nContent-Length: {length}\n\n"
    )


def gone_midway(server: Asked) -> int:
    """Half a body, and the client hangs up."""
    with connected(server, head(1000), b'{"prompt": "Hi'):
        return 0


def gone_unread(server: Asked, *, stream: bool) -> int:
    """A long completion that nobody waits for."""
    body = json.dumps({"prompt": "Hi", "max_tokens": 400, "seed": 1, "stream": stream}).encode()
    with connected(server, head(len(body)), body) as made:
        if stream:
            made.recv(10)
        return 0


def far_too_long(server: Asked) -> int:
    """A body that is not even heard out: the answer may get lost with the connection."""
    with contextlib.suppress(ConnectionError):
        return server.send("/v1/completions", b"z" * (20 << 20))[0]
    return 413


def no_http(server: Asked) -> int:
    with contextlib.suppress(OSError), connected(server, "\x00\x01 what\n\n") as made:
        made.recv(100)
    return 400


def long_header(server: Asked) -> int:
    with contextlib.suppress(OSError), connected(server, "GET / HTTP/1.1\nX: " + "y" * 200_000) as made:
        made.recv(100)
    return 400


def attacks() -> Iterator[Callable[[Asked], int]]:
    """Hostile or broken requests; each returns the status that it got, or 0 where nobody waited for one."""
    while True:
        for steering in STEERINGS:
            yield lambda server, steering=steering: server.complete(steering)[0]
            yield lambda server, steering=steering: server.complete(steering, stream=True)[0]
        for more in FIELDS:
            yield lambda server, more=more: server.complete(**more)[0]
        for text in TEXTS:
            yield lambda server, text=text: server.send("/v1/completions", text)[0]
        for messages in CHATS:
            yield lambda server, messages=messages: server.ask(
                "/v1/chat/completions", {"messages": messages}
            )[0]
        yield lambda server: server.send("/v1/completions", "{}", Content_Type="text/plain")[0]
        yield lambda server: server.send("/v1/models/../../etc/passwd", None)[0]
        yield lambda server: server.send("/v1/embeddings", {"input": "Hi"})[0]
        yield lambda server: server.send("/v1/models", None, Host="evil.example")[0]
        yield far_too_long
        yield no_http
        yield long_header
        for _ in range(4):
            yield gone_midway
            yield lambda server: gone_unread(server, stream=False)
            yield lambda server: gone_unread(server, stream=True)


@pytest.fixture(scope="module")
def process(tiny_folder: Path, vectors: Path) -> Iterator[Process]:
    with serving("--model", tiny_folder, "--vectors", vectors) as process:
        yield process


def test_a_thousand_hostile_requests_harm_nobody(process: Process) -> None:
    server, own = process.asked, "good@layer=1,strength=0.5"

    def bystander(cell: str | None) -> str:
        while (found := server.complete(cell, max_tokens=24))[0] == 429:
            time.sleep(0.1)
        status, answer = found
        assert status == 200, answer
        text: str = answer["choices"][0]["text"]
        return text

    alone = [bystander(cell) for cell in (None, own)]
    assert alone[0] != alone[1]
    come = attacks()
    statuses: Counter[int] = Counter()
    unread = [slow_reader(server) for _ in range(3)]
    held: list[int] = []
    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            told = [pool.submit(bystander, cell) for cell in (None, own)]
            hundred = [next(come) for _ in range(100)]
            found = list(pool.map(lambda attack: attack(server), hundred))
            statuses.update(found)
            assert [each.result() for each in told] == alone
            held.append(process.resident)
    for each in unread:
        each.close()
    print(dict(statuses), held)
    assert {status // 100 for status in statuses} == {0, 4}, statuses
    assert process.process.poll() is None
    assert server.ask("/health") == (200, {"status": "ok"})
    assert [bystander(cell) for cell in (None, own)] == alone
    assert held[9] <= 1.05 * held[1]


def slow_reader(server: Asked) -> socket.socket:
    """A client that asks for all it can get and reads nothing of it."""
    body = json.dumps({"prompt": "Hi", "n": 32, "max_tokens": 400, "stream": True, "seed": 1}).encode()
    return connected(server, head(len(body)), body)


def test_a_flood_gets_429_and_what_waits_is_answered(process: Process) -> None:
    server = process.asked

    def ask(number: int) -> tuple[int, dict[str, str]]:
        body = {"prompt": f"{number}", "n": 64, "max_tokens": 200, "seed": number}
        status, headers, _ = server.send("/v1/completions", body)
        return status, headers

    with ThreadPoolExecutor(40) as pool:
        found = list(pool.map(ask, range(40)))
    counts = Counter(status for status, _ in found)
    print(dict(counts))
    assert set(counts) == {200, 429}
    assert all(headers["retry-after"] == "1" for status, headers in found if status == 429)
    assert server.complete()[0] == 200
