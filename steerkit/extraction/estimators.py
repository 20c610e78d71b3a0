"""Estimators: from the states of two sides at one layer to a direction in the residual stream.

Each takes `positive` `[n, d_model]` and `negative` `[m, d_model]`, float32 on one device, and returns a
direction `[d_model]` of arbitrary length and sign; `oriented_and_scaled` gives it both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from steerkit.core.errors import InputError

Estimator = Callable[[Tensor, Tensor], Tensor]

# By how much, relative to their norm, equal texts' states may differ because they ran in different batches.
ROUNDING = 1e-5


def mean_difference(positive: Tensor, negative: Tensor) -> Tensor:
    """Mean of the positive states minus mean of the negative ones (Rimsky et al. 2024, arXiv 2312.06681)."""
    return positive.mean(dim=0) - negative.mean(dim=0)


def pca(positive: Tensor, negative: Tensor) -> Tensor:
    """First principal component of the pairs' differences (Zou et al. 2023, arXiv 2310.01405).

    Row i of both sides is one pair. Each difference enters in both orders, as in the source in expectation
    (it draws the order at random): the mean is then zero, and centring does not take away the very difference
    that is sought.
    """
    differences = positive - negative
    component = PCA(n_components=1, svd_solver="full").fit(_host(torch.cat([differences, -differences])))
    return _like(component.components_[0], positive)


def logistic(positive: Tensor, negative: Tensor) -> Tensor:
    """Normal of an L2-regularised logistic probe (Alain & Bengio 2016, arXiv 1610.01644).

    Fitted on standardised coordinates, because a few residual-stream coordinates are a hundred times larger
    than the rest; the normal is returned in the stream's own coordinates.
    """
    states, labels = _labelled(positive, negative)
    scaler = StandardScaler().fit(states)
    probe = LogisticRegression(max_iter=1000).fit(scaler.transform(states), labels)
    return _like(probe.coef_[0] / scaler.scale_, positive)


def lda(positive: Tensor, negative: Tensor) -> Tensor:
    """Fisher's linear discriminant with the Ledoit-Wolf shrinkage of the shared covariance.

    Needs memory and time for one `[d_model, d_model]` system a fit.
    """
    states, labels = _labelled(positive, negative)
    discriminant = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(states, labels)
    return _like(discriminant.coef_[0], positive)


ESTIMATORS: dict[str, Estimator] = {
    "mean-difference": mean_difference,
    "pca": pca,
    "logistic": logistic,
    "lda": lda,
}


def oriented_and_scaled(direction: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """`direction` made to point to the positive side, as long as the mean gap projected on it.

    Strength 1 then moves a state by the gap between the two sides' means along the direction; the mean
    difference keeps its own length. Raises InputError where the sides do not differ.
    """
    gap = mean_difference(positive, negative)
    if gap.norm() <= ROUNDING * positive.norm(dim=1).mean() or not direction.any():
        raise InputError("the two sides have the same states: their texts do not differ where they are read")
    unit = direction / direction.norm()
    return unit * (unit @ gap)


def agreement(positive: Tensor, negative: Tensor) -> Tensor:
    """Mean cosine of each pair's difference to the mean of the other pairs' differences, per layer.

    Takes `[n, n_layers, d_model]` twice, row i of both one pair, n at least 2, and returns `[n_layers]`
    in [-1, 1]. Low agreement foretells a vector that steers unreliably (arXiv 2602.17881).
    """
    differences = positive - negative
    others = differences.sum(dim=0) - differences
    return torch.cosine_similarity(differences, others, dim=-1).mean(dim=0)


def _labelled(positive: Tensor, negative: Tensor) -> tuple[Any, Any]:
    """Both sides as one `[n + m, d_model]` float64 array on the host, with labels 1 and 0."""
    labels = torch.cat([torch.ones(len(positive)), torch.zeros(len(negative))])
    return _host(torch.cat([positive, negative])), labels.numpy()


def _host(states: Tensor) -> Any:
    return states.cpu().double().numpy()


def _like(direction: Any, states: Tensor) -> Tensor:
    return torch.from_numpy(direction).to(states.device, states.dtype)
