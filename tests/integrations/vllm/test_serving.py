"""A real `vllm serve` with the plugin: attacks, bystanders, the server engine, and a replica that is killed."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from steerkit.engines.base import Decoding, Request
from steerkit.engines.remote.server import ServerEngine
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interventions.readers import NamedReader, VectorReader
from steerkit.interventions.vector import SteeringVector
from steerkit.models import LanguageModel
from steerkit.runs.directory import RunDirectory
from tests.command_line import steerkit
from tests.integrations.vllm.served import CELLS, Server
from tests.tiny import random_vector, tiny_model

pytestmark = [pytest.mark.vllm, pytest.mark.models]

MODEL = "smollm2-135m-instruct"
FLOOD = 10_000


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
    "good@layer=1,half_life=8",
    "good@layer=1,positions=boundaries",
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
        streamed = list(pool.map(lambda attack: server.complete(attack, stream=True), ATTACKS))
    assert [status // 100 for status, _ in replies] == [4] * len(ATTACKS), replies
    assert [status // 100 for status, _ in streamed] == [4] * len(ATTACKS), streamed
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
        {"steerkit": json.dumps({"vector": {"name": "good", "sha256": "0" * 64}, "layers": [1]})},
        {"steerkit": {"form": "steerkit-program-1", "cells": []}},
    ):
        assert servers[0].complete(vllm_xargs=arguments)[0] in (400, 422), arguments


def test_steering_beside_vllm_xargs_is_refused_rather_than_passed_over(servers: list[Server]) -> None:
    body = {"model": "model", "max_tokens": 4, "steerkit": ["good@layer=10"]}
    chat = {"messages": [{"role": "user", "content": "Hi"}]}
    for path, more in (
        ("/v1/completions", {"prompt": "Hi"}),
        ("/v1/chat/completions", chat),
        ("/v1/responses", {"input": "Hi"}),
    ):
        status, answer = servers[0].send(path, body | more)
        assert status == 400, path
        assert "vllm_xargs" in answer["error"]["message"]


def test_every_choice_of_a_request_is_steered(servers: list[Server]) -> None:
    def choices(cell: str | None, count: int) -> list[str]:
        status, answer = servers[0].complete(cell, n=count, temperature=1, top_k=1)
        assert status == 200, answer
        return [choice["text"] for choice in answer["choices"]]

    steered = choices("good@layer=10", 1)
    assert choices("good@layer=10", 3) == 3 * steered
    assert choices(None, 1) != steered


def test_beam_search_is_refused_rather_than_unsteered(servers: list[Server]) -> None:
    assert servers[0].complete("good@layer=10", use_beam_search=True, n=2)[0] == 400
    assert servers[0].complete(use_beam_search=True, n=2)[0] == 200


def test_ten_thousand_distinct_cells_fail_alone(servers: list[Server]) -> None:
    server, own = servers[0], "good@layer=10,strength=0.5"
    alone = [server.complete(cell, 24)[1]["choices"][0]["text"] for cell in (None, own)]
    assert alone[0] != alone[1]

    def patient(cell: str | None) -> str:
        while (answer := server.complete(cell, 24))[0] == 429:
            time.sleep(0.05)
        return answer[1]["choices"][0]["text"]

    with ThreadPoolExecutor(40) as pool:
        bystanders = [pool.submit(patient, cell) for cell in (None, own)]
        flood = (f"good@layer=10,strength={1 + number / 1000}" for number in range(FLOOD))
        replies = list(pool.map(lambda cell: server.complete(cell, 16), flood))
    counts = Counter(status for status, _ in replies)
    print(dict(counts))
    assert set(counts) == {200, 429}
    assert counts[200] >= CELLS
    assert [bystander.result() for bystander in bystanders] == alone
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


def through(servers: Sequence[Server]) -> list[str]:
    urls = [part for server in servers for part in ("--server", server.url)]
    return ["--engine", "server", "--dtype", "float32", *urls]


def test_decodings_are_those_of_the_transformers_engine(smollm: LanguageModel, servers: list[Server]) -> None:
    hows = [
        Decoding(20, repetition_penalty=1.2, stop=("the", "\n"), stop_token_ids=30),
        Decoding(20, stop=("<|im_end|>", "at ", "ou")),
        Decoding(20, 0.9, top_k=1, repetition_penalty=1.1, stop="e"),
        Decoding(20, 0.9, min_p=1.0, stop=","),
    ]
    requests = [
        Request(question, (), how, key=(question, i))
        for question in ("Name a fruit.", "What is a boat?", "Tell me of the sea and the moon.")
        for i, how in enumerate(hows)
    ]
    client = ServerEngine([server.url for server in servers], MODEL)
    theirs = {c.request.key: (c.token_ids, c.text, c.finish) for c in client.generate(requests)}
    ours = {
        c.request.key: (c.token_ids, c.text, c.finish) for c in TransformersEngine(smollm).generate(requests)
    }
    assert theirs == ours
    assert sum(finish == "stop" for _, _, finish in ours.values()) > len(ours) / 2


def test_readings_come_back_over_http(
    smollm: LanguageModel, servers: list[Server], vector: SteeringVector
) -> None:
    readers = (
        VectorReader(vector.renamed("good"), 10),
        NamedReader("log-probability"),
        NamedReader("entropy"),
    )
    requests = [
        Request(question, cell, how, key=(question, bool(cell), i), readers=readers)
        for question in ("Name a fruit.", "What is a boat?")
        for cell in ((), (vector.renamed("good").at(10, 0.5),))
        for i, how in enumerate((Decoding(12), Decoding(20, stop=("the", "\n"))))
    ]
    client = ServerEngine([server.url for server in servers], MODEL)
    client.check(requests[0])
    theirs = {c.request.key: c for c in client.generate(requests)}
    for ours in TransformersEngine(smollm).generate(requests):
        got = theirs[ours.request.key]
        assert (got.token_ids, got.finish) == (ours.token_ids, ours.finish)
        for a, b in zip(got.readings, ours.readings, strict=True):
            assert len(a.prompt) == len(b.prompt)
            both = list(zip((*a.prompt, *a.completion), (*b.prompt, *b.completion), strict=False))
            read = [(x, y) for x, y in both if x is not None and y is not None]
            # But for the first of logits, and the last of states where its length or a stop text ended the row.
            assert len(read) >= len(both) - 2
            assert [x for x, _ in read] == pytest.approx([y for _, y in read], abs=1e-4, rel=1e-4)


def test_a_chat_answer_has_readings_and_what_could_not_hold_them_is_refused(servers: list[Server]) -> None:
    asked = {"steerkit_readers": ["entropy", "good@layer=10", "abstain-smollm2-135m-instruct@as=probe"]}
    body = {
        "model": "model",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 5,
        "temperature": 0,
    }
    path = "/v1/chat/completions"
    status, answer = servers[0].send(path, body | {"vllm_xargs": asked, "return_token_ids": True})
    assert status == 200, answer
    entropy, along, probe = answer["kv_transfer_params"]["steerkit"]["readings"]
    prompt = len(answer["prompt_token_ids"])
    assert (entropy["reader"], len(entropy["prompt"]), len(entropy["completion"])) == ("entropy", prompt, 5)
    assert (entropy["prompt"][0], entropy["completion"][-1], along["completion"][-1]) == (None, None, None)
    assert None not in along["prompt"] + along["completion"][:-1]
    assert all(0 < value < 1 for value in probe["prompt"])
    for more in (
        {"stream": True},
        {"n": 2},
        {"vllm_xargs": {"steerkit_readers": "nothing"}},
        {"vllm_xargs": {"steerkit_readers": "good@layer=99"}},
        {"vllm_xargs": {"steerkit_readers": "../secret@layer=1"}},
        {"vllm_xargs": {"steerkit_readers": ["good@layer=1"] * 40}},
    ):
        status, refused = servers[0].send(path, body | {"vllm_xargs": asked} | more)
        assert status == 400, (more, refused)
    assert servers[0].complete(prompt=["a", "b"], vllm_xargs=asked)[0] == 400
    assert servers[0].complete()[1].get("kv_transfer_params") is None


def test_the_doctor_finds_that_the_servers_steer_as_commanded(servers: list[Server], vectors: Path) -> None:
    good = f"{vectors / 'good.safetensors'}@layer=10"
    done = steerkit("doctor", *through(servers), "--steer", good, "--json")
    assert done.code == 0, done.out + done.err
    assert [report["server"] for report in json.loads(done.out)["servers"]] == [s.url for s in servers]


def test_a_sweep_that_a_server_would_refuse_is_not_begun(
    servers: list[Server], vector: SteeringVector, tmp_path: Path
) -> None:
    file = vector.renamed("unknown").save(tmp_path / "unknown.safetensors")
    grid = ["--vector", file, "--layers", "10", "--strengths", "1", "--limit", "2"]
    done = steerkit("sweep", *through(servers), *grid, "--out", tmp_path / "run")
    assert done.code == 2
    assert "no vector 'unknown' on this server" in done.err
    assert not (tmp_path / "run").exists()


def test_two_replicas_one_killed_midway_lose_and_double_nothing(
    servers: list[Server], vectors: Path, tmp_path: Path
) -> None:
    """The last test: it leaves one server dead."""
    grid = ["--vector", str(vectors / "good.safetensors"), "--layers", "10,20", "--strengths", "1"]
    grid += ["--limit", "24", "--max-new-tokens", "12"]
    total = 24 * (1 + 2 * 2)

    def kill_when_a_third_is_done() -> None:
        lines = tmp_path / "struck" / "records.jsonl"
        while not lines.exists() or lines.read_bytes().count(b"\n") < total // 3:
            time.sleep(0.01)
        servers[1].kill()

    killer = threading.Thread(target=kill_when_a_third_is_done, daemon=True)
    killer.start()
    done = steerkit(
        "sweep", *through(servers), "--batch-size", 8, "--timeout", 60, *grid, "--out", tmp_path / "struck"
    )
    assert done.code == 0, done.err
    killer.join(1)
    assert servers[1].process.poll() is not None
    struck = {record.key: record for record in RunDirectory(tmp_path / "struck").records()}
    lines = (tmp_path / "struck" / "records.jsonl").read_bytes().count(b"\n")
    assert len(struck) == lines == total
    assert steerkit("sweep", *grid, "--out", tmp_path / "here").code == 0
    here = {record.key: record for record in RunDirectory(tmp_path / "here").records()}
    assert struck.keys() == here.keys()
    same = sum(struck[key] == here[key] for key in here)
    print(f"{same} of {len(here)} records identical")
    assert same >= 0.99 * len(here)
