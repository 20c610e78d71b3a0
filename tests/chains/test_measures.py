from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.chains.measures import (
    area_over_curve,
    gain_along_chain,
    information_gain,
    published_information_gain,
    share_needed,
    stated_answer,
)

QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)


@pytest.mark.parametrize(
    ("same", "area", "needed"),
    [
        ((1, 1, 1, 1, 1), 0.0, 0.0),
        ((0, 0, 0, 0, 1), 0.875, 1.0),
        ((0, 0, 1, 1, 1), 0.375, 0.5),
        ((1, 0, 0, 1, 1), 0.5, 0.75),
    ],
)
def test_early_termination_worked_out_by_hand(same: tuple[int, ...], area: float, needed: float) -> None:
    assert area_over_curve(QUARTERS, [bool(s) for s in same]) == pytest.approx(area)
    assert share_needed(QUARTERS, [bool(s) for s in same]) == needed


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_the_area_is_that_of_numpy_and_lies_between_zero_and_one(values: list[bool]) -> None:
    same = [*values, True]
    shares = [i / (len(same) - 1) for i in range(len(same))]
    area = area_over_curve(shares, same)
    assert area == pytest.approx(1 - np.trapezoid(np.array(same, float), shares))
    assert 0 <= area <= 1


def test_the_published_gain_telescopes_and_the_gain_along_the_chain_does_not() -> None:
    early, late = (-4.0, -1.0, -1.0, -1.0, -1.0), (-4.0, -4.0, -4.0, -4.0, -1.0)
    assert published_information_gain(early, 2, 4) == published_information_gain(late, 2, 4)
    assert published_information_gain(early, 2, 4) == pytest.approx((math.exp(2) - math.exp(0.5)) / 4)
    assert information_gain(early, 2) == information_gain(late, 2) == 1.5
    assert gain_along_chain(QUARTERS, early, 2) == pytest.approx(1.5 * 0.875)
    assert gain_along_chain(QUARTERS, late, 2) == pytest.approx(1.5 * 0.125)


def test_an_answer_that_is_all_but_impossible_is_still_a_number() -> None:
    assert math.isfinite(published_information_gain((-2000.0, -1.0), 1, 3))


@pytest.mark.parametrize(
    ("continuation", "answer"),
    [
        (" 7.", "7"),
        (" 7 marbles. That is more than 5.", "7"),
        (" $1,200.00\n\nQuestion: 4", "1200"),
        (" 3 + 4 = 7.", "7"),
        (" seven marbles", "7"),
        (": Ada.", "ada"),
        (" not known. 4", "not known"),
        (" ", None),
        ("...", None),
    ],
)
def test_equal_answers_are_equal_however_they_are_written(continuation: str, answer: str | None) -> None:
    assert stated_answer(continuation) == answer
