"""What a request may ask for, and all the ways in which it may not."""

from __future__ import annotations

import json

import pytest

from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.engines.remote.arguments import asked_for
from steerkit.engines.remote.wire import check_digests, parse_prompt_tokens, parse_steerings
from steerkit.interventions.vector import SteeringVector
from steerkit.models import LanguageModel
from tests.tiny import random_vector


@pytest.fixture
def vector(tiny: LanguageModel) -> SteeringVector:
    return random_vector(tiny, name="abstain")


def parse(value: object, vector: SteeringVector) -> list[str]:
    def load(name: str) -> SteeringVector:
        if name != "abstain":
            raise MisuseError(f"no vector {name!r}")
        return vector

    return [steering.spec() for steering in parse_steerings(value, load, load)]


CANONICAL = "abstain@layer=1+2,strength=1.5,scope=all"


@pytest.mark.parametrize(
    "value",
    [
        "abstain@layer=1+2,strength=1.5,scope=all",
        ["abstain@layer=1:2,strength=1.50,scope=all"],
        json.dumps([{"vector": "abstain", "layers": [1, 2], "strength": 1.5, "scope": "all"}]),
        json.dumps({"vector": "abstain", "layer": "1+2", "strength": 1.5, "scope": "all"}),
        [json.dumps({"vector": "abstain", "layer": [1, 2], "strength": "1.5", "scope": "all"})],
        [{"vector": "abstain", "layer": [1, 2], "strength": 1.5, "scope": "all"}],
    ],
)
def test_a_spec_and_its_json_forms_mean_the_same(value: object, vector: SteeringVector) -> None:
    assert parse(value, vector) == [CANONICAL]


def test_several_steerings_keep_their_order(vector: SteeringVector) -> None:
    specs = ["abstain@layer=3,scope=prompt", "abstain@layer=1,strength=-2"]
    assert [s.partition(",")[0] for s in parse(specs, vector)] == ["abstain@layer=3", "abstain@layer=1"]


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("", "names no vector"),
        ("@", "names no vector"),
        ("abstain", "names no layer"),
        ("abstain@layer=99", "layer 99 is out of range"),
        ("abstain@layer=-1", "layer -1 is out of range"),
        ("abstain@layer=0:99999999", "'layer'"),
        ("abstain@layer=" + "+".join(["0:999"] * 150), "'layer'"),
        ("abstain@layer=1,strength=nan", "strength"),
        ("abstain@layer=1,strength=inf", "strength"),
        ("abstain@layer=1,strength=1e999", "strength"),
        ("abstain@layer=1,scope=everything", "scope"),
        ("abstain@layer=1,operation=explode", "operation"),
        ("abstain@layer=1,operation=clamp", "target"),
        ("abstain@layer=1,gate=abstain", "threshold"),
        ("abstain@layer=1,color=red", "color"),
        ("x" * 5000, "at most"),
        (["abstain@layer=1"] * 10_000, "at most 16"),
        ("[" * 50_000, "JSON"),
        ("[" + "1," * 40_000 + "1]", "at most"),
        ('[{"vector": "abstain"}]', "layer"),
        ('[{"layer": 1}]', "'vector'"),
        ('[{"vector": "abstain", "layer": true}]', "'layer'"),
        ('[{"vector": "abstain", "layer": [[1]]}]', "'layer'"),
        ('[{"vector": "abstain", "layer": 1, "scope": "all,strength=9"}]', "'scope'"),
        ('[{"vector": "abstain", "layer": 1, "strength": NaN}]', "strength"),
        ('{"vector": "abstain", "layer": 1, "file": "/etc/passwd"}', "'file'"),
        ([["abstain@layer=1"]], "list"),
        (7, "int"),
        (None, "NoneType"),
        ({"form": "steerkit-program-1", "cells": []}, "'vector'"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(value: object, named: str, vector: SteeringVector) -> None:
    with pytest.raises(SteerkitError, match=named):
        parse(value, vector)


def test_only_our_arguments_are_ours() -> None:
    assert not asked_for(None)
    assert not asked_for({"other": 1})
    assert asked_for({"steerkit": "x", "steerkit_prompt_tokens": 3, "other": 1})
    for wrong in ({"steerkit_": "x"}, {"Steerkit": "x"}, {"steerkit_prompt_tokens": 3}, {"steerkits": []}):
        with pytest.raises(MisuseError):
            asked_for(wrong)


@pytest.mark.parametrize("value", [0, -1, "3", 2.0, True, [3]])
def test_a_prompt_length_is_a_number_of_tokens(value: object) -> None:
    with pytest.raises(MisuseError, match="steerkit_prompt_tokens"):
        parse_prompt_tokens(value)


def test_a_server_with_another_vector_of_that_name_refuses(vector: SteeringVector) -> None:
    steerings = (vector.at(1),)
    check_digests([vector.digest], steerings)
    check_digests(None, steerings)
    for wrong in (["0" * 64], [], [vector.digest] * 2, vector.digest, [3]):
        with pytest.raises(MisuseError, match="steerkit_digests"):
            check_digests(wrong, steerings)
