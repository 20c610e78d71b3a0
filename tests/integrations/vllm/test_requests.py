"""What a request may ask for, and all the ways in which it may not."""

from __future__ import annotations

import json

import pytest

from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.engines.remote.arguments import asked_for
from steerkit.engines.remote.wire import LONGEST_MESSAGE, read_argument, read_prompt_tokens, to_argument
from steerkit.interventions.gate import PositionGate
from steerkit.interventions.store import Store
from steerkit.interventions.vector import SteeringVector
from steerkit.models import LanguageModel
from tests.tiny import random_vector


@pytest.fixture
def vector(tiny: LanguageModel) -> SteeringVector:
    return random_vector(tiny, name="abstain")


def parse(value: object, vector: SteeringVector) -> list[str]:
    return [str(each) for each in read_argument(value, Store([vector], files=False))]


CANONICAL = "abstain@layer=1+2,strength=1.5,scope=all"
FORM = {"vector": "abstain", "layers": [1, 2], "strength": 1.5, "scope": "all"}


@pytest.mark.parametrize(
    "value",
    [
        "abstain@layer=1+2,strength=1.5,scope=all",
        ["abstain@layer=1:2,strength=1.50,scope=all"],
        json.dumps([FORM]),
        json.dumps({**FORM, "kind": "steering", "gate": None}),
        [json.dumps({**FORM, "vector": {"name": "abstain"}})],
        [FORM],
    ],
)
def test_a_spec_and_its_json_forms_mean_the_same(value: object, vector: SteeringVector) -> None:
    assert parse(value, vector) == [CANONICAL]


def test_what_a_client_sends_is_what_a_server_reads(vector: SteeringVector) -> None:
    sent = (
        vector.at([1, 2], -0.5, operation="clamp", target=2.0, scope="all"),
        vector.at(3, scope="thinking", gate=PositionGate(vector, 0.25)),
        vector.at(0, 1e-3, operation="rotate"),
    )
    assert read_argument(to_argument(sent), Store([vector], files=False)) == sent


def test_several_steerings_keep_their_order(vector: SteeringVector) -> None:
    specs = ["abstain@layer=3,scope=prompt", "abstain@layer=1,strength=-2"]
    for asked in (specs, " ; ".join(specs)):
        assert [s.partition(",")[0] for s in parse(asked, vector)] == ["abstain@layer=3", "abstain@layer=1"]


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("", "names nothing"),
        ("@", "names nothing"),
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
        (" ; ".join(["abstain@layer=1"] * 20), "at most 16"),
        ("abstain@layer=1,gate=other,threshold=0.5", "no vector or probe 'other'"),
        ('prompt@system="never closed', "quotation mark"),
        ("abstain@layer=1,color=red", "color"),
        ("x" * 5000, "at most"),
        (["abstain@layer=1"] * 10_000, "at most 16"),
        ("[" * 50_000, "JSON"),
        ("[" + "1," * 40_000 + "1]", "at most"),
        ('[{"vector": "abstain"}]', "layers"),
        ('[{"layers": [1]}]', "'vector'"),
        ('[{"vector": {"sha256": "00"}, "layers": [1]}]', "'vector'"),
        ('[{"vector": ["abstain"], "layers": [1]}]', "'vector'"),
        ('[{"vector": "other", "layers": [1]}]', "no vector or probe 'other'"),
        ('[{"vector": "abstain", "layers": 1}]', "int"),
        ('[{"vector": "abstain", "layers": [true]}]', "got True"),
        ('[{"vector": "abstain", "layers": [[1]]}]', "a layer is a whole number"),
        ('[{"vector": "abstain", "layers": ["1", 1]}]', "a layer is a whole number"),
        ('[{"vector": "abstain", "layers": [1], "scope": "all,strength=9"}]', "scope"),
        ('[{"vector": "abstain", "layers": [1], "scope": {}}]', "scope"),
        ('[{"vector": "abstain", "layers": [1], "operation": []}]', "JSON form"),
        ('[{"vector": "abstain", "layers": [1], "strength": NaN}]', "strength"),
        ('[{"vector": "abstain", "layers": [1], "strength": "2"}]', "strength"),
        ('[{"vector": "abstain", "layers": [1], "gate": 7}]', "JSON form"),
        ('[{"vector": "abstain", "layers": [1], "gate": {"kind": []}}]', "gate"),
        ('[{"vector": "abstain", "layers": [1], "gate": {"kind": "position", "threshold": 0}}]', "'vector'"),
        ('{"vector": "abstain", "layers": [1], "file": "/etc/passwd"}', "'file'"),
        ('{"kind": "spell", "vector": "abstain"}', "kind"),
        ('{"kind": "rule", "rule": []}', "JSON form"),
        (json.dumps({"vector": "abstain", "layers": [1], "scope": "x" * 9000}), "scope"),
        ([["abstain@layer=1"]], "list"),
        (7, "int"),
        (None, "NoneType"),
        ({"form": "steerkit-program-1", "cells": []}, "'vector'"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(value: object, named: str, vector: SteeringVector) -> None:
    with pytest.raises(SteerkitError, match=named) as error:
        parse(value, vector)
    assert len(str(error.value)) <= LONGEST_MESSAGE


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
        read_prompt_tokens(value)


def test_a_server_with_another_vector_of_that_name_refuses(
    vector: SteeringVector, tiny: LanguageModel
) -> None:
    other = random_vector(tiny, seed=3, name="abstain")
    gated = vector.at(1, gate=PositionGate(vector, 0.0))
    for sent in (vector.at(1), gated):
        with pytest.raises(MisuseError, match=r"vector 'abstain' is another one"):
            read_argument(to_argument([sent]), Store([other], files=False))
