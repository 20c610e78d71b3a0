"""The closed forms solve what they claim to solve, and their derivatives are those of finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from experiments.closed_forms.derivatives import States
from experiments.closed_forms.forms import (
    closed_forms,
    exact_strength,
    fisher_strength,
    published_strength,
)
from experiments.closed_forms.run import forms_at, measured, table, unsteered
from steerkit.core.prompts import EncodedText
from steerkit.models import LanguageModel
from tests.engines.reference import steered_logits
from tests.tiny import random_vector

SLOPES = st.floats(1e-2, 1e5)
CURVATURES = st.floats(1e-2, 1e6)
TARGETS = st.floats(1e-5, 10.0)


def by_cardano(slope: float, curvature: float, target: float) -> float:
    """The published recipe step by step: Cardano on x = y − 1/3, with the trigonometric form for three real roots."""
    beta = 4 * target * curvature**2 / slope**4
    p, q = -1 / 3, 2 / 27 - beta
    discriminant = (q / 2) ** 2 + (p / 3) ** 3
    if discriminant > 0:
        root = math.sqrt(discriminant)
        y = math.cbrt(-q / 2 + root) + math.cbrt(-q / 2 - root)
    else:
        y = 2 * math.sqrt(-p / 3) * math.cos(math.acos(min(1.0, 3 * q / (2 * p) * math.sqrt(-3 / p))) / 3)
    raw = slope / curvature * (y - 1 / 3)
    return max(0.0, (1 - curvature * raw / (4 * slope)) * raw)


@given(SLOPES, CURVATURES, TARGETS)
def test_the_exact_strength_solves_the_bound(slope: float, curvature: float, target: float) -> None:
    strength = exact_strength(slope, curvature, target)
    bound = (slope * strength + curvature * strength**2 / 2) ** 2 / 4
    assert bound == pytest.approx(target, rel=1e-9)


@given(SLOPES, CURVATURES, TARGETS)
def test_the_published_strength_never_exceeds_the_exact_one(
    slope: float, curvature: float, target: float
) -> None:
    assert (
        0
        <= published_strength(slope, curvature, target)
        <= exact_strength(slope, curvature, target) * (1 + 1e-9)
    )


@given(SLOPES, st.floats(1e-2, 1e2), TARGETS)
def test_the_published_strength_is_cardanos(slope: float, ratio: float, target: float) -> None:
    curvature = ratio * slope**2 / math.sqrt(target)  # so that the cubic's terms are of one order
    assert published_strength(slope, curvature, target) == pytest.approx(
        by_cardano(slope, curvature, target), rel=1e-6, abs=1e-9 * slope / curvature
    )


def test_the_measured_case_of_the_literature_study() -> None:
    # SmolLM2 at layer 17: a 651, L 3483; ε of 1e-3 and 1e-1.
    assert published_strength(651, 3483, 1e-3) == pytest.approx(9.71e-5, rel=1e-3)
    assert published_strength(651, 3483, 1e-1) == pytest.approx(9.67e-4, rel=1e-3)
    assert exact_strength(651, 3483, 1e-1) == pytest.approx(9.69e-4, rel=1e-3)


def test_the_published_strength_collapses_where_the_exact_one_does_not() -> None:
    assert published_strength(1.0, 100.0, 1.0) == 0
    assert exact_strength(1.0, 100.0, 1.0) > 0


@given(TARGETS, CURVATURES)
def test_without_a_slope_both_are_the_curvatures(target: float, curvature: float) -> None:
    expected = (16 * target) ** 0.25 / math.sqrt(curvature)
    assert published_strength(0.0, curvature, target) == pytest.approx(expected)
    assert exact_strength(0.0, curvature, target) == pytest.approx(expected)


@given(TARGETS, SLOPES)
def test_without_curvature_both_are_the_slopes(target: float, slope: float) -> None:
    expected = 2 * math.sqrt(target) / slope
    for curvature in (0.0, 1e-9 * slope**2 / math.sqrt(target)):
        assert published_strength(slope, curvature, target) == pytest.approx(expected)
        assert exact_strength(slope, curvature, target) == pytest.approx(expected)


def test_what_moves_nothing_has_no_bound() -> None:
    assert (
        exact_strength(0.0, 0.0, 0.1)
        == published_strength(0.0, 0.0, 0.1)
        == fisher_strength(0.0, 0.1)
        == math.inf
    )


def test_the_constants_are_the_ones_that_the_paper_names() -> None:
    values = np.arange(1.0, 101.0)
    forms = closed_forms(values, values, values, 0.5)
    assert forms.slope == np.median(values)
    assert forms.curvature == np.quantile(values, 0.95)
    assert forms.fisher == pytest.approx(math.sqrt(1 / values.mean()))
    assert closed_forms(values, values, values, 0.5, "p95").variance == np.quantile(values, 0.95)


def push_logits(lm: LanguageModel, ids: tuple[int, ...], layer: int, push: Tensor) -> Tensor:
    """Logits at the last of `ids`, with `push` added there and nowhere else."""
    return steered_logits(lm, ids, [(layer, lambda h: h + push, [len(ids) - 1])])[-1].double()


def finite_differences(
    lm: LanguageModel, ids: tuple[int, ...], layer: int, push: Tensor, step: float
) -> tuple[float, ...]:
    low, middle, high = (push_logits(lm, ids, layer, factor * push) for factor in (-step, 0.0, step))
    first, second = (high - low) / (2 * step), (high + low - 2 * middle) / step**2
    p = middle.softmax(-1)
    variance = (p * (first - (p * first).sum()) ** 2).sum()
    return float(first.norm()), float(second.norm()), float(variance)


# The step is in shares of a tenth of one state's norm; in Gemma the states' norms differ by a large factor.
@pytest.mark.parametrize(
    ("model", "step"),
    [
        ("tiny", 0.3),
        pytest.param("smollm", 0.3, marks=pytest.mark.models),
        pytest.param("gemma", 0.04, marks=pytest.mark.models),
    ],
)
def test_derivatives_are_those_of_finite_differences(
    model: str, step: float, request: pytest.FixtureRequest
) -> None:
    lm: LanguageModel = request.getfixturevalue(model)
    layer = lm.n_layers * 3 // 5
    texts = [
        lm.renderer.encode_pair("Which river flows through Cairo?", "The Nile."),
        lm.renderer.encode_pair("Why?", "Nobody can know that for sure."),
    ]
    states = States(lm, texts, 6)
    push = random_vector(lm).direction[layer]
    push = 0.1 * state_norm(lm, texts[0].ids, layer) * push / push.norm()
    found = states.derivatives(layer, push)
    expected = [
        finite_differences(lm, texts[text].ids[: position + 1], layer, push, step)
        for text, position in states.places
    ]
    slopes, curvatures, variances = np.array(expected).T
    np.testing.assert_allclose(found.slopes, slopes, rtol=1e-2)
    np.testing.assert_allclose(found.curvatures, curvatures, rtol=0.1)
    np.testing.assert_allclose(found.variances, variances, rtol=0.1)


def state_norm(lm: LanguageModel, ids: tuple[int, ...], layer: int) -> float:
    """Norm of the residual stream at the last of `ids`, at one layer."""
    seen: list[Tensor] = []
    handle = lm.blocks[layer].register_forward_hook(lambda _m, _a, output: seen.append(output))
    with torch.inference_mode():
        lm.decoder(torch.tensor([ids]))
    handle.remove()
    return float(seen[0][0, -1].norm())


def test_states_are_spread_over_all_texts(tiny: LanguageModel) -> None:
    texts = [EncodedText(tuple(range(60, 70)), 4), EncodedText(tuple(range(60, 90)), 10)]
    assert len(States(tiny, texts, 1000)) == 26
    assert len(States(tiny, texts, 5)) == 5


def test_the_bound_holds_where_it_is_measured(tiny: LanguageModel) -> None:
    texts = unsteered(tiny, ["Why?", "Where is the sea?"], tokens=6)
    vector = random_vector(tiny)
    forms = forms_at(States(tiny, texts), vector, 1, 0.05)
    assert forms.published <= forms.exact
    published, *_ = measured(tiny, texts, vector, 1, [forms.published, forms.exact, forms.fisher])
    assert published < 0.05


def test_the_table_has_a_line_a_target_and_layer(tiny: LanguageModel) -> None:
    lines = table(tiny, random_vector(tiny), [1, 2], [0.02, 0.05], limit=2).splitlines()
    assert len(lines) == 2 + 4
    assert lines[2].startswith("| 0.02 | 1 | ")
