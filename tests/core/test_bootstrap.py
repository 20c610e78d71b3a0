from __future__ import annotations

import numpy as np
import pytest

from steerkit.core.bootstrap import bootstrap_changes, bootstrap_means, resampling_weights


def test_the_bootstrap_equals_one_done_by_hand():
    rng = np.random.default_rng(3)
    groups = np.array([0, 0, 1, 2, 3, 3, 4, 5, 6, 6, 7])
    values = rng.random((3, 11))
    values[rng.random((3, 11)) < 0.3] = np.nan
    weights = resampling_weights(8, 300, seed=5)
    means, changes = bootstrap_means(values, groups, weights), bootstrap_changes(values, 0, groups, weights)
    for row in range(3):
        for estimate, quantity in ((means[row], values[row]), (changes[row], values[row] - values[0])):
            drawn = []
            for draw in weights.astype(int):
                items = [
                    i
                    for group, times in enumerate(draw)
                    for _ in range(times)
                    for i in np.flatnonzero(groups == group)
                ]
                picked = [quantity[i] for i in items if not np.isnan(quantity[i])]
                if picked:
                    drawn.append(np.mean(picked))
            assert estimate.value == pytest.approx(np.nanmean(quantity))
            assert [estimate.low, estimate.high] == pytest.approx(list(np.percentile(drawn, [2.5, 97.5])))
            assert estimate.n == np.isfinite(quantity).sum()


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    n_items, truth = 100, 0.4
    samples = (rng.random((600, n_items)) < truth).astype(float)
    estimates = bootstrap_means(samples, np.arange(n_items), resampling_weights(n_items, 1000))
    covered = np.mean([e.low <= truth <= e.high for e in estimates])
    assert 0.92 <= covered <= 0.975


def test_a_paired_interval_is_narrower_than_the_levels_would_give():
    rng = np.random.default_rng(1)
    base = (rng.random(200) < 0.5).astype(float)
    better = np.where(rng.random(200) < 0.1, 1.0, base)
    values, weights = np.stack([base, better]), resampling_weights(200)
    change = bootstrap_changes(values, 0, np.arange(200), weights)[1]
    level = bootstrap_means(values, np.arange(200), weights)[1]
    assert change.high - change.low < 0.7 * (level.high - level.low)
    assert change.low > 0


def test_twins_with_one_fate_count_as_one():
    rng = np.random.default_rng(2)
    values, weights = rng.random((1, 50)), resampling_weights(50)
    alone = bootstrap_means(values, np.arange(50), weights)[0]
    doubled = bootstrap_means(np.repeat(values, 2, axis=1), np.repeat(np.arange(50), 2), weights)[0]
    assert (doubled.low, doubled.high) == pytest.approx((alone.low, alone.high))
    assert doubled.n == 100


def test_a_change_is_taken_over_common_items():
    values = np.array([[1.0, 1.0, 0.0, np.nan], [0.0, np.nan, 0.0, 1.0]])
    change = bootstrap_changes(values, 0, np.arange(4), resampling_weights(4))[1]
    assert (change.value, change.n) == (-0.5, 2)


def test_a_cell_without_measurement_has_no_estimate():
    assert bootstrap_means(np.full((1, 3), np.nan), np.arange(3), resampling_weights(3)) == [None]
