"""Spec strings and ranges: what is written is what is read, and nothing malformed gets through."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.interventions.decoration import (
    CyclicReflex,
    Decoration,
    SwitchPenalty,
    ThinkingBudget,
    built_in_decorations,
)
from steerkit.interventions.spec import KEYS, parse_decoration, parse_range, parse_spec
from steerkit.interventions.steering import COMPLETION_SCOPES, OPERATIONS, POSITIONS, SCOPES, Gate, Steering
from steerkit.interventions.vector import SteeringVector, VectorMetadata

LAYERS = 12
finite = st.floats(allow_nan=False, allow_infinity=False)


def named(name: str) -> SteeringVector:
    """The same direction for the same name, whatever the name."""
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    metadata = VectorMetadata(name=name, model="m", fingerprint="f:0", method="random", aggregation="last")
    return SteeringVector(torch.randn(LAYERS, 4, generator=generator), metadata)


@st.composite
def steerings(draw: st.DrawFn) -> Steering:
    # An @ may stand in a vector's name: the spec is split at the last one.
    names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
    gate_names = st.text(st.sampled_from("abc/._@-"), min_size=1).map(lambda name: name.replace("@", "a"))
    operation = draw(st.sampled_from(OPERATIONS))
    scope = draw(st.sampled_from(SCOPES))
    of_completion = scope in COMPLETION_SCOPES
    return named(draw(names)).at(
        layer=draw(st.lists(st.integers(0, LAYERS - 1), min_size=1)),
        strength=draw(finite),
        scope=scope,
        operation=operation,
        target=draw(finite) if operation == "clamp" else None,
        gate=draw(st.none() | st.builds(Gate, gate_names.map(named), finite)),
        half_life=draw(st.none() | finite.filter(lambda tokens: tokens > 0)) if of_completion else None,
        positions=draw(st.sampled_from(POSITIONS)) if of_completion else "every",
    )


@given(steerings())
def test_a_spec_string_reads_back_as_the_same_steering(steering: Steering) -> None:
    back = parse_spec(steering.spec(), load=named, gate=named)
    assert back.spec() == steering.spec()
    assert back.digest == steering.digest


def test_the_parts_of_a_spec_are_read() -> None:
    spec = "a@b.safetensors@layer=4+8,strength=1.5,scope=all,operation=clamp,target=-2,gate=g,threshold=0.5"
    steering = parse_spec(spec, load=named, gate=named)
    assert steering.vector.name == "a@b.safetensors"
    assert steering.layers == (4, 8)
    assert (steering.strength, steering.scope, steering.operation, steering.target) == (
        1.5,
        "all",
        "clamp",
        -2,
    )
    assert steering.gate is not None
    assert (steering.gate.vector.name, steering.gate.threshold) == ("g", 0.5)


def test_what_a_spec_leaves_out_has_the_defaults_of_python() -> None:
    assert parse_spec("v@layer=3", load=named, gate=named).digest == named("v").at(3).digest


def test_layers_in_a_spec_may_be_a_progression() -> None:
    assert parse_spec("v@layer=2:8:3+1", load=named, gate=named).layers == (1, 2, 5, 8)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"layer": [3, 3]}, True),
        ({"layer": 4}, False),
        ({"strength": 1.0000000000000002}, False),
        ({"scope": "all"}, False),
        ({"operation": "ablate"}, False),
        ({"gate": Gate(named("g"), 0.0)}, False),
        ({"half_life": None, "positions": "every"}, True),
        ({"half_life": 64.0}, False),
        ({"positions": "boundaries"}, False),
    ],
)
def test_a_digest_tells_steerings_apart(change: dict, same: bool) -> None:
    plain = {"layer": 3}
    assert (named("v").at(**plain).digest == named("v").at(**(plain | change)).digest) is same


def test_digests_of_before_there_were_half_lives_and_rules_still_hold() -> None:
    generator = torch.Generator().manual_seed(0)
    metadata = VectorMetadata(name="v", model="m", fingerprint="f:0", method="random", aggregation="last")
    steering = SteeringVector(torch.randn(4, 4, generator=generator), metadata).at([1, 2], 1.5, "thinking")
    assert steering.digest == "04693ca1065b0e76c76d496ffb6d50967962157a91bef1eb5fd5d649655695d1"
    bias = built_in_decorations()["refusal-bias"]
    assert bias.digest == "8d120e7b64bea5d53b74432acd79cdba7a5bac250989c0513070b283704ea42e"


@pytest.mark.parametrize("wrong", ["half_life=0", "half_life=-1", "half_life=inf", "positions=ends"])
def test_a_half_life_or_positions_that_cannot_be_meant_is_refused(wrong: str) -> None:
    with pytest.raises(MisuseError, match=wrong.partition("=")[0]):
        parse_spec(f"v@layer=1,{wrong}", load=named, gate=named)


@pytest.mark.parametrize("scope", ["prompt", "all"])
@pytest.mark.parametrize("field", ["half_life=4", "positions=boundaries"])
def test_what_is_about_the_completion_needs_a_scope_of_it(scope: str, field: str) -> None:
    with pytest.raises(MisuseError, match=f"{field.partition('=')[0]} is about the completion"):
        parse_spec(f"v@layer=1,scope={scope},{field}", load=named, gate=named)


@pytest.mark.parametrize(
    ("spec", "changes"),
    [
        ("thinking-budget@tokens=128", {"rule": ThinkingBudget(128)}),
        ("tip@alpha=2.5,beta=9", {"rule": SwitchPenalty(("w",), 2.5, 9)}),
        ("cyclic-reflex@period=100", {"rule": CyclicReflex(("w",), 3.0, 100)}),
        ("refusal-bias@bias=2", {"bias": 2.0}),
    ],
)
def test_a_spec_changes_a_decoration_s_numbers_and_reads_back(spec: str, changes: dict) -> None:
    decoration = parse_decoration(spec)
    if isinstance(decoration.rule, SwitchPenalty | CyclicReflex):
        changes = {"rule": replace(changes["rule"], words=decoration.rule.words)}
    for name, value in changes.items():
        assert getattr(decoration, name) == value
    built_in = built_in_decorations()[decoration.name]
    assert decoration.digest != built_in.digest
    assert parse_decoration(decoration.spec()).digest == decoration.digest
    if decoration.rule:
        assert decoration.fields() == built_in.fields(), "cells of one name share what a protocol says of it"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("thinking-budget@tokens=1.5", "whole number"),
        ("thinking-budget@tokens=-1", "at least 0"),
        ("thinking-budget@alpha=1", "unknown key 'alpha'; the keys are tokens, gate, threshold"),
        ("tip@alpha=0", "alpha"),
        ("tip@beta=x", "not a number"),
        ("cyclic-reflex@period=1", "period"),
        ("concise-system@bias=1", "unknown key 'bias'"),
        ("tips", "no decoration 'tips'"),
    ],
)
def test_a_decoration_that_cannot_be_meant_is_a_misuse(spec: str, said: str) -> None:
    with pytest.raises(MisuseError, match=said):
        parse_decoration(spec)


def test_a_rule_s_words_decide_its_digest() -> None:
    words = [("wait",), ("Wait",), ("wait", "Wait")]
    rules = [kind(w) for kind in (SwitchPenalty, CyclicReflex) for w in words]
    assert len({Decoration("d", rule=rule).digest for rule in rules}) == len(rules)


@given(st.text())
@example("v@layer=1e9999999999")
@example("v@layer=0x1")
@example("v@layer=1_0")
@example("v@layer=٣")
@example("@")
@example("v@layer=1:2:1e-400")
@example("v@layer=9e99:9e99:-1")
def test_any_text_is_a_spec_or_a_misuse_and_never_another_exception(text: str) -> None:
    with suppress(MisuseError):
        parse_spec(text, load=named, gate=named)


spec_like = st.lists(
    st.sampled_from(["v", "@", ",", "=", "+", ":", "1", "-", ".", "e", "inf", " ", *KEYS]), max_size=12
).map("".join)


@given(spec_like)
def test_nearly_right_specs_are_read_or_are_a_misuse(text: str) -> None:
    try:
        steering = parse_spec(text, load=named, gate=named)
    except MisuseError:
        return
    assert parse_spec(steering.spec(), load=named, gate=named).digest == steering.digest


@given(st.text(st.sampled_from("0123456789.:,+-e ")), st.sampled_from([int, float]))
def test_nearly_right_ranges_are_finite_numbers_or_a_misuse(text: str, kind: type) -> None:
    try:
        values = parse_range(text, kind)
    except MisuseError:
        return
    assert all(type(value) is kind and math.isfinite(value) for value in values)
    assert len(set(values)) == len(values)


@given(
    start=st.integers(-50, 50),
    count=st.integers(0, 40),
    step=st.integers(1, 30),
    places=st.integers(0, 3),
    falling=st.booleans(),
)
def test_a_progression_is_exact_and_holds_its_stop(
    start: int, count: int, step: int, places: int, falling: bool
) -> None:
    unit = Decimal(1).scaleb(-places)
    first, pace = start * unit, (-step if falling else step) * unit
    values = parse_range(f"{first}:{first + count * pace}:{pace}", float)
    assert values == tuple(float(first + i * pace) for i in range(count + 1))


@pytest.mark.parametrize(
    ("text", "kind", "values"),
    [
        ("8:16:4", int, (8, 12, 16)),
        ("8:15:4", int, (8, 12)),
        ("4,8,12", int, (4, 8, 12)),
        ("3:1:-1", int, (3, 2, 1)),
        ("12,4,8,4", int, (12, 4, 8)),
        ("2:4", int, (2, 3, 4)),
        ("1,4:6,2", int, (1, 4, 5, 6, 2)),
        ("5:5", int, (5,)),
        ("-1:1:0.5", float, (-1.0, -0.5, 0.0, 0.5, 1.0)),
        ("0:0.3:0.1", float, (0.0, 0.1, 0.2, 0.3)),
        (" 1 , 2 ", float, (1.0, 2.0)),
    ],
)
def test_ranges_keep_their_order_and_hold_each_value_once(text: str, kind: type, values: tuple) -> None:
    assert parse_range(text, kind) == values


@pytest.mark.parametrize(
    "text", ["", ",", "1,", "1:2:0", "2:1", "1:2:-1", "a", "1:2:3:4", "nan", "1e400", "0:1e9"]
)
def test_a_malformed_range_is_a_misuse_that_quotes_it(text: str) -> None:
    with pytest.raises(MisuseError) as caught:
        parse_range(text, float, what="--strengths")
    assert f"--strengths {text!r}" in str(caught.value)


def test_an_error_of_the_loader_comes_through_unchanged() -> None:
    def load(name: str) -> SteeringVector:
        raise SteerkitError(f"no {name}")

    with pytest.raises(SteerkitError, match="no v"):
        parse_spec("v@layer=1", load=load)
