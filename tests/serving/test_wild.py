"""Values that may be meant, and are wild, harm nobody else's row."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.serving.serving import Asked

WILD: list[dict[str, Any]] = [
    {"repetition_penalty": 1e-300},
    {"repetition_penalty": 1e300},
    {"repetition_penalty": 1e-300, "temperature": 1.0},
    {"repetition_penalty": 1e300, "temperature": 1.0},
    {"temperature": 1e-6},
    {"temperature": 1e300},
    {"temperature": 1.0, "top_p": 1e-300},
    {"temperature": 1.0, "top_k": 10**9},
    {"temperature": 1.0, "min_p": 1.0},
    {"seed": -1, "temperature": 1.0},
    {"steerkit": "good@layer=0:3,strength=1e7,scope=all"},
    {"steerkit": "good@layer=1,strength=-1e7", "temperature": 1.0},
    {"steerkit": "good@layer=1,operation=clamp,target=1e7"},
    {"steerkit": "good@layer=1,strength=1,half_life=1e-300"},
    {"steerkit": "good@layer=1,strength=1,half_life=1e300"},
    {"steerkit": "good@layer=1,follows=entropy,low=0,high=1e-300"},
    {"steerkit": "good@layer=1,follows=entropy,low=0,high=1,most=-100"},
    {"steerkit": "good@layer=1,along=good,threshold=1e300"},
    {"steerkit": "opener-bias@openers=No,nats=1e38", "temperature": 1.0},
    {"steerkit": "opener-bias@openers=No,nats=-1e38", "temperature": 1.0},
    {"steerkit": "thinking-budget@tokens=0"},
    {"steerkit": "reply-now@when=entropy,on=1e300"},
    {"steerkit": 'stop-and-say@when=entropy,on=-1e300,text="\\u0000\\ud83d\\ude00"'},
    {"steerkit": 'prompt@begin="\\u0000"'},
    {"stop": ["\u0000", "\U0001f600", "e"]},
    {"stop_token_ids": [2**31 - 1]},
    {"prompt": "\u0000\u202e" * 10},
    {"prompt": [0]},
    {"prompt": [260] * 400, "max_tokens": 112},
]


@pytest.mark.parametrize("wild", WILD, ids=str)
def test_a_wild_request_is_refused_or_answered_and_harms_no_other(
    server: Asked, wild: dict[str, Any]
) -> None:
    def bystander() -> str:
        status, answer = server.complete("good@layer=1,strength=0.2", max_tokens=24)
        assert status == 200, answer
        text: str = answer["choices"][0]["text"]
        return text

    alone = bystander()
    with ThreadPoolExecutor(4) as pool:
        told = [pool.submit(bystander) for _ in range(2)]
        status, answer = server.complete(**{"max_tokens": 24, "seed": 1, **wild})
        assert [each.result() for each in told] == [alone] * 2
    assert status in (200, 400), answer
    assert bystander() == alone
