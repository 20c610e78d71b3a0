"""Estimators: how a direction in the residual stream is found, each declared with `@estimator(NAME)`.

    from steerkit import estimator

    @estimator("median-difference")
    def median_difference(positive, negative):
        return positive.median(dim=0).values - negative.median(dim=0).values

Most take the states of the two sides at one layer, `positive` `[n, d_model]` and `negative` `[m, d_model]`, float32
on one device, and return a direction `[d_model]` of arbitrary length and sign; `oriented_and_scaled` gives it both.
One that is declared `whole` takes the model and the pairs instead and returns the vector. Keyword-only parameters
are its options; it is given those of `SUPPLIED` that it names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from steerkit.core.errors import InputError, MisuseError
from steerkit.core.registry import ESTIMATORS

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.extraction.capture import Aggregation, Progress
    from steerkit.extraction.pairs import ContrastPairs, LabelledPrompts
    from steerkit.interventions.vector import SteeringVector
    from steerkit.models import LanguageModel

SUPPLIED = ("aggregation", "layers", "folds", "seed", "progress")

# By how much, relative to their norm, equal texts' states may differ because they ran in different batches.
ROUNDING = 1e-5

# Defaults of a learned vector: nats per token on ordinary prompts, and Adam steps.
KL_BUDGET = 0.3
STEPS = 40

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Estimator:
    """A function that finds directions, by the name that a vector's metadata gives it.

    `paired`: row i of both sides must belong to one pair. `whole`: `(model, pairs) -> SteeringVector` instead of
    `(positive, negative) -> direction`.
    """

    name: str
    function: Callable[..., Any]
    paired: bool = False
    whole: bool = False

    @classmethod
    def resolve(cls, method: str | Callable[..., Any]) -> Estimator:
        """The registered estimator of this name or function; any other function becomes one under its own name."""
        if isinstance(method, str):
            found: Estimator = ESTIMATORS[method]
            return found
        known = (each for _, each in ESTIMATORS.items() if each.function is method)
        return next(known, None) or cls(getattr(method, "__name__", type(method).__name__), method)

    @property
    def parameters(self) -> dict[str, Any]:
        """The keyword-only parameters with their defaults (`inspect.Parameter.empty` where there is none)."""
        try:
            signature = inspect.signature(self.function)
        except ValueError:  # a built-in without one
            return {}
        return {p.name: p.default for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}

    def check(self, options: Mapping[str, object]) -> None:
        """Raise MisuseError where `options` lacks what the function needs, or holds what it does not take."""
        takes = self.parameters
        for name, value in options.items():
            if name not in takes:
                others = [other for other, each in ESTIMATORS.items() if name in each.parameters]
                raise MisuseError(
                    f"{self.name} takes no {name}" + (f"; {', '.join(others)} does" if others else "")
                )
            if isinstance(takes[name], float | int) and not isinstance(value, float | int):
                raise MisuseError(f"{name} of {self.name} is a number, got {value!r}")
        for name, default in takes.items():
            supplied = name in SUPPLIED and name != "layers"
            if default is inspect.Parameter.empty and not supplied and name not in options:
                raise MisuseError(f"{self.name} needs {name}")

    def direction(self, positive: Tensor, negative: Tensor, **options: object) -> Tensor:
        """The direction `[d_model]` between two sides' states, oriented and scaled.

        Raises InputError where the sides do not differ, or where the function returns anything but `[d_model]`
        finite numbers.
        """
        import torch

        found = torch.as_tensor(self.function(positive, negative, **options)).to(positive)
        if found.shape != positive.shape[1:]:
            raise InputError(
                f"{self.name} returned shape {list(found.shape)}: a direction is [{positive.shape[1]}]"
            )
        if not found.isfinite().all():
            raise InputError(f"{self.name} returned NaN or Inf")
        return oriented_and_scaled(found, positive, negative)


def estimator(name: str, *, paired: bool = False, whole: bool = False) -> Callable[[F], F]:
    """Register a function as the estimator `name`; see `Estimator` for what it takes and returns.

    Raises MisuseError for a name that is malformed or taken.
    """

    def declare(function: F) -> F:
        ESTIMATORS.add(name, Estimator(name, function, paired, whole))
        return function

    return declare


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
    pairs: ContrastPairs | LabelledPrompts,
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
    kl_budget: float = KL_BUDGET,
    steps: int = STEPS,
    seed: int,
    progress: Progress | None,
) -> SteeringVector:
    """Trained at `layers` to make the positive completions likelier than the negative ones; see `sk.learn`."""
    from steerkit.extraction.learned import learn

    return learn(lm, pairs, layers, kl_budget=kl_budget, steps=steps, seed=seed, progress=progress)


def oriented_and_scaled(direction: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """`direction` made to point to the positive side, as long as the mean gap projected on it.

    Strength 1 then moves a state by the gap between the two sides' means along the direction; the mean
    difference keeps its own length. Raises InputError where the sides do not differ.
    """
    gap = mean_difference(positive, negative)
    if gap.norm() <= ROUNDING * positive.norm(dim=1).mean() or not direction.any():
        raise InputError("the two sides have the same states: their texts do not differ where they are read")
    unit = direction / direction.norm()
    scaled: Tensor = unit * (unit @ gap)
    return scaled


def agreement(positive: Tensor, negative: Tensor) -> Tensor:
    """Mean cosine of each pair's difference to the mean of the other pairs' differences, per layer.

    Takes `[n, n_layers, d_model]` twice, row i of both one pair, n at least 2, and returns `[n_layers]`
    in [-1, 1]. Low agreement foretells a vector that steers unreliably (arXiv 2602.17881).
    """
    import torch

    differences = positive - negative
    others = differences.sum(dim=0) - differences
    return torch.cosine_similarity(differences, others, dim=-1).mean(dim=0)


def _labelled(positive: Tensor, negative: Tensor) -> tuple[Any, Any]:
    """Both sides as one `[n + m, d_model]` float64 array on the host, with labels 1 and 0."""
    import numpy as np

    return np.concatenate([_host(positive), _host(negative)]), np.repeat(
        [1, 0], [len(positive), len(negative)]
    )


def _host(states: Tensor) -> Any:
    return states.cpu().double().numpy()


def _like(direction: Any, states: Tensor) -> Tensor:
    found: Tensor = states.new_tensor(direction)
    return found
