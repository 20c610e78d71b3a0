"""Bracket and refine on curves that are known: the first crossing, within tolerance, or a reason."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.calibration.search import Found, search
from steerkit.calibration.tokens import pool

Curve = Callable[[float], float]


def run(
    curve: Curve, target: float, largest: float = 16.0, tolerance: float = 0.05
) -> tuple[Found, list[float]]:
    """The search on a known curve, and all strengths that it measured."""
    asked: list[float] = []
    steps = search(target, largest, tolerance)
    wanted = next(steps)
    while True:
        asked += wanted
        try:
            wanted = steps.send([curve(strength) for strength in wanted])
        except StopIteration as end:
            return end.value, asked


@given(
    crossing=st.floats(1e-3, 15.9),
    power=st.floats(0.5, 4.0),
    target=st.floats(1e-4, 10.0),
    largest=st.floats(0.01, 1e3),
)
def test_a_power_law_is_met_within_tolerance_at_its_one_crossing(
    crossing: float, power: float, target: float, largest: float
) -> None:
    crossing = crossing / 16 * largest

    def curve(strength: float) -> float:
        return target * (strength / crossing) ** power

    found, asked = run(curve, target, largest)
    assert found.strength is not None
    assert abs(curve(found.strength) - target) <= 0.05 * target
    assert len(asked) == len(set(asked))
    assert max(asked) <= largest


@given(crossing=st.floats(0.02, 8.0), level=st.floats(1.2, 100.0))
def test_a_saturating_curve_is_met_within_tolerance(crossing: float, level: float) -> None:
    def curve(strength: float) -> float:
        return level * -math.expm1(math.log1p(-1 / level) * (strength / crossing) ** 2)

    found, _ = run(curve, 1.0)
    assert found.strength == pytest.approx(crossing, rel=0.2)
    assert abs(curve(found.strength or 0) - 1.0) <= 0.05


def test_of_several_crossings_the_first_is_found() -> None:
    # Up to 2 at strength 1, down to 0.5 at 4, then up for good.
    def curve(strength: float) -> float:
        return 2 * strength**2 if strength <= 1 else max(2 / strength, strength**2 / 32)

    found, _ = run(curve, 1.0)
    assert found.strength == pytest.approx(math.sqrt(0.5), rel=0.05)


def test_a_target_out_of_reach_is_said_with_the_highest_value() -> None:
    found, asked = run(lambda strength: min(strength, 0.3), 1.0)
    assert found.strength is None
    assert found.reason is not None
    assert "largest strength, 16" in found.reason
    assert "0.3" in found.reason
    assert max(asked) == 16


def test_a_curve_without_any_response_is_out_of_reach() -> None:
    found, _ = run(lambda _strength: 0.0, 0.1)
    assert found.strength is None


def test_a_jump_past_the_target_is_said() -> None:
    found, _ = run(lambda strength: 0.0 if strength < 3 else 2.0, 1.0)
    assert found.strength is None
    assert found.reason is not None
    assert "jumps from 0 at" in found.reason


def test_pooled_tokens_weigh_alike_and_prompts_are_resampled() -> None:
    per_prompt = [np.full(90, 1.0), np.full(10, 11.0)]
    pooled = pool(per_prompt)
    assert pooled.mean == pytest.approx(2.0)
    assert pooled.p95 == 11.0
    assert pooled.mean_interval == (1.0, 11.0)


def test_pooled_percentile_is_that_of_numpy() -> None:
    generator = np.random.default_rng(1)
    per_prompt = [generator.exponential(size=n) for n in (64, 3, 17, 40)]
    pooled = pool(per_prompt)
    assert pooled.p95 == np.quantile(np.concatenate(per_prompt), 0.95, method="inverted_cdf")
    assert pooled.p95_interval is not None
    assert pooled.p95_interval[0] <= pooled.p95 <= pooled.p95_interval[1]


def test_a_single_prompt_has_no_interval() -> None:
    assert pool([np.array([1.0, 2.0])]).mean_interval is None
