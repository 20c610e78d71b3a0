"""How good a detector is: AUROC and recall with intervals, by one bootstrap over groups of questions.

Scores of different folds come of different fits and share no scale, so questions are compared within their *stratum*
alone (a fold, or a fold and a kind of question). Groups (twins) are drawn together, and with the same draws for
everything that is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steerkit.core.bootstrap import RESAMPLES, interval, ratio, resampling_weights
from steerkit.core.errors import InputError
from steerkit.extraction.pairs import Example
from steerkit.extraction.probe_fit import cut_within
from steerkit.interventions.probe_report import Measured

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Draws:
    """Labels and groups `[n]`, and how often each resample holds each question `[resamples, n]`."""

    positive: Labels
    groups: NDArray[np.intp]
    weights: Floats

    @classmethod
    def of(cls, examples: Sequence[Example], resamples: int = RESAMPLES, seed: int = 0) -> Draws:
        """Draws of the examples' groups."""
        names, group = np.unique([example.group for example in examples], return_inverse=True)
        weights = resampling_weights(len(names), resamples, seed)[:, group]
        return cls(np.array([example.positive for example in examples]), group, weights)

    def auroc(self, scores: Floats, strata: ArrayLike | None = None) -> tuple[float, Floats]:
        """The chance that a positive scores above a negative of its stratum, and that of each resample.

        Ties count half. Questions without a score (NaN) or a stratum (below 0) are left out; NaN where no two can be
        compared. Twins are compared as often as their group is drawn, not the square of it.
        """
        stratum = np.zeros(len(scores), int) if strata is None else np.asarray(strata)
        there = ~np.isnan(scores) & (stratum >= 0)
        wins, pairs = np.zeros((2, 1 + len(self.weights)))
        every = np.concatenate([np.ones((1, len(scores))), self.weights])
        for one in np.unique(stratum[there]):
            mine = there & (stratum == one)
            positive, negative = mine & self.positive, mine & ~self.positive
            above, below = scores[positive][:, None], scores[negative][None]
            won = (above > below) + 0.5 * (above == below)
            wins += np.einsum("rn,rn->r", every[:, positive] @ won, every[:, negative])
            pairs += every[:, positive].sum(axis=1) * every[:, negative].sum(axis=1)
            twins = np.nonzero(self.groups[positive][:, None] == self.groups[negative][None])
            too_often = every[:, positive][:, twins[0]]
            too_often = too_often**2 - too_often
            wins -= too_often @ won[twins]
            pairs -= too_often.sum(axis=1)
        found = ratio(wins, pairs)
        return float(found[0]), found[1:]

    def measured(self, scores: Floats, strata: ArrayLike | None = None) -> Measured:
        """The AUROC with its interval."""
        return measured(*self.auroc(scores, strata))

    def share(self, fired: ArrayLike, among: Labels) -> Measured:
        """The share of the questions `among` which `fired` is true, with its interval."""
        every = np.concatenate([np.ones((1, len(among))), self.weights])[:, among]
        found = ratio(every @ np.asarray(fired, np.float64)[among], every.sum(axis=1))
        return measured(float(found[0]), found[1:])

    def recall_within(self, scores: Floats, budget: float) -> Measured:
        """Share of positives above the cut that at most `budget` of the negatives reach, cut anew in each resample."""
        order = np.argsort(-scores, kind="stable")
        last = np.append(np.diff(scores[order]) != 0, True)  # a cut divides no ties
        every = np.concatenate([np.ones((1, len(scores))), self.weights])[:, order]
        shares = []
        for side in (self.positive[order], ~self.positive[order]):
            mine = every * side
            shares.append(ratio(np.cumsum(mine, axis=1), mine.sum(axis=1, keepdims=True))[:, last])
        reached = np.where(shares[1] <= budget + 1e-9, shares[0], 0.0).max(axis=1)
        found = np.where(np.isnan(shares[0][:, -1] + shares[1][:, -1]), np.nan, reached)
        return measured(float(found[0]), found[1:])


def measured(value: float, drawn: Floats) -> Measured:
    """A value with the 95% percentile interval of its resamples. Raises InputError where there is no value."""
    if np.isnan(value):
        raise InputError("there is nothing to compare: give questions of both labels")
    low, high = interval(drawn)
    return Measured(value=value, low=low, high=high)


def cut_at(scores: Floats, labels: Labels, budget: float) -> float:
    """`cut_within` among the questions that have a score."""
    there = ~np.isnan(scores)
    return cut_within(scores[there], labels[there], budget)
