from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from steerkit.core.errors import MisuseError
from steerkit.core.learn_then_test import (
    binomial_p_value,
    certified_cut,
    certify,
    check_enough,
    fixed_sequence,
    group_losses,
    level_of,
    most_losses,
    risk_upper_bound,
    smallest_n,
)

shares = st.floats(0.01, 0.99)
counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, shares)
def test_the_p_value_is_that_of_the_one_sided_binomial_test(count, limit):
    losses, n = count
    expected = binomtest(losses, n, limit, alternative="less").pvalue
    assert float(binomial_p_value(losses, n, limit)) == pytest.approx(expected, rel=1e-9)


def test_p_values_come_elementwise_and_without_groups_nothing_is_known():
    assert binomial_p_value([0, 1], [1, 1], 0.3).tolist() == pytest.approx([0.7, 1.0])
    assert float(binomial_p_value(0, 0, 0.3)) == 1.0


@given(counts, shares)
def test_the_upper_bound_is_that_of_clopper_and_pearson(count, confidence):
    losses, n = count
    interval = binomtest(losses, n, alternative="less").proportion_ci(confidence, method="exact")
    assert risk_upper_bound(losses, n, confidence) == pytest.approx(interval.high, rel=1e-6)


@given(shares, st.floats(0.5, 0.999), st.integers(1, 20))
def test_the_smallest_n_is_the_least_that_certifies_without_a_loss(limit, confidence, sequences):
    n = smallest_n(limit, confidence, sequences)
    assert certify(0, n, limit, confidence, sequences)
    assert n == 1 or certify(0, n - 1, limit, confidence, sequences) is None


def test_the_smallest_n_of_common_bounds():
    assert [smallest_n(limit, 0.95) for limit in (0.2, 0.1, 0.05, 0.01)] == [14, 29, 59, 299]
    assert smallest_n(1e-9, 0.95) == pytest.approx(2995732273, rel=1e-8)
    assert smallest_n(0.1, 0.99) == math.ceil(math.log(0.01) / math.log(0.9)) == 44


@given(st.integers(0, 300), shares, st.floats(0.5, 0.999))
def test_one_more_than_the_most_losses_is_too_many(n, limit, confidence):
    most = most_losses(n, limit, confidence)
    assert most < n or n == 0
    assert most == -1 or certify(most, n, limit, confidence)
    assert most + 1 > n or certify(most + 1, n, limit, confidence) is None
    assert (most == -1) == (n < smallest_n(limit, confidence))


def test_a_group_loses_where_any_of_its_items_does():
    assert group_losses([True, False, False, False], ["b", "a", "b", "a"]).tolist() == [False, True]


def test_the_first_candidate_that_fails_ends_the_sequence():
    assert fixed_sequence([0.01, 0.02, 0.2, 0.001], 0.05) == 2
    assert fixed_sequence([0.01, float("nan")], 0.05) == 1
    assert fixed_sequence([], 0.05) == 0
    assert fixed_sequence([0.05], 0.05) == 1


def test_sequences_share_the_level():
    assert level_of(0.9, 4) == pytest.approx(0.025)


def test_what_was_chosen_pays_for_the_choice():
    # 12 candidates whose risks rise past the limit; whichever passes last is taken, and may be one too far.
    rng = np.random.default_rng(0)
    risks, limit, n = np.linspace(0.04, 0.15, 12), 0.1, 150
    losses = rng.binomial(n, risks, size=(4000, len(risks)))
    passed = [fixed_sequence(row, 0.05) for row in binomial_p_value(losses, n, limit)]
    broken = np.mean([count > 0 and risks[count - 1] > limit for count in passed])
    naive = np.mean([any(row[risks > limit] <= limit * n) for row in losses])
    assert broken <= 0.05
    assert naive > 0.5  # a point estimate within the limit bounds nothing


@given(st.integers(0, 10**6))
def test_a_certified_cut_keeps_its_bound_and_no_lower_one_does(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(60, 200))
    scores, negative = rng.normal(size=n).round(1), rng.random(n) < 0.7
    groups = rng.integers(0, n // 2, size=n)
    kept = len(set(groups[negative]))
    if kept < smallest_n(0.2, 0.9):
        with pytest.raises(MisuseError, match="it takes at least"):
            certified_cut(scores, negative, groups, 0.2, 0.9)
        return
    cut = certified_cut(scores, negative, groups, 0.2, 0.9)
    lost = group_losses(scores[negative] >= cut.value, groups[negative])
    assert (int(lost.sum()), len(lost)) == (cut.certificate.losses, cut.certificate.n)
    assert cut.certificate.p_value <= 0.1 + 1e-12
    lower = scores[scores < cut.value].max()
    looser = int(group_losses(scores[negative] >= lower, groups[negative]).sum())
    assert looser > most_losses(kept, 0.2, 0.9)


def test_a_certified_cut_is_broken_no_more_often_than_it_says():
    rng, limit, confidence = np.random.default_rng(1), 0.1, 0.9
    # The share of groups of two that fire at a cut is known: 1 - Phi(cut)**2.
    most = np.sqrt(1 - limit)
    broken = 0
    for _ in range(1000):
        cut = certified_cut(
            rng.normal(size=400), np.ones(400), np.repeat(np.arange(200), 2), limit, confidence
        )
        broken += 0.5 * (1 + math.erf(cut.value / math.sqrt(2))) < most
    assert 0.02 <= broken / 1000 <= 0.1  # near its level: nothing is given away


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: smallest_n(0, 0.95), "the limit is a share between 0 and 1"),
        (lambda: smallest_n(1e-300, 0.95), "the limit is a share between 0 and 1"),
        (lambda: smallest_n(0.1, 1.0), "the confidence is a share between 0 and 1"),
        (lambda: binomial_p_value(3, 2, 0.1), "losses are whole numbers"),
        (lambda: group_losses([True], ["a", "b"]), "each item has a group"),
        (lambda: check_enough(28, 0.1, 0.95), r"28 groups cannot bound .* it takes at least 29"),
        (lambda: certified_cut([np.nan] * 40, [True] * 40, range(40), 0.1, 0.95), "not finite"),
        (lambda: certified_cut([1.0], [True, False], [1], 0.1, 0.95), "one entry for each item"),
    ],
)
def test_what_cannot_be_meant_is_refused(call, message):
    with pytest.raises(MisuseError, match=message):
        call()
