from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.analysis.outcomes import collect
from steerkit.analysis.risk_coverage import risk_coverage, risk_coverage_curve
from steerkit.core.bootstrap import resampling_weights
from tests.sweeps.rows import cell, scored, steering

CELLS = {name: cell(name, steering()) for name in ("gated", "same gate", "mute", "a")} | {
    "base": cell("base")
}


def record(cell, item, unanswerable, abstained, correct=None, score=None, sample=0):
    read = [] if score is None else [score]
    return scored(cell, item, unanswerable, sample=sample, read=read, abstained=abstained, correct=correct)


def found_in(records, resamples=50):
    return risk_coverage(collect(records), CELLS, resamples)


def curve_of(score, wrong, resamples=20):
    numbers = np.arange(len(score))
    weights = resampling_weights(len(score), resamples)
    return risk_coverage_curve(np.array(score, float), np.array(wrong), numbers, weights)


def reference_area(score, wrong):
    """The mean over all orders that the scores allow of the mean risk over k = 1..n; by enumeration."""
    areas = []
    for order in itertools.permutations(range(len(score))):
        if all(score[a] <= score[b] for a, b in itertools.pairwise(order)):
            errors = np.cumsum([wrong[i] for i in order])
            areas.append(np.mean(errors / np.arange(1, len(score) + 1)))
    return np.mean(areas)


answers = st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=6)


@given(answers)
def test_the_area_is_the_mean_risk_over_every_order_that_ties_allow(answers):
    score, wrong = zip(*answers, strict=True)
    curve = curve_of(score, wrong)
    assert curve.area.value == pytest.approx(reference_area(score, wrong))
    assert curve.random_order.value == pytest.approx(reference_area([0] * len(wrong), wrong))
    assert curve.oracle.value == pytest.approx(reference_area(wrong, wrong))
    assert curve.gain.value == pytest.approx(curve.random_order.value - curve.area.value)
    coverage, risk = curve.oracle_curve()
    assert risk.mean() == pytest.approx(curve.oracle.value)
    assert (coverage[-1], curve.coverage[-1]) == (1.0, 1.0)


@given(answers, st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_a_resample_counts_an_answer_as_often_as_it_is_drawn(answers, drawn):
    score, wrong = (np.array(column) for column in zip(*answers, strict=True))
    drawn = np.array(drawn[: len(score)])
    if not drawn.sum():
        return
    weights = drawn[None, :].astype(float)
    curve = risk_coverage_curve(score.astype(float), wrong, np.arange(len(score)), weights)
    repeated = curve_of(np.repeat(score, drawn), np.repeat(wrong, drawn))
    for name in ("area", "random_order", "oracle", "gain"):
        assert getattr(curve, name).low == pytest.approx(getattr(repeated, name).value)


def test_a_useful_score_gains_and_one_that_says_nothing_does_not():
    rng = np.random.default_rng(0)
    wrong = rng.random(400) < 0.5
    useful = curve_of(wrong + rng.normal(0, 0.7, 400), wrong, resamples=200)
    assert useful.gain.low > 0.1
    assert useful.oracle.value < useful.area.value < useful.random_order.value
    blind = curve_of(rng.random(400), wrong, resamples=200)
    assert blind.gain.low < 0 < blind.gain.high
    constant = curve_of(np.zeros(400), wrong, resamples=50)
    assert constant.gain.value == pytest.approx(0)
    assert len(constant.threshold) == 1


def test_points_and_the_gate_are_worked_out_from_the_records():
    base = [  # an error to answer; right to abstain; right; wrong; abstains needlessly; not to be judged
        record("base", "u1", True, False),
        record("base", "u2", True, True),
        record("base", "a1", False, False, True),
        record("base", "a2", False, False, False),
        record("base", "a3", False, True, False),
        record("base", "open", False, False, None),
    ]
    gated = [
        record("gated", "u1", True, True, score=0.9),
        record("gated", "u2", True, True, score=0.8),
        record("gated", "a1", False, False, True, score=0.1),
        record("gated", "a2", False, False, False, score=0.4),
        record("gated", "a3", False, True, False, score=0.3),
        record("gated", "open", False, False, None, score=0.2),
    ]
    found = found_in([*base, *gated, *(replace(r, cell="same gate") for r in gated)])
    assert found.n == 5
    points = {point.cell: (point.coverage.value, point.risk.value) for point in found.points}
    assert points == {"base": (0.6, pytest.approx(2 / 3)), "gated": (0.4, 0.5), "same gate": (0.4, 0.5)}
    (curve,) = found.curves  # over what the unsteered model answers: a1 (right), a2 (wrong), u1 (wrong)
    assert curve.threshold.tolist() == [0.1, 0.4, 0.9]
    assert curve.coverage.tolist() == [0.2, 0.4, 0.6]
    assert curve.risk.tolist() == [0.0, 0.5, pytest.approx(2 / 3)]
    assert (curve.coverage[-1], curve.risk[-1]) == points["base"]
    assert curve.area.value == pytest.approx((0 + 1 / 2 + 2 / 3) / 3)


def test_each_sample_of_an_item_is_an_answer_of_its_own():
    base = [
        record("base", "u", True, abstained, sample=n) for n, abstained in enumerate((False, True, False))
    ]
    gated = [record("gated", "u", True, True, score=0.25, sample=n) for n in range(3)]
    (curve,) = found_in([*base, *gated]).curves
    assert (curve.n, curve.n_answers, curve.n_errors) == (3, 2, 2)


def test_a_cell_that_never_answers_has_no_risk():
    (point,) = found_in([record("mute", "u", True, True), record("mute", "a", False, True, False)]).points
    assert (point.coverage.value, point.risk) == (0.0, None)


def test_nothing_to_judge_makes_no_picture():
    assert found_in([]) is None
    assert found_in([record("a", "open", None, False)]) is None
    assert found_in([record("a", "easy", False, False, True)]) is None
    assert found_in([scored("a", "unscored", True)]) is None
