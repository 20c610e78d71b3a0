"""What holds of `steerkit serve` and of vLLM with the plugin alike: one client, one contract."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from steerkit.engines.base import Decoding, Request, ScoreRequest
from steerkit.engines.remote.server import ServerEngine
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interventions.readers import NamedReader, VectorReader
from tests.serving.contract.conftest import Party
from tests.tiny import random_vector, tiny_model

QUESTIONS = ("Name a fruit.", "What is a boat?", "Tell me of the sea and the moon.")
CHAT: Any = [{"role": "user", "content": "Name three colours."}]


@pytest.fixture
def client(party: Party) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{party.asked.url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def through(party: Party, tmp_path_factory: pytest.TempPathFactory) -> ServerEngine:
    folder = tmp_path_factory.mktemp("known") / "model"
    party.lm.hf.config.save_pretrained(folder)
    party.lm.hf.save_pretrained(folder)
    party.lm.tokenizer.save_pretrained(folder)
    return ServerEngine([party.asked.url], str(folder), attempts=2)


def spec(party: Party, strength: float = 1.0) -> str:
    return f"good@layer={party.layer},strength={strength}"


def test_it_lists_its_model_and_how_much_it_reads(party: Party) -> None:
    _, answer = party.asked.ask("/v1/models")
    [entry] = answer["data"]
    assert entry["id"] == party.asked.model
    assert entry["max_model_len"] <= party.lm.context_length
    assert party.asked.send("/health", None)[0] == 200


def test_rows_are_those_of_the_transformers_engine(party: Party, through: ServerEngine) -> None:
    hows = [
        Decoding(20),
        Decoding(20, repetition_penalty=1.2, stop=("the", "\n"), stop_token_ids=30),
        Decoding(20, stop=("<|im_end|>", "at ", "ou")),
        Decoding(20, 0.9, top_k=1, repetition_penalty=1.1, stop="e"),
        Decoding(20, 0.9, min_p=1.0, stop=","),
    ]
    cells = [(), (party.vector.at(party.layer, 0.5),), (party.vector.at(party.layer, -0.5, scope="all"),)]
    requests = [
        Request(question, cell, how, key=(question, i, j))
        for question in QUESTIONS
        for i, how in enumerate(hows)
        for j, cell in enumerate(cells)
    ]
    for request in requests:
        through.check(request)
    theirs = {c.request.key: (c.token_ids, c.text, c.finish) for c in through.generate(requests)}
    ours = TransformersEngine(party.lm).generate(requests)
    assert theirs == {c.request.key: (c.token_ids, c.text, c.finish) for c in ours}


def test_scores_are_those_of_the_transformers_engine(party: Party, through: ServerEngine) -> None:
    readers = (VectorReader(party.vector, party.layer), NamedReader("entropy"))
    asked = [
        ScoreRequest(question, " because it is.", cell, readers=readers)
        for question in QUESTIONS
        for cell in ((), (party.vector.at(party.layer, 0.5),))
    ]
    for a, b in zip(through.score(asked), TransformersEngine(party.lm).score(asked), strict=True):
        assert a.log_probabilities == pytest.approx(b.log_probabilities, abs=1e-3)
        for x, y in zip(a.readings, b.readings, strict=True):
            assert_alike((*x.prompt, *x.completion), (*y.prompt, *y.completion))


def test_readings_are_those_of_the_transformers_engine(party: Party, through: ServerEngine) -> None:
    readers = (VectorReader(party.vector, party.layer), NamedReader("log-probability"))
    asked = [
        Request(question, cell, Decoding(12), key=(question, bool(cell)), readers=readers)
        for question in QUESTIONS
        for cell in ((), (party.vector.at(party.layer, 0.5),))
    ]
    theirs = {c.request.key: c for c in through.generate(asked)}
    for ours in TransformersEngine(party.lm).generate(asked):
        got = theirs[ours.request.key]
        assert got.token_ids == ours.token_ids
        for x, y in zip(got.readings, ours.readings, strict=True):
            assert_alike((*x.prompt, *x.completion), (*y.prompt, *y.completion))


def assert_alike(some: tuple[float | None, ...], others: tuple[float | None, ...]) -> None:
    """Readings are alike where both have one; at most two of a text have none."""
    assert len(some) == len(others)
    both = [(a, b) for a, b in zip(some, others, strict=True) if a is not None and b is not None]
    assert len(both) >= len(some) - 2
    assert [a for a, _ in both] == pytest.approx([b for _, b in both], abs=1e-3, rel=1e-3)


def test_a_chat_is_steered_and_streams_what_it_says_whole(client: openai.OpenAI, party: Party) -> None:
    asked: Any = {"model": party.asked.model, "messages": CHAT, "max_tokens": 16, "temperature": 0}
    steered = {"vllm_xargs": {"steerkit": [spec(party, 2.0)]}}
    plain = client.chat.completions.create(**asked).choices[0]
    whole = client.chat.completions.create(**asked, extra_body=steered).choices[0]
    assert whole.message.content != plain.message.content
    options = {"include_usage": True}
    *pieces, last = client.chat.completions.create(
        **asked, stream=True, stream_options=options, extra_body=steered
    )
    said = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert said.strip() == (whole.message.content or "").strip()
    assert last.usage is not None
    assert last.usage.completion_tokens > 0


def test_log_probabilities_are_told_in_openais_forms(client: openai.OpenAI, party: Party) -> None:
    asked: Any = {"model": party.asked.model, "max_tokens": 5, "temperature": 0}
    told = client.chat.completions.create(**asked, messages=CHAT, logprobs=True, top_logprobs=3).choices[0]
    assert told.logprobs is not None
    content = told.logprobs.content or []
    assert 0 < len(content) <= 5
    for each in content:
        assert len(each.top_logprobs) == 3
        assert each.logprob == pytest.approx(each.top_logprobs[0].logprob, abs=1e-4)
    done = client.completions.create(**asked, prompt="The sea is", logprobs=2).choices[0]
    assert done.logprobs is not None
    assert done.logprobs.tokens is not None
    assert done.logprobs.token_logprobs is not None
    assert done.logprobs.top_logprobs is not None
    assert len(done.logprobs.tokens) == len(done.logprobs.token_logprobs) == len(done.logprobs.top_logprobs)
    for token, nats, likely in zip(
        done.logprobs.tokens, done.logprobs.token_logprobs, done.logprobs.top_logprobs, strict=True
    ):
        assert likely[token] == pytest.approx(nats)
    scored = client.completions.create(
        **asked | {"max_tokens": 1}, prompt="The sea is", extra_body={"prompt_logprobs": 0}
    )
    assert scored.choices[0].model_extra is not None
    first, *rest = scored.choices[0].model_extra["prompt_logprobs"]
    assert first is None
    assert all(next(iter(each.values()))["logprob"] <= 0 for each in rest)


def test_every_choice_is_steered_and_a_seed_gives_the_same_ones(party: Party) -> None:
    def choices(cell: str | None, count: int, **more: Any) -> list[str]:
        status, answer = party.asked.complete(cell, n=count, **more)
        assert status == 200, answer
        return [choice["text"] for choice in answer["choices"]]

    steered = choices(spec(party), 1, temperature=1, top_k=1)
    assert choices(spec(party), 3, temperature=1, top_k=1) == 3 * steered
    assert choices(None, 1, temperature=1, top_k=1) != steered
    drawn = choices(spec(party, 0.2), 2, temperature=1, seed=7)
    assert choices(spec(party, 0.2), 2, temperature=1, seed=7) == drawn
    assert len(set(drawn)) == 2


def test_an_answer_has_what_was_read(party: Party) -> None:
    asked = {"steerkit_readers": ["entropy", f"good@layer={party.layer}"]}
    body = {"model": party.asked.model, "messages": CHAT, "max_tokens": 5, "temperature": 0}
    path = "/v1/chat/completions"
    status, answer = party.asked.ask(path, body | {"vllm_xargs": asked, "return_token_ids": True})
    assert status == 200, answer
    entropy, along = answer["kv_transfer_params"]["steerkit"]["readings"]
    prompt, said = len(answer["prompt_token_ids"]), len(answer["choices"][0]["token_ids"])
    assert (entropy["reader"], len(entropy["prompt"])) == ("entropy", prompt)
    assert len(along["completion"]) in (said, said - 1)  # vLLM counts the token that ended it
    assert entropy["prompt"][0] is None
    assert None not in along["prompt"]
    for more in (
        {"n": 2},
        {"vllm_xargs": {"steerkit_readers": "nothing"}},
        {"vllm_xargs": {"steerkit_readers": "good@layer=99"}},
        {"vllm_xargs": {"steerkit_readers": "../secret@layer=1"}},
        {"vllm_xargs": {"steerkit_readers": [f"good@layer={party.layer}"] * 40}},
    ):
        status, refused = party.asked.ask(path, body | {"vllm_xargs": asked} | more)
        assert status == 400, (more, refused)
    assert party.asked.complete(prompt=["a", "b"], vllm_xargs=asked)[0] == 400
    assert party.asked.complete()[1].get("kv_transfer_params") is None


REFUSED: list[Any] = [
    "@",
    "../secret@layer=1",
    "/etc/passwd@layer=1",
    "%2e%2e%2fsecret@layer=1",
    "good@layer=1,gate=../secret,threshold=0",
    "absent@layer=1",
    "good@layer=99",
    "good@layer=999999999999",
    "good@layer=1,strength=nan",
    "good@layer=1,strength=1e38",
    "good@layer=1,scope=nowhere",
    "x" * 100_000,
    "[" * 60_000,
    ["good@layer=1"] * 10_000,
    '{"vector": "good"}',
    '{"vector": {"name": "good", "sha256": "00"}, "layers": [1]}',
]


@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_meant_is_refused_by_name(party: Party, stream: bool) -> None:
    for asked in REFUSED:
        status, answer = party.asked.complete(asked, stream=stream)
        assert (status, answer["error"]["param"]) == (400, "steerkit"), (str(asked)[:80], answer)
        assert str(party.folder.parent) not in answer["error"]["message"]
    for asked in (7, 3.5, "", {"form": "steerkit-program-1", "cells": []}):
        assert party.asked.complete(asked, stream=stream)[0] // 100 == 4


def test_misspelt_arguments_are_refused(party: Party) -> None:
    for arguments in (
        {"Steerkit": "good@layer=1"},
        {"steerkit_prompt_tokens": 3},
        {"steerkit": "good@layer=1", "steerkit_prompt_tokens": 10_000},
        {"steerkit": "good@layer=1", "steerkit_strength": 1},
    ):
        assert party.asked.complete(vllm_xargs=arguments)[0] in (400, 422), arguments


def test_another_models_vector_is_refused(party: Party) -> None:
    random_vector(tiny_model(seed=9), name="wrong").save(party.folder / "wrong.safetensors")
    status, answer = party.asked.complete("wrong@layer=1")
    assert (status, answer["error"]["param"]) == (400, "steerkit")
