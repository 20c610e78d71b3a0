"""Estimators against scikit-learn and numpy by hand, on synthetic states whose direction is known."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from steerkit.core.errors import InputError
from steerkit.core.registry import ESTIMATORS
from steerkit.extraction.estimator import Estimator, agreement, oriented_and_scaled
from steerkit.extraction.estimators import lda, logistic, mean_difference, pca
from steerkit.extraction.learned import learn

N, D = 200, 8


@pytest.fixture
def sides():
    """Two sides `[n, d_model]` that differ by 2 along the first axis; the second is far louder."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(N, D, generator=generator)
    shared[:, 1] *= 100
    positive = shared + 0.3 * torch.randn(N, D, generator=generator)
    negative = shared + 0.3 * torch.randn(N, D, generator=generator)
    positive[:, 0] += 2
    return positive, negative


def cosine(a, b):
    return float(torch.cosine_similarity(a.double(), torch.as_tensor(b).double(), dim=0))


def test_the_mean_difference_is_the_difference_of_the_means(sides):
    positive, negative = (side.numpy() for side in sides)
    np.testing.assert_allclose(
        mean_difference(*sides).numpy(), positive.mean(0) - negative.mean(0), atol=1e-4
    )


def test_pca_is_the_uncentred_leading_axis_of_the_differences(sides):
    differences = (sides[0] - sides[1]).double().numpy()
    _, _, axes = np.linalg.svd(differences)
    assert abs(cosine(pca(*sides), axes[0])) == pytest.approx(1, abs=1e-6)


def test_pca_finds_a_difference_that_centring_would_remove():
    negative = torch.randn(20, D, generator=torch.Generator().manual_seed(0))
    positive = negative + torch.eye(D)[0]
    assert abs(cosine(pca(positive, negative), torch.eye(D)[0])) == pytest.approx(1)


def test_the_probe_is_the_logistic_regression_on_standardised_states(sides):
    states, labels = torch.cat(sides).double().numpy(), np.repeat([1, 0], N)
    scale = states.std(axis=0)
    probe = LogisticRegression(max_iter=1000).fit((states - states.mean(axis=0)) / scale, labels)
    assert cosine(logistic(*sides), probe.coef_[0] / scale) == pytest.approx(1, abs=1e-6)


def test_lda_is_the_shrunk_covariance_solved_for_the_gap(sides):
    states, labels = torch.cat(sides).double().numpy(), np.repeat([1, 0], N)
    by_sklearn = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto").fit(states, labels)
    assert cosine(lda(*sides), by_sklearn.coef_[0]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("method", ["mean-difference", "pca", "logistic", "lda"])
def test_every_method_points_to_the_positive_side_with_the_projected_gap_as_its_length(method, sides):
    for positive, negative in (sides, sides[::-1]):
        vector = ESTIMATORS[method].direction(positive, negative)
        gap = (positive.mean(0) - negative.mean(0)) @ vector / vector.norm()
        assert gap > 0
        assert float(vector.norm()) == pytest.approx(float(gap), rel=1e-4)
        assert vector.dtype == torch.float32


@pytest.mark.parametrize("method", ["logistic", "lda"])
def test_the_probes_find_the_axis_although_another_is_louder(method, sides):
    assert abs(cosine(ESTIMATORS[method].function(*sides), torch.eye(D)[0])) > 0.9


def test_a_direction_of_either_sign_and_any_length_becomes_the_same_vector(sides):
    direction = pca(*sides)
    one = oriented_and_scaled(direction, *sides)
    torch.testing.assert_close(oriented_and_scaled(-7 * direction, *sides), one)


def test_the_mean_difference_keeps_its_length(sides):
    difference = mean_difference(*sides)
    torch.testing.assert_close(oriented_and_scaled(difference, *sides), difference)


def test_sides_that_do_not_differ_are_an_error(sides):
    with pytest.raises(InputError, match="same states"):
        oriented_and_scaled(torch.ones(D), sides[0], sides[0])


def test_agreement_is_one_for_parallel_and_zero_for_orthogonal_differences():
    parallel = torch.eye(4)[[0, 0, 0, 0]] * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None]
    differences = torch.stack([parallel, torch.eye(4)], dim=1)
    torch.testing.assert_close(
        agreement(differences, torch.zeros_like(differences)), torch.tensor([1.0, 0.0])
    )


def test_agreement_compares_each_pair_with_the_others_only():
    differences = torch.randn(5, 2, 6, generator=torch.Generator().manual_seed(0))
    by_hand = [
        [
            cosine(differences[i, layer], np.delete(differences[:, layer].numpy(), i, axis=0).mean(axis=0))
            for i in range(5)
        ]
        for layer in range(2)
    ]
    expected = torch.tensor(by_hand).mean(dim=1)
    torch.testing.assert_close(agreement(differences, torch.zeros_like(differences)), expected)


def test_the_learned_method_has_the_defaults_of_learn():
    ours, theirs = ESTIMATORS["contrastive-energy"].parameters, Estimator("learn", learn).parameters
    assert (ours["kl_budget"], ours["steps"]) == (theirs["kl_budget"], theirs["steps"])


def test_each_estimator_and_option_is_declared_once_and_without_torch():
    code = (
        "import sys; from steerkit.core.registry import ESTIMATORS; print(*ESTIMATORS);"
        "sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "mean-difference",
        "pca",
        "logistic",
        "lda",
        "random",
        "contrastive-energy",
    ]
