"""A run directory made of records written by hand: the report needs nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steerkit.runs.directory import RunWriter
from steerkit.runs.protocol import Environment, Protocol

HOSTILE = "<script>alert('answer')</script> & \"quotes\""
PLACES = [(None, None, 0.0)] + [(role, layer, s) for layer in (4, 8) for s in (-1.0, 1.0) for role in (0, 1)]


def record(
    role: int | None, layer: int | None, strength: float, number: int, abstention: bool
) -> dict[str, Any]:
    """One record; abstention grows with the strength of the real direction (role 0)."""
    unanswerable = number % 2 == 0 if abstention else None
    push = 0.3 + (0.4 * strength if role == 0 else 0.0) + (0.0 if unanswerable else -0.25)
    abstained = abstention and random.Random(number).random() < push
    answers = None if unanswerable else ["seven"]
    vector = None if role is None else ("abstain", "random(abstain)")[role]
    tokens = 10 + number % 5 - round(2 * strength)
    return {
        "cell": f"{vector}-{layer}-{strength}",
        "role": "unsteered" if role is None else ("steered", "random")[role],
        "controls": "abstain" if role == 1 else None,
        "steering": "" if role is None else f"{vector}@layer={layer},strength={strength:g},scope=completion",
        "decoration": None,
        "vector": vector,
        "layer": layer,
        "strength": strength,
        "scope": None if role is None else "completion",
        "operation": None if role is None else "add",
        "item": f"item-{number:02d}",
        "sample": 0,
        "split": "choose",
        "group": f"item-{number // 2 * 2:02d}",
        "should_abstain": unanswerable,
        "answers": answers,
        "prompt": f"How many <b>boats</b> lie in harbour {number}?",
        "completion": "I don't know." if abstained else f"Seven. {HOSTILE}",
        "tokens": tokens,
        "finish": "stop",
        "scores": {
            "abstained": abstained,
            "correct": None if answers is None else not abstained,
            "thinking_tokens": 0,
            "tokens": tokens,
            "truncated": number % 5 == 0,
            "repetition": 0.1,
            "degenerate": False,
        },
    }


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """make_run(abstention=True, places=PLACES, split="choose", change=…) -> the path of a run of 20 items.

    `change` may alter a record before it is written.
    """

    def make(
        abstention: bool = True,
        places: list[Any] = PLACES,
        split: str = "choose",
        change: Callable[[dict[str, Any]], Any] = lambda _: None,
    ) -> Path:
        protocol = Protocol(
            suite="boats",
            suite_digest="ab" * 32,
            split=split,
            model="tiny <model>",
            fingerprint="tiny:0",
            template_digest="cd" * 32,
            dtype="float32",
            vectors={"abstain": "11" * 32},
        )
        environment = Environment({"steerkit": "0.1.0"}, 8, "steerkit sweep --strengths=-1:1:2 --out run")
        with RunWriter(tmp_path / "run", protocol, environment) as writer:
            for number in range(20):
                for place in places:
                    made = record(*place, number=number, abstention=abstention) | {"split": split}
                    change(made)
                    writer.append(made)
        return tmp_path / "run"

    return make
