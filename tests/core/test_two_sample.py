from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from steerkit.core.errors import MisuseError
from steerkit.core.two_sample import MOST_ROWS, drift_p_value, projection_of


def test_the_statistic_is_the_energy_distance_and_the_p_value_counts_permutations():
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=(12, 3)), rng.normal(0.6, size=(7, 3))

    def energy(x, y):
        return 2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean()

    rows = np.concatenate([old, new])
    shuffled = []
    for _ in range(2000):
        order = rng.permutation(len(rows))
        shuffled.append(energy(rows[order[:12]], rows[order[12:]]))
    expected = np.mean(np.array(shuffled) >= energy(old, new))
    assert drift_p_value(old, new, permutations=4999) == pytest.approx(expected, abs=0.03)


def test_one_kind_raises_the_alarm_as_seldom_as_it_says():
    rng = np.random.default_rng(1)
    found = [drift_p_value(rng.normal(size=(40, 4)), rng.normal(size=(15, 4)), 99) for _ in range(500)]
    assert np.mean(np.array(found) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 500)
    assert np.mean(found) == pytest.approx(0.5, abs=0.06)


def test_another_kind_raises_it_whether_it_is_moved_or_spread():
    rng = np.random.default_rng(2)
    old = rng.normal(size=(100, 4))
    assert drift_p_value(old, rng.normal(1.0, size=(30, 4))) == 0.001
    assert drift_p_value(old, 3 * rng.normal(size=(30, 4))) == 0.001


def test_the_same_samples_give_the_same_value_however_large():
    rng = np.random.default_rng(3)
    old, new = rng.normal(size=(MOST_ROWS + 50, 2)), rng.normal(0.1, size=(MOST_ROWS + 9, 2))
    assert drift_p_value(old, new, 49) == drift_p_value(old, new, 49)
    assert drift_p_value(old, old.copy(), 49) > 0.5


def test_features_are_the_score_and_the_principal_directions_at_one_scale():
    rng = np.random.default_rng(4)
    states = rng.normal(size=(60, 20)) * np.r_[1000.0, np.ones(19)] + 5
    weight = rng.normal(size=20)
    projection = projection_of(states, weight, directions=3)
    features = projection(states)
    assert features.shape == (60, 4)
    assert features.mean(axis=0) == pytest.approx(np.zeros(4), abs=1e-9)
    assert features.std(axis=0) == pytest.approx(np.ones(4))
    assert abs(np.corrcoef(features[:, 0], states @ weight)[0, 1]) == pytest.approx(1)
    standard = (states - states.mean(axis=0)) / states.std(axis=0)
    first = np.linalg.eigh(standard.T @ standard)[1][:, -1]
    assert abs(np.corrcoef(features[:, 1], standard @ first)[0, 1]) == pytest.approx(1)


def test_directions_without_variation_are_left_out():
    states = np.array([[1.0, 2.0, 0.0], [1.0, 3.0, 0.0], [1.0, 5.0, 0.0]])
    assert projection_of(states)(states).shape == (3, 1)
    assert projection_of(states, [1.0, 0.0, 0.0])(states).shape == (3, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: drift_p_value([[1.0]], [[1.0], [2.0]]), "at least two rows"),
        (lambda: drift_p_value([[1.0], [2.0]], [[1.0, 2.0], [2.0, 3.0]]), r"\[2, 1\] and \[2, 2\]"),
        (lambda: drift_p_value([[1.0], [np.nan]], [[1.0], [2.0]]), "not finite"),
        (lambda: projection_of([[1.0, 2.0]]), "at least two rows"),
    ],
)
def test_what_cannot_be_compared_is_refused(call, message):
    with pytest.raises(MisuseError, match=message):
        call()
