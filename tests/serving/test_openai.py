"""The official client, unmodified, drives the server; what comes is what the engine writes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from steerkit.engines.base import Decoding, Request
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interventions.vector import SteeringVector
from steerkit.models import LanguageModel
from tests.serving.serving import Asked

QUESTION: Any = [{"role": "user", "content": "Who won?"}]
STEERED: dict[str, Any] = {"steerkit": ["good@layer=1,strength=0.3"]}


@pytest.fixture
def client(server: Asked) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def written(engine: TransformersEngine, *cell: Any, tokens: int = 12, **how: Any) -> str:
    [done] = engine.generate([Request("Who won?", cell, Decoding(tokens, **how))])
    return done.text


def test_a_chat_is_answered_as_the_engine_writes_it(
    client: openai.OpenAI, engine: TransformersEngine, vector: SteeringVector, server: Asked
) -> None:
    asked = {"model": server.model, "messages": QUESTION, "max_tokens": 12, "temperature": 0}
    plain = client.chat.completions.create(**asked)
    steered = client.chat.completions.create(**asked, extra_body={"vllm_xargs": STEERED})
    beside = client.chat.completions.create(**asked, extra_body=STEERED)
    assert plain.choices[0].message.content == written(engine)
    assert steered.choices[0].message.content == written(engine, vector.at(1, 0.3))
    assert beside.choices[0].message.content == steered.choices[0].message.content
    assert steered.choices[0].message.content != plain.choices[0].message.content
    assert plain.usage is not None
    assert plain.usage.total_tokens == plain.usage.prompt_tokens + plain.usage.completion_tokens
    assert [model.id for model in client.models.list()] == [server.model]
    assert client.models.retrieve(server.model).id == server.model


def test_a_stream_says_the_same_piece_by_piece(client: openai.OpenAI, server: Asked) -> None:
    asked = {"model": server.model, "messages": QUESTION, "max_tokens": 24, "seed": 5, "temperature": 0.7}
    whole = client.chat.completions.create(**asked, extra_body=STEERED)
    stream = client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}, extra_body=STEERED
    )
    *pieces, last = list(stream)
    assert "".join(p.choices[0].delta.content or "" for p in pieces) == whole.choices[0].message.content
    assert pieces[0].choices[0].delta.role == "assistant"
    assert pieces[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert last.choices == []
    assert last.usage == whole.usage
    assert len({p.id for p in (*pieces, last)}) == 1


def test_a_stream_tells_the_log_probabilities_that_a_whole_answer_tells(
    client: openai.OpenAI, server: Asked
) -> None:
    asked: Any = {"model": server.model, "messages": QUESTION, "max_tokens": 9, "seed": 5, "stop": "q"}
    more: Any = {"logprobs": True, "top_logprobs": 2, "extra_body": STEERED}
    whole = client.chat.completions.create(**asked, **more).choices[0].logprobs
    pieces = [
        piece.choices[0].logprobs for piece in client.chat.completions.create(**asked, **more, stream=True)
    ]
    assert whole is not None
    told = [each for piece in pieces if piece is not None for each in piece.content or ()]
    assert [each.model_dump() for each in told] == [each.model_dump() for each in whole.content or ()]
    text: Any = {"model": server.model, "prompt": "Hi", "max_tokens": 9, "seed": 5, "logprobs": 2}
    one = client.completions.create(**text).choices[0]
    offsets: list[int] = []
    for piece in client.completions.create(**text, stream=True):
        if (found := piece.choices[0].logprobs) is not None:
            offsets += found.text_offset or []
    assert one.logprobs is not None
    assert offsets[0] == 0
    assert len(offsets) == len(one.logprobs.tokens or ()) > 0


def test_several_choices_are_streamed_apart(client: openai.OpenAI, server: Asked) -> None:
    asked = {"model": server.model, "prompt": ["Hi", "Who?"], "n": 2, "max_tokens": 9, "seed": 3}
    whole = client.completions.create(**asked)
    texts = ["", "", "", ""]
    for piece in client.completions.create(**asked, stream=True):
        texts[piece.choices[0].index] += piece.choices[0].text
    assert texts == [choice.text for choice in whole.choices]
    assert len(set(texts)) == 4
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == 2 + 4


def test_one_seed_gives_one_text_and_another_another(client: openai.OpenAI, server: Asked) -> None:
    def text(seed: int | None) -> str:
        asked = {"model": server.model, "prompt": "Hi", "max_tokens": 12, "seed": seed}
        return client.completions.create(**asked).choices[0].text

    assert text(1) == text(1)
    assert len({text(2), text(3), text(None), text(None)}) == 4


def test_all_of_a_decoding_is_carried_out(
    client: openai.OpenAI, engine: TransformersEngine, server: Asked, lm: LanguageModel
) -> None:
    ids = lm.renderer.encode_prompt("Who won?")
    how: dict[str, Any] = {"top_p": 0.9, "temperature": 0.8, "seed": 4, "stop": ["q", "zz"]}
    more: dict[str, Any] = {"top_k": 20, "min_p": 0.05, "repetition_penalty": 1.2, "stop_token_ids": [90]}
    done = client.completions.create(model=server.model, prompt=ids, max_tokens=40, extra_body=more, **how)
    expected = written(engine, tokens=40, **{**how, **more, "stop": ("q", "zz"), "stop_token_ids": (90,)})
    assert done.choices[0].text == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stop", [""]),
        ("stop", ["a" * 300]),
        ("stop", [3]),
        ("prompt", 3),
        ("prompt", [-1]),
        ("prompt", [["a"]]),
        ("seed", 1 << 70),
        ("n", True),
        ("top_p", 0),
        ("logit_bias", {"1": 5}),
    ],
)
def test_an_error_names_the_field_that_was_sent(server: Asked, field: str, value: Any) -> None:
    status, answer = server.complete(**{field: value})
    assert (status, answer["error"]["param"].partition(".")[0]) == (400, field)
    assert not {"str", "list[str]"} & set(answer["error"]["param"].split("."))


def test_errors_are_the_clients_own(client: openai.OpenAI, server: Asked) -> None:
    asked: Any = {"model": server.model, "messages": QUESTION, "max_tokens": 4}
    with pytest.raises(openai.BadRequestError, match="no vector 'absent'") as found:
        client.chat.completions.create(**asked, extra_body={"steerkit": "absent@layer=1"})
    assert found.value.param == "steerkit"
    with pytest.raises(openai.BadRequestError, match="'tools' is not supported here"):
        client.chat.completions.create(**asked, tools=[{"type": "function", "function": {"name": "f"}}])
    with pytest.raises(openai.NotFoundError, match="is not served here"):
        client.chat.completions.create(**asked | {"model": "another"})
    with pytest.raises(openai.BadRequestError, match="unknown field 'strength'"):
        client.chat.completions.create(**asked, extra_body={"strength": 3})


def test_what_was_read_and_decided_stands_where_the_plugin_puts_it(
    client: openai.OpenAI, server: Asked, lm: LanguageModel
) -> None:
    asked: Any = {"model": server.model, "messages": QUESTION, "max_tokens": 6, "temperature": 0}
    more = {
        "steerkit": ["good@layer=1,gate=doubt,threshold=0.999", "stop-and-say@when=entropy,on=0,text=Enough"],
        "steerkit_readers": ["entropy", "good@layer=2", "doubt"],
    }
    done = client.chat.completions.create(**asked, extra_body=more)
    assert done.model_extra is not None
    told = done.model_extra["kv_transfer_params"]["steerkit"]
    prompt = len(lm.renderer.encode_prompt("Who won?"))
    assert [len(each["prompt"]) for each in told["readings"]] == [prompt] * 3
    assert told["gates"][0]["gate"] == "doubt"
    assert told["decisions"][0]["policy"] == "stop-and-say"
    *_, last = client.chat.completions.create(**asked, extra_body=more, stream=True)
    assert last.model_extra is not None
    assert last.model_extra["kv_transfer_params"]["steerkit"] == told


def test_many_async_clients_are_told_what_each_is_told_alone(
    engine: TransformersEngine, vector: SteeringVector, server: Asked
) -> None:
    strengths = [0.05 * i for i in range(24)]

    async def all_at_once() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:

            async def one(strength: float) -> str:
                stream = await client.chat.completions.create(
                    model=server.model,
                    messages=QUESTION,
                    max_tokens=10,
                    temperature=0,
                    stream=True,
                    extra_body={"steerkit": [f"good@layer=1,strength={strength}"]},
                )
                return "".join([piece.choices[0].delta.content or "" async for piece in stream])

            return list(await asyncio.gather(*map(one, strengths)))

    expected = [written(engine, vector.at(1, strength), tokens=10) for strength in strengths]
    assert asyncio.run(all_at_once()) == expected
