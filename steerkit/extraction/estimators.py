"""The estimators that are built in; `estimator` says what one takes and returns. Heavy imports stand inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from steerkit.extraction.estimator import estimator

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.extraction.capture import Aggregation, Progress
    from steerkit.extraction.pairs import ContrastPairs, PairsOrPrompts
    from steerkit.interventions.vector import SteeringVector
    from steerkit.models import LanguageModel


@estimator("mean-difference")
def mean_difference(positive: Tensor, negative: Tensor) -> Tensor:
    """Mean of the positive states minus mean of the negative ones (Rimsky et al. 2024, arXiv 2312.06681)."""
    return positive.mean(dim=0) - negative.mean(dim=0)


@estimator("pca", paired=True)
def pca(positive: Tensor, negative: Tensor) -> Tensor:
    """First principal component of the pairs' differences (Zou et al. 2023, arXiv 2310.01405).

    Row i of both sides is one pair. Each difference enters in both orders, as in the source in expectation
    (it draws the order at random): the mean is then zero, and centring does not take away the very difference
    that is sought.
    """
    import numpy as np
    from sklearn.decomposition import PCA

    differences = _host(positive - negative)
    component = PCA(n_components=1, svd_solver="full").fit(np.concatenate([differences, -differences]))
    return _like(component.components_[0], positive)


@estimator("logistic")
def logistic(positive: Tensor, negative: Tensor) -> Tensor:
    """Normal of an L2-regularised logistic probe (Alain & Bengio 2016, arXiv 1610.01644).

    Fitted on standardised coordinates, because a few residual-stream coordinates are a hundred times larger
    than the rest; the normal is returned in the stream's own coordinates.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    states, labels = _labelled(positive, negative)
    scaler = StandardScaler().fit(states)
    probe = LogisticRegression(max_iter=1000).fit(scaler.transform(states), labels)
    return _like(probe.coef_[0] / scaler.scale_, positive)


@estimator("lda")
def lda(positive: Tensor, negative: Tensor) -> Tensor:
    """Fisher's linear discriminant with the Ledoit-Wolf shrinkage of the shared covariance.

    Needs memory and time for one `[d_model, d_model]` system a fit.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    states, labels = _labelled(positive, negative)
    discriminant = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(states, labels)
    return _like(discriminant.coef_[0], positive)


@estimator("random", whole=True)
def random(
    lm: LanguageModel,
    pairs: PairsOrPrompts,
    *,
    aggregation: Aggregation,
    folds: int,
    seed: int,
    progress: Progress | None,
) -> SteeringVector:
    """A random direction, drawn from the seed, as long as the mean difference: the control."""
    from steerkit.extraction.extract import extract

    fitted = extract(lm, pairs, mean_difference, aggregation, folds=folds, seed=seed, progress=progress)
    return fitted.random_control(seed)


@estimator("contrastive-energy", paired=True, whole=True)
def contrastive_energy(
    lm: LanguageModel,
    pairs: ContrastPairs,
    *,
    layers: int | Sequence[int],
    kl_budget: float = 0.3,
    steps: int = 40,
    seed: int,
    progress: Progress | None,
) -> SteeringVector:
    """Trained at `layers` to make the positive completions likelier than the negative ones; see `sk.learn`."""
    from steerkit.extraction.learned import learn

    return learn(lm, pairs, layers, kl_budget=kl_budget, steps=steps, seed=seed, progress=progress)


def _labelled(positive: Tensor, negative: Tensor) -> tuple[Any, Any]:
    """Both sides as one `[n + m, d_model]` float64 array on the host, with labels 1 and 0."""
    import numpy as np

    labels = np.repeat([1, 0], [len(positive), len(negative)])
    return np.concatenate([_host(positive), _host(negative)]), labels


def _host(states: Tensor) -> Any:
    return states.cpu().double().numpy()


def _like(direction: Any, states: Tensor) -> Tensor:
    found: Tensor = states.new_tensor(direction)
    return found
