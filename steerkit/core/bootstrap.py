"""The paired bootstrap: resample groups of items, and take percentiles.

Items are resampled in their groups (twins together) and with the same draws for every quantity, so the difference of
two quantities is taken within each resample. Intervals are 95% percentile intervals; where no item differs they have
no width, which is not certainty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
INTERVAL = (2.5, 97.5)
ROWS_AT_ONCE = 256  # bounds the memory of a bootstrap: [resamples, rows] doubles at a time

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` items with its 95% interval."""

    value: float
    low: float
    high: float
    n: int


def interval(drawn: Floats) -> tuple[float, float]:
    """Return the 95% percentile interval of resamples `[resamples]`, those that are NaN left out; NaN without any."""
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.percentile(drawn, INTERVAL) if len(drawn) else (np.nan, np.nan)
    return float(low), float(high)


def resampling_weights(n_groups: int, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Return `[resamples, n_groups]`: how often each draw of `n_groups` with replacement holds each group."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=resamples).astype(np.float64)


def bootstrap_means(values: Floats, groups: Integers, weights: Floats) -> list[Estimate | None]:
    """Return the mean over items of each row of `values` `[n_rows, n_items]`, NaN left out; None for an empty row.

    `groups` `[n_items]` numbers the items' groups from 0 without a gap, `weights` `[resamples, n_groups]` is
    how often each is drawn. A resample in which a row has no item is left out of that row's interval.
    """
    blocks = (values[start : start + ROWS_AT_ONCE] for start in range(0, len(values), ROWS_AT_ONCE))
    return [estimate for block in blocks for estimate in _bootstrap_block(block, groups, weights)]


def bootstrap_changes(
    values: Floats, baseline: int, groups: Integers, weights: Floats
) -> list[Estimate | None]:
    """As `bootstrap_means`, of each row of `values` minus row `baseline`, over the items that both have."""
    return bootstrap_means(values - values[baseline], groups, weights)


def ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """Return `part / whole`, NaN where `whole` is 0."""
    quotient: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return quotient


def _bootstrap_block(values: Floats, groups: Integers, weights: Floats) -> list[Estimate | None]:
    there = ~np.isnan(values)
    by_group = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[by_group], np.arange(weights.shape[1]))
    sums = np.add.reduceat(np.where(there, values, 0.0)[:, by_group], starts, axis=1)  # [n_rows, n_groups]
    alike = bool((there == there[:1]).all())  # then one row counts for all of them
    counts = np.add.reduceat(there[: 1 if alike else None, by_group].astype(np.float64), starts, axis=1)
    drawn = ratio(weights @ sums.T, weights @ counts.T)  # [resamples, n_rows]
    lows, highs = np.percentile(drawn, INTERVAL, axis=0)
    estimates: list[Estimate | None] = []
    for row, n in enumerate(map(int, there.sum(axis=1))):
        low, high = (lows[row], highs[row]) if not np.isnan(lows[row]) else interval(drawn[:, row])
        estimates.append(Estimate(float(sums[row].sum() / n), float(low), float(high), n) if n else None)
    return estimates
