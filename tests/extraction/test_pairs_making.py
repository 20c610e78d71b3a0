"""Pairs made from a model's own completions, over an engine that answers from a script."""

from __future__ import annotations

import pytest

from steerkit.core.errors import InputError
from steerkit.engines.base import Completion
from steerkit.extraction.make import abstention, brevity, make_pairs


class ScriptedEngine:
    """Answers by prompt and side; completions come in reverse order."""

    def __init__(self, script):
        self.script = script
        self.requests = []

    def generate(self, requests):
        self.requests = list(requests)
        for request in reversed(self.requests):
            text = self.script[request.prompt][request.key[1]]
            finish = "length" if text.endswith("…") else "stop"
            yield Completion(request, text, tuple(range(len(text.split()))), finish, prompt_tokens=1)


def script(**answers):
    return ScriptedEngine({p: {"positive": a, "negative": b} for p, (a, b) in answers.items()})


def test_brevity_keeps_the_pairs_whose_concise_side_is_shorter_by_the_ratio():
    engine = script(
        good=("6", "two times three is six"), same=("six it is", "it is six"), cut=("6", "two times…")
    )
    steps = []
    made = make_pairs(
        engine, ["good", "same", "cut"], brevity(ratio=0.5), progress=lambda *step: steps.append(step)
    )
    assert steps == [(done, 6) for done in range(1, 7)]
    (pair,) = made.pairs
    assert (pair.prompt, pair.positive, pair.negative, pair.system) == (
        "good",
        "6",
        "two times three is six",
        None,
    )
    assert [index for index, _ in made.dropped] == [1, 2]
    assert "3 tokens" in made.dropped[0][1]
    assert "cut off" in made.dropped[1][1]


def test_brevity_instructs_both_sides_and_abstention_only_the_positive_one():
    engine = script(q=("6", "two times three is six"))
    make_pairs(engine, ["q"], brevity())
    assert all(request.system for request in engine.requests)
    engine = script(q=("I do not know", "six"))
    make_pairs(engine, ["q"], abstention(lambda text: "know" in text))
    assert [request.system is None for request in engine.requests] == [False, True]


def test_abstention_drops_what_was_answered_anyway_and_what_was_abstained_from_anyway():
    engine = script(
        good=("I do not know", "six"),
        answered=("six", "six"),
        both=("I do not know", "who can know"),
        empty=("", "six"),
    )
    made = make_pairs(engine, list(engine.script), abstention(lambda text: "know" in text))
    assert [pair.prompt for pair in made.pairs] == ["good"]
    assert [reason for _, reason in made.dropped] == [
        "the model answered although it was told to abstain",
        "the model abstained by itself",
        "a completion is empty",
    ]


def test_no_pair_at_all_is_an_error_that_says_why():
    with pytest.raises(InputError, match=r"none of the 1 prompts .* 2 tokens"):
        make_pairs(script(q=("a b", "c d")), ["q"], brevity())
    with pytest.raises(InputError, match="none of the 0 prompts"):
        make_pairs(script(), [], brevity())
