"""What an adding consumer can express is summed; what it cannot is refused by the field's name."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steerkit.core.errors import MisuseError
from steerkit.interchange.base import check_export
from steerkit.interchange.shifts import constant_shifts, refusal_of_shift, steered_layers
from steerkit.interventions.gate import PositionGate
from steerkit.interventions.prompt_edit import PromptEdit
from steerkit.interventions.steering import Steering
from steerkit.models import LanguageModel
from tests.tiny import random_vector

CONSUMER = "the consumer"


@pytest.mark.parametrize("scope", ["completion", "prompt", "thinking", "answer"])
def test_a_scope_other_than_all_is_refused_by_name(tiny: LanguageModel, scope: str) -> None:
    reason = refusal_of_shift(random_vector(tiny).at(1, scope=scope), CONSUMER)
    assert reason is not None
    assert reason.startswith(f"scope={scope}: the consumer acts at every position")


@pytest.mark.parametrize("operation", ["ablate", "rotate", "clamp"])
def test_an_operation_that_is_no_constant_shift_is_refused_by_name(
    tiny: LanguageModel, operation: str
) -> None:
    target = 1.0 if operation == "clamp" else None
    steering = random_vector(tiny).at(1, 1.0, scope="all", operation=operation, target=target)
    assert str(refusal_of_shift(steering, CONSUMER)).startswith(f"operation={operation}: ")


def test_a_gate_and_another_kind_of_intervention_are_refused_by_name(tiny: LanguageModel) -> None:
    vector = random_vector(tiny)
    gated = vector.at(1, scope="all", gate=PositionGate(vector, 0.0))
    assert str(refusal_of_shift(gated, CONSUMER)).startswith("gate: ")
    assert str(refusal_of_shift(PromptEdit(system="Be brief."), CONSUMER)).endswith("of kind prompt")


def test_a_field_that_the_exports_do_not_know_is_refused_by_name(tiny: LanguageModel) -> None:
    @dataclass(frozen=True, eq=False)
    class Fading(Steering):
        decay: float = 1.0

    vector = random_vector(tiny)
    assert refusal_of_shift(Fading(vector, (1,), scope="all"), CONSUMER) is None
    fading = Fading(vector, (1,), scope="all", decay=0.5)
    assert str(refusal_of_shift(fading, CONSUMER)).startswith("decay: ")


def test_a_half_life_and_boundaries_are_refused_by_name(tiny: LanguageModel) -> None:
    vector = random_vector(tiny)
    for field, value in (("half_life", 8.0), ("positions", "boundaries")):
        assert str(refusal_of_shift(vector.at(1, **{field: value}), CONSUMER)).startswith(f"{field}: ")


def test_the_refusal_names_the_steering(tiny: LanguageModel) -> None:
    steering = random_vector(tiny).at(1)
    with pytest.raises(MisuseError, match=r"cannot export 'random@layer=1,.*': scope=completion"):
        check_export(steering, "gguf", "v.gguf")


def test_nothing_to_export_is_said(tiny: LanguageModel) -> None:
    vector = random_vector(tiny)
    for nothing in ([], [vector.at(1, 0.0, scope="all")]):
        with pytest.raises(MisuseError, match="nothing to export"):
            check_export(nothing, "gguf", "v.gguf")
    opposed = [vector.at(1, 1.0, scope="all"), vector.at(1, -1.0, scope="all")]
    with pytest.raises(MisuseError, match="nothing to export"):
        constant_shifts(opposed, CONSUMER)


def test_a_strength_that_overflows_is_refused(tiny: LanguageModel) -> None:
    with pytest.raises(MisuseError, match="overflows"):
        constant_shifts([random_vector(tiny).at(1, 1e39, scope="all")], CONSUMER)


def test_vectors_of_different_sizes_are_refused(tiny: LanguageModel) -> None:
    vector = random_vector(tiny)
    other = replace(vector, direction=vector.direction[:3])
    with pytest.raises(MisuseError, match="different sizes"):
        constant_shifts([vector.at(1, scope="all"), other.at(1, scope="all")], CONSUMER)


parts = st.lists(
    st.tuples(st.sets(st.integers(0, 3), min_size=1), st.floats(-4, 4).filter(lambda s: abs(s) > 1e-3)),
    min_size=1,
    max_size=4,
)


@given(parts=parts)
def test_shifts_add_up_layer_by_layer(tiny: LanguageModel, parts: list[tuple[set[int], float]]) -> None:
    vectors = [random_vector(tiny, seed) for seed in range(len(parts))]
    steerings = [
        vector.at(tuple(layers), strength, scope="all")
        for vector, (layers, strength) in zip(vectors, parts, strict=True)
    ]
    shifts = constant_shifts(steerings, CONSUMER)
    for layer in range(4):
        acting = [
            strength * vector.direction[layer].double()
            for vector, (layers, strength) in zip(vectors, parts, strict=True)
            if layer in layers
        ]
        assert torch.allclose(shifts[layer].double(), sum(acting, torch.zeros(32).double()), atol=1e-4)
    assert steered_layers(shifts) == sorted(set().union(*(layers for layers, _ in parts)))
