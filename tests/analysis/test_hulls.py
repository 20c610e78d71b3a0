"""Hulls against independent sums, and against what no mixture of cells can do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import ConvexHull

from steerkit.analysis.hulls import area_below, cost_on, gain_on, lower_hull, reach, relative_prices
from steerkit.analysis.outcomes import collect
from steerkit.core.errors import MisuseError
from tests.sweeps.rows import scored

rates = st.integers(0, 20).map(lambda n: n / 20)
points = st.lists(st.tuples(rates, rates), min_size=1, max_size=12)


def whole(cells: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return lower_hull([(0.0, 0.0), *cells, (1.0, 1.0)])


def test_a_dominated_cell_makes_nothing_dearer() -> None:
    hull = lower_hull([(0.0, 0.0), (0.4, 0.4), (0.5, 0.2), (1.0, 1.0)])
    assert hull == [(0.0, 0.0), (0.5, 0.2), (1.0, 1.0)]
    assert cost_on(hull, 0.4) == pytest.approx(0.16)
    assert cost_on(lower_hull([(0.1, 0.1), (0.5, 0.2)]), 0.6) is None


@given(points)
def test_no_cell_lies_below_the_hull_and_its_corners_are_cells(cells: list[tuple[float, float]]) -> None:
    hull = lower_hull(cells)
    assert set(hull) <= set(cells)
    for gain, cost in cells:
        least = cost_on(hull, gain)
        assert least is not None
        assert least <= cost + 1e-9
    slopes = np.diff([y for _, y in hull]) / np.diff([x for x, _ in hull])
    assert (np.diff(slopes) > 0).all()


def test_the_area_is_half_for_chance_and_one_for_perfection() -> None:
    assert area_below(whole([(0.3, 0.3), (0.7, 0.7)])) == pytest.approx(0.5)
    assert area_below(whole([(1.0, 0.0)])) == pytest.approx(1.0)
    assert area_below(whole([(0.5, 0.0)])) == pytest.approx(0.75)  # a triangle is left above it
    assert gain_on(whole([(0.5, 0.0)]), 0.0) == pytest.approx(0.5)
    assert gain_on(whole([(0.4, 0.2)]), 0.1) == pytest.approx(0.2)


@given(points)
def test_the_area_is_that_of_the_polygon(cells: list[tuple[float, float]]) -> None:
    corners = [(0.0, 0.0), *((gain, min(gain, cost)) for gain, cost in cells), (1.0, 1.0), (0.0, 1.0)]
    below = ConvexHull(corners).volume  # the half above the diagonal, and what the cells add below it
    assert area_below(whole(cells)) == pytest.approx(below, abs=1e-9)


@given(points, st.tuples(rates, rates))
def test_another_cell_never_makes_a_family_worse(
    own: list[tuple[float, float]], new: tuple[float, float]
) -> None:
    assert area_below(whole([*own, new])) >= area_below(whole(own)) - 1e-9
    assert gain_on(whole([*own, new]), 0.15) >= gain_on(whole(own), 0.15) - 1e-9


def behaving(cell: str, recall: float, over: float) -> list:
    """A cell that abstains from that share of 20 questions of either kind."""
    return [
        scored(cell, f"{kind}{n}", kind == "u", abstained=n < 20 * (recall if kind == "u" else over))
        for n in range(20)
        for kind in "ua"
    ]


def test_a_family_is_measured_beside_the_unsteered_model_and_a_gate_beside_none() -> None:
    outcomes = collect(
        [
            *behaving("plain", 0.1, 0.0),
            *behaving("weak", 0.5, 0.2),
            *behaving("strong", 0.9, 0.8),
            *behaving("gated", 0.5, 0.1),
            *behaving("beyond", 1.0, 0.9),
        ]
    )
    found = reach(outcomes, "plain", {"ungated": ["weak", "strong"]}, allowed=[0.1])
    assert found[""].area.value == pytest.approx(0.55)
    assert found[""].gain[0.1].value == pytest.approx(0.19)
    assert found["ungated"].cells == 2
    assert found["ungated"].gain[0.1].value == pytest.approx(0.3)
    assert found["ungated"].area.low <= found["ungated"].area.value <= found["ungated"].area.high
    prices = relative_prices(outcomes, "plain", ["gated", "beyond"], ["weak", "strong"])
    assert prices is not None
    assert prices.cells == pytest.approx({"gated": 0.5})
    assert prices.median.value == pytest.approx(0.5)
    assert relative_prices(outcomes, "plain", ["beyond"], ["weak"]) is None


def test_a_cell_without_records_is_named() -> None:
    outcomes = collect(behaving("plain", 0.0, 0.0))
    with pytest.raises(MisuseError, match="'nowhere' has no records"):
        reach(outcomes, "plain", {"x": ["nowhere"]})
