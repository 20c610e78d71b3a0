"""Spec strings, JSON forms and ranges: what is written is what is read, and nothing malformed gets through."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from steerkit.core.errors import InputError, MisuseError
from steerkit.core.registry import OPERATIONS
from steerkit.interventions.base import Intervention
from steerkit.interventions.following import RENEWED, StrengthRamp, StrengthSwitch
from steerkit.interventions.gate import DetectorGate, PositionGate, ProbeGate
from steerkit.interventions.logit_rules import CyclicReflex, OpenerBias, SwitchPenalty, ThinkingBudget
from steerkit.interventions.policies import ReplyNow, StopAndSay, Trigger
from steerkit.interventions.presets import presets
from steerkit.interventions.probe import Probe, ProbeMetadata
from steerkit.interventions.prompt_edit import PromptEdit
from steerkit.interventions.readers import NamedReader, ProbeReader, VectorReader
from steerkit.interventions.spec import GATE_KEYS, STEERING_KEYS, parse, parse_all, parse_range
from steerkit.interventions.steering import COMPLETION_SCOPES, POSITIONS, SCOPES, Steering
from steerkit.interventions.store import Store, from_json, recommended_use, tensors_of
from steerkit.interventions.vector import SteeringVector, VectorMetadata, load_vector

LAYERS = 12
finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]))
some_text = texts.filter(bool)
# Names that the grammar, rules, presets and gates give a meaning, beside any others; few, so that some are shared.
names = (
    st.sampled_from(["tip", "prompt", "entropy", "concise-system", "a@b", "a,b", "", "sha256:abc", "v"])
    | texts
)


def named(name: str) -> SteeringVector:
    """The same direction for the same name, whatever the name."""
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    metadata = VectorMetadata(name=name, model="m", fingerprint="f:0", method="random", aggregation="last")
    return SteeringVector(torch.randn(LAYERS, 4, generator=generator), metadata)


def probe_named(name: str) -> Probe:
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    metadata = ProbeMetadata(name=name, model="m", fingerprint="f:0", layer=LAYERS // 2)
    return Probe(torch.randn(LAYERS, 4, generator=generator), torch.zeros(LAYERS), metadata)


probabilities = st.floats(0, 1, exclude_min=True, exclude_max=True)
probe_gates = st.builds(ProbeGate, names.map(probe_named), st.integers(0, LAYERS - 1), probabilities)
row_gates = st.none() | probe_gates | st.builds(DetectorGate, st.just("entropy"), probabilities)


readers = st.one_of(
    st.sampled_from(["entropy", "log-probability", "margin"]).map(NamedReader),
    st.builds(VectorReader, names.map(named), st.just(0)),
    st.builds(ProbeReader, names.map(probe_named), st.just(0)),
)
renewed = st.sampled_from(RENEWED)
followed = st.floats(-1e30, 1e30)  # what is followed in float32
ascending = (
    st.tuples(followed, followed).map(sorted).filter(lambda two: np.float32(two[0]) < np.float32(two[1]))
)
followings = st.one_of(
    st.builds(
        lambda reader, two, least, most, when: StrengthRamp(reader, *two, least, most, renewed=when),
        readers, ascending, followed, followed, renewed,
    ),
    st.builds(
        lambda reader, on, off, when: StrengthSwitch(reader, on, off, renewed=when),
        readers, followed, followed, renewed,
    ),
)  # fmt: skip
triggers = st.builds(Trigger, readers, finite, finite, finite.filter(lambda n: n >= 1), renewed)


@st.composite
def steerings(draw: st.DrawFn) -> Steering:
    operation = draw(st.sampled_from(list(OPERATIONS)))
    scope = draw(st.sampled_from(SCOPES))
    of_completion = scope in COMPLETION_SCOPES
    return named(draw(names)).at(
        layer=draw(st.lists(st.integers(0, LAYERS - 1), min_size=1)),
        strength=draw(finite),
        scope=scope,
        operation=operation,
        target=draw(finite) if OPERATIONS[operation].takes_target else None,
        gate=draw(row_gates | st.builds(PositionGate, names.map(named), finite)),
        half_life=draw(st.none() | finite.filter(lambda tokens: tokens > 0)) if of_completion else None,
        positions=draw(st.sampled_from(POSITIONS)) if of_completion else "every",
        follows=draw(st.none() | followings) if of_completion else None,
    )


edits = st.builds(PromptEdit, st.none() | texts, st.none() | texts, some_text, texts, gate=row_gates)
words = st.lists(texts.filter(str.strip), min_size=1, max_size=3).map(tuple)
positive = finite.filter(lambda value: value > 0)
counts = st.integers(2, 1000)
amounts = positive | st.integers(1, 9)  # whole numbers are written where a float is meant
openers = st.lists(some_text, min_size=1)
rules = st.one_of(
    st.builds(OpenerBias, openers, amounts, texts, gate=row_gates),
    st.builds(ThinkingBudget, st.integers(0, 1000), gate=row_gates),
    st.builds(SwitchPenalty, words, amounts, counts, gate=row_gates),
    st.builds(CyclicReflex, words, amounts, counts.map(float), gate=row_gates),
    st.builds(ReplyNow, when=triggers, gate=row_gates),
    st.builds(StopAndSay, texts.filter(str.strip), when=triggers, gate=row_gates),
)
interventions = steerings() | edits | rules | st.sampled_from(list(presets().values()))


@given(st.lists(interventions, min_size=1, max_size=3))
def test_every_intervention_reads_back_from_its_spec_and_from_its_json(made: list[Intervention]) -> None:
    for each in made:
        assert parse(str(each), vectors=tensors_of([each])) == each
        assert from_json(json.loads(json.dumps(each.to_json())), tensors_of([each])) == each
    store = Store(tensors_of(made), files=False)
    specs = [each.spec(store.name_of) for each in made]
    assert parse_all(specs, store) == tuple(made)
    assert parse_all([" ; ".join(specs)], store) == tuple(made)


def test_a_shared_name_is_written_as_a_digest_and_refused_as_a_name() -> None:
    one, other = named("calm"), (-named("calm")).renamed("calm")
    store = Store([one, other], files=False)
    assert str(one.at(3)).startswith("calm@")
    spec = one.at(3).spec(store.name_of)
    assert spec.startswith(f"sha256:{one.digest}@")
    assert parse(spec, store) == one.at(3)
    assert parse(f"sha256:{one.digest[:12]}@layer=3", store) == one.at(3)
    with pytest.raises(MisuseError, match="2 vectors are called 'calm'"):
        parse("calm@layer=3", store)
    gated = one.at(3, gate=PositionGate(other, 0.5))
    assert parse(str(gated), store) == gated, "both are written as digests"


def test_the_parts_of_a_spec_are_read() -> None:
    spec = "a@b.safetensors@layer=4+8,strength=1.5,scope=all,operation=clamp,target=-2,along=g,threshold=0.5"
    steering = parse(spec, [named("a@b.safetensors"), named("g")])
    assert steering == named("a@b.safetensors").at(
        [4, 8], 1.5, scope="all", operation="clamp", target=-2, gate=PositionGate(named("g"), 0.5)
    )


def test_what_a_spec_leaves_out_has_the_defaults_of_python() -> None:
    assert parse("v@layer=3", [named("v")]) == named("v").at(3)
    gate = ProbeGate(probe_named("p"))
    assert parse("v@layer=3,gate=p", [named("v"), probe_named("p")]) == named("v").at(3, gate=gate)
    assert parse("tip") == SwitchPenalty()
    assert parse('prompt@begin="Sure"') == PromptEdit(begin="Sure")


def test_layers_in_a_spec_may_be_a_progression() -> None:
    assert parse("v@layer=2:8:3+1", [named("v")]) == named("v").at([1, 2, 5, 8])


def test_a_vector_alone_means_its_recommended_use(tmp_path: Path) -> None:
    probe = probe_named("p")
    vector = named("v").with_probe(probe)
    gate = ProbeGate(probe, 3, 0.25)
    use = (vector.at(4, 1.5, half_life=64, gate=gate), PromptEdit(system="Be brief."))
    path = vector.recommending(*use).renamed("other").save(tmp_path / "v.safetensors")
    assert parse_all([str(path)]) == use
    assert recommended_use(load_vector(path)) == use
    assert parse_all([f"{path}@strength=3"]) == (vector.at(4, 3.0, half_life=64, gate=gate), use[1])
    assert parse_all([f"{path}@layer=2"]) == (vector.at(2),)
    with pytest.raises(MisuseError, match="names 2 interventions"):
        parse(str(path))
    with pytest.raises(MisuseError, match="names no layer"):
        parse_all(["v"], [named("v")])


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"layer": [3, 3]}, True),
        ({"layer": 4}, False),
        ({"strength": 1}, True),
        ({"strength": 1.0000000000000002}, False),
        ({"scope": "all"}, False),
        ({"operation": "ablate"}, False),
        ({"gate": PositionGate(named("g"), 0.0)}, False),
        ({"gate": ProbeGate(probe_named("g"))}, False),
        ({"half_life": None, "positions": "every"}, True),
        ({"half_life": 64.0}, False),
        ({"positions": "boundaries"}, False),
        ({"positions": "last"}, False),
    ],
)
def test_a_digest_tells_steerings_apart(change: dict, same: bool) -> None:
    plain = {"layer": 3}
    assert (named("v").at(**plain) == named("v").at(**(plain | change))) is same


def test_names_and_metadata_decide_nothing() -> None:
    assert named("v").renamed("w").at(3) == named("v").at(3)
    assert PromptEdit(system="s", name="a") == PromptEdit(system="s", name="b")
    assert len({PromptEdit(system="s"), PromptEdit(instruction="s"), PromptEdit(begin="s")}) == 3


def test_a_rule_s_words_decide_its_digest() -> None:
    given_words = [("wait",), ("Wait",), ("wait", "Wait")]
    assert len({kind(w) for kind in (SwitchPenalty, CyclicReflex) for w in given_words}) == 6


@pytest.mark.parametrize(
    "wrong", ["half_life=0", "half_life=-1", "half_life=inf", "positions=ends", "scope=x"]
)
def test_a_field_that_cannot_be_meant_is_refused(wrong: str) -> None:
    with pytest.raises(MisuseError, match=wrong.partition("=")[0]):
        parse(f"v@layer=1,{wrong}", [named("v")])


@pytest.mark.parametrize("scope", ["prompt", "all"])
@pytest.mark.parametrize("field", ["half_life=4", "positions=boundaries", "positions=last"])
def test_what_is_about_the_completion_needs_a_scope_of_it(scope: str, field: str) -> None:
    with pytest.raises(MisuseError, match=f"{field.partition('=')[0]} is about the completion"):
        parse(f"v@layer=1,scope={scope},{field}", [named("v")])


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("thinking-budget@tokens=128", lambda: ThinkingBudget(128)),
        ("tip@alpha=2.5,beta=9", lambda: SwitchPenalty(alpha=2.5, beta=9)),
        ('tip@words="a, b"+"c"', lambda: SwitchPenalty(("a, b", "c"))),
        ("cyclic-reflex@period=100", lambda: CyclicReflex(period=100)),
        ("refusal-bias@bias=2", lambda: OpenerBias(presets()["refusal-bias"].openers, 2.0)),
        ("concise-system", lambda: presets()["concise-system"]),
    ],
)
def test_a_spec_changes_what_is_built_in_and_is_written_as_it_was(spec: str, expected) -> None:
    assert parse(spec) == expected()
    assert str(parse(spec)) == spec


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("thinking-budget@tokens=1.5", "whole number"),
        ("thinking-budget@tokens=-1", "at least 0"),
        (
            "thinking-budget@alpha=1",
            "unknown key 'alpha'; the keys are tokens, gate, gate_layer, along, threshold",
        ),
        ("tip@alpha=0", "alpha"),
        ("tip@beta=x", "not a number"),
        ("cyclic-reflex@period=1", "period"),
        ("concise-system@bias=1", "unknown key 'bias'"),
        ("tips", "no vector file 'tips'"),
        ("tip@threshold=0.5", "belongs to a gate"),
        ("tip@gate=entropy,threshold=2", "between 0 and 1"),
        ('prompt@system="a', "never closed"),
        ("prompt@name=x", "changes nothing"),
    ],
)
def test_an_edit_or_rule_that_cannot_be_meant_is_a_misuse(spec: str, said: str) -> None:
    with pytest.raises(MisuseError, match=said):
        parse(spec)


def test_a_rule_is_not_gated_by_a_vector() -> None:
    with pytest.raises(MisuseError, match="gated row by row"):
        parse("tip@along=v,threshold=1", [named("v")])


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"kind": "dance"},
        {"kind": "steering"},
        {"kind": "rule", "rule": "tip", "gamma": 1},
        {"kind": "prompt", "system": "s", "gate": {"kind": "dance"}},
    ],
)
def test_a_json_form_that_is_none_is_said_to_be(form: dict) -> None:
    with pytest.raises(InputError):
        from_json(form)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(texts)
@example("v@layer=1e9999999999")
@example("v@layer=0x1")
@example("v@layer=1_0")
@example("v@layer=٣")
@example("@")
@example("v@layer=1:2:1e-400")
@example("v@layer=9e99:9e99:-1")
def test_any_text_is_a_spec_or_a_misuse_and_never_another_exception(text: str) -> None:
    with suppress(MisuseError):
        parse_all([text], Store([named("v")], files=False))


keys = [*STEERING_KEYS, *GATE_KEYS, "prompt", "system", "tip", "words", "entropy"]
marks = ["v", "@", ",", "=", "+", ":", "1", "-", ".", "e", "inf", " ", '"', ";", "\\"]
spec_like = st.lists(st.sampled_from([*marks, *keys]), max_size=12).map("".join)


@given(spec_like)
def test_nearly_right_specs_are_read_or_are_a_misuse(text: str) -> None:
    store = Store([named("v")], files=False)
    try:
        found = parse_all([text], store)
    except MisuseError:
        return
    assert parse_all([str(each) for each in found], store) == found


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


def test_what_has_a_name_may_be_given_itself() -> None:
    probe, vector = probe_named("p"), named("v")
    assert vector.at(3, operation=OPERATIONS["ablate"]) == vector.at(3, operation="ablate")
    assert vector.at(3, gate=probe) == vector.at(3, gate=ProbeGate(probe))
    assert ThinkingBudget(gate="entropy") == ThinkingBudget(gate=DetectorGate("entropy"))
    assert PromptEdit(system="s", gate=probe) == PromptEdit(system="s", gate=ProbeGate(probe))
    with pytest.raises(MisuseError, match="a gate is a gate"):
        vector.at(3, gate=vector)


def test_one_direction_under_two_names_is_found_under_both() -> None:
    one, other = named("a"), named("a").renamed("z")
    store = Store([one, other], files=False)
    for vector in (one, other):
        spec = vector.at(1).spec(store.name_of)
        assert spec.startswith(f"{vector.name}@")
        assert parse(spec, store) == vector.at(1)
    assert {part.name for part in tensors_of([one.at(1), other.at(2)])} == {"a", "z"}


def test_a_json_reference_is_by_contents_whatever_something_else_is_called() -> None:
    meant, imposter = named("a"), named("b").renamed(f"sha256:{named('a').digest}")
    assert from_json(meant.at(1).to_json(), [imposter, meant]) == meant.at(1)
    with pytest.raises(MisuseError, match="no vector or probe"):
        from_json(meant.at(1).to_json(), Store([imposter], files=False))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ThinkingBudget(12.5),
        lambda: ThinkingBudget(True),
        lambda: SwitchPenalty(beta=600.5),
        lambda: SwitchPenalty(words="wait"),
        lambda: OpenerBias("Sorry"),
        lambda: OpenerBias(("Sorry",), "2"),
    ],
)
def test_a_setting_of_another_kind_is_refused(wrong) -> None:
    with pytest.raises(MisuseError):
        wrong()


def test_a_vector_recommends_nothing_that_would_not_travel_with_it() -> None:
    with pytest.raises(MisuseError, match="recommends itself"):
        named("v").recommending(named("w").at(3))


def test_one_vector_is_accepted_where_several_are() -> None:
    assert parse("v@layer=3", named("v")) == named("v").at(3)
