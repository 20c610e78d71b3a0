"""What the gate is compared with: the frontier that ungated cells span."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.abstention_tradeoff.limits import lower_hull, price_on

rates = st.integers(0, 20).map(lambda n: n / 20)
points = st.lists(st.tuples(rates, rates), min_size=1, max_size=12)


def test_a_dominated_cell_makes_nothing_dearer() -> None:
    hull = lower_hull([(0.0, 0.0), (0.4, 0.4), (0.5, 0.2), (1.0, 1.0)])
    assert hull == [(0.0, 0.0), (0.5, 0.2), (1.0, 1.0)]
    assert price_on(hull, 0.4) == pytest.approx(0.16)
    assert price_on(lower_hull([(0.1, 0.1), (0.5, 0.2)]), 0.6) is None


@given(points)
def test_no_cell_lies_below_the_hull_and_its_corners_are_cells(cells: list[tuple[float, float]]) -> None:
    hull = lower_hull(cells)
    assert set(hull) <= set(cells)
    for recall, over in cells:
        price = price_on(hull, recall)
        assert price is not None
        assert price <= over + 1e-9
    slopes = np.diff([y for _, y in hull]) / np.diff([x for x, _ in hull])
    assert (np.diff(slopes) > 0).all()
