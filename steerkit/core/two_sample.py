"""The drift alarm of a bound: are these questions of the same kind as those that it was got from?

A permutation test of the energy distance (Székely & Rizzo 2013, "Energy statistics", J. Stat. Plan. Inference 143)
between few features of a reference sample and of new questions: the detector's own score, and the states along the
principal directions of questions that it was fitted on. It is exact: where both samples come of one kind, the p-value
is at most p in at most the share p of all draws, whatever the features.

Two things would break that. The directions must come of other questions than the reference, for a sample lies better
along its own directions than any new one does; and no two rows may be twins: give one question of each group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steerkit.core.bootstrap import Floats
from steerkit.core.errors import MisuseError

DRIFT_LEVEL = 0.01  # the alarm's p-value: one false alarm in a hundred samples of the same kind
PERMUTATIONS = 999
DIRECTIONS = 8
ROUNDING = (
    1e-5  # a coordinate that varies by less, relative to the mean size of them all, only carries rounding
)
MOST_ROWS = 500  # of either sample, drawn from the seed: the distances of all pairs are held at once


@dataclass(frozen=True, eq=False)
class Projection:
    """Few features of a state: `(state - mean) @ directions.T`, for states `[n, width]` -> `[n, n_features]`.

    Every feature has mean 0 and spread 1 on the states that it was made from.
    """

    mean: Floats
    directions: Floats

    def __call__(self, states: ArrayLike) -> Floats:
        """Return the features of states."""
        features: Floats = (np.asarray(states, np.float64) - self.mean) @ self.directions.T
        return features


def projection_of(
    states: ArrayLike, weight: ArrayLike | None = None, directions: int = DIRECTIONS
) -> Projection:
    """Return a detector's direction `weight` `[width]`, if any, and the first principal directions of its states.

    `states` `[n, width]` are those that the detector was fitted on, not those of the reference. Coordinates are
    standardised first, so that the few large ones of a residual stream do not stand for all. Directions along which the
    states do not vary are left out.
    """
    fitted = np.asarray(states, np.float64)
    if fitted.ndim != 2 or len(fitted) < 2 or not np.isfinite(fitted).all():
        raise MisuseError(f"at least two rows of finite states are needed, got shape {list(fitted.shape)}")
    mean = fitted.mean(axis=0)
    spread = fitted.std(axis=0)
    scale = np.divide(
        1.0, spread, out=np.zeros_like(spread), where=spread > ROUNDING * np.sqrt((mean**2).mean())
    )
    principal = np.linalg.svd((fitted - mean) * scale, full_matrices=False)[2][:directions] * scale
    rows = principal if weight is None else np.vstack([np.asarray(weight, np.float64), principal])
    spreads = ((fitted - mean) @ rows.T).std(axis=0)
    varies = spreads > 1e-9 * spreads.max(initial=0.0)
    return Projection(mean, rows[varies] / spreads[varies, None])


def drift_p_value(
    reference: ArrayLike, new: ArrayLike, permutations: int = PERMUTATIONS, seed: int = 0
) -> float:
    """Return the p-value of the hypothesis that features `reference` `[n, k]` and `new` `[m, k]` are of one kind.

    At least 1 / (permutations + 1); alarm at or below `DRIFT_LEVEL`. The same samples and seed give the same value.
    Raises MisuseError for samples of fewer than two rows, of different widths, or that are not finite.
    """
    samples = [np.asarray(sample, np.float64) for sample in (reference, new)]
    if any(s.ndim != 2 or len(s) < 2 for s in samples) or samples[0].shape[1] != samples[1].shape[1]:
        shapes = " and ".join(str(list(s.shape)) for s in samples)
        raise MisuseError(f"two samples of at least two rows and the same features are needed, got {shapes}")
    if not all(np.isfinite(s).all() for s in samples):
        raise MisuseError("a feature is not finite: the samples cannot be compared")
    rng = np.random.default_rng(seed)
    first, second = (_at_most(sample, rng) for sample in samples)
    is_new = np.repeat([0.0, 1.0], [len(first), len(second)])
    drawn = rng.permuted(np.tile(is_new, (permutations, 1)), axis=1)
    observed, *shuffled = _energy(_distances(np.concatenate([first, second])), np.vstack([is_new, drawn]))
    as_far = np.count_nonzero(np.array(shuffled) >= observed - 1e-12 * abs(observed))
    return (1 + as_far) / (permutations + 1)


def _at_most(sample: Floats, rng: np.random.Generator) -> Floats:
    return sample if len(sample) <= MOST_ROWS else sample[rng.choice(len(sample), MOST_ROWS, replace=False)]


def _distances(rows: Floats) -> Floats:
    """Euclidean distances of all pairs of rows, `[n, n]`."""
    squares = (rows**2).sum(axis=1)
    distances: Floats = np.sqrt(np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0.0))
    return distances


def _energy(distances: Floats, is_new: NDArray[np.float64]) -> Floats:
    """The energy distance for each assignment `[n_assignments, n]` of rows to the two samples."""
    n_new = is_new[0].sum()
    n_old = len(distances) - n_new
    to_new = is_new @ distances
    within_new = (to_new * is_new).sum(axis=1)
    between = to_new.sum(axis=1) - within_new
    within_old = distances.sum() - within_new - 2 * between
    energy: Floats = 2 * between / (n_old * n_new) - within_old / n_old**2 - within_new / n_new**2
    return energy
