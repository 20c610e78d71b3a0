"""Racing: which cells of a grid go on to more items, decided on paired differences under the rule.

1. All cells meet the first items of one order. Then the worst are dropped, the others meet more items, and so on; the
   last ones meet all that there are, and the rule picks among them. This is successive halving (Jamieson and Talwalkar
   2016, arXiv 1502.07943) with a measure of what "worst" means.
2. Worst is the largest *expected loss*: the items' groups are resampled (Bayesian bootstrap, Rubin 1981; the same draws
   for every cell, so differences are paired); in each draw a cell loses what it falls short of the draw's best cell in
   the objective, and `PENALTY` times what it is beyond the bounds. A cell that meets its bounds by luck pays in other
   draws.
3. What a rung costs is planned when it begins, from what was spent until then, in records or in tokens. Everything is
   a function of the records, of their order of items and of the seed: a race that was interrupted decides the same.

This is a heuristic: no error probability is promised for a cell that is dropped. What it loses against the full grid is
measured by replay (`experiments/tuning`). Its pick is measured again on other items before anything is said of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steerkit.analysis.choosing import TOLERANCE, Quantity, Rule
from steerkit.analysis.outcomes import Outcomes
from steerkit.core.bootstrap import Floats, ratio

SHARE_KEPT = 2  # one in so many goes on
FINALISTS = 6
FIRST_ITEMS = 16
LEAST_ITEMS = 2  # one pair of twins
PENALTY = 2.0
RESAMPLES = 400


@dataclass(frozen=True)
class Rung:
    """The candidates meet the order's first `items` items; then `keep` of them go on, or all where it is None."""

    items: int
    keep: int | None


@dataclass(frozen=True)
class Heat:
    """A rung that was run: `cells` met `items` items, `spent` in all until then; `kept` go on.

    `losses` are the expected losses by cell, empty where nothing was dropped.
    """

    items: int
    cells: tuple[str, ...]
    kept: tuple[str, ...]
    losses: Mapping[str, float]
    spent: float


@dataclass(frozen=True)
class Raced:
    """The heats of a race, what they left (`finalists`), and what was measured of these and the unsteered model."""

    heats: tuple[Heat, ...]
    outcomes: Outcomes

    @property
    def finalists(self) -> tuple[str, ...]:
        """The ids of the cells that met the last items."""
        return self.heats[-1].kept


Measure = Callable[[Sequence[str], int], tuple[Outcomes, float]]
"""Measures cells (ids) on the first so many items: their outcomes with the unsteered model's, and all spent so far."""


def race(
    cells: Sequence[str],
    unsteered: str,
    rule: Rule,
    items: int,
    budget: float,
    measure: Measure,
    *,
    cost: float = 1.0,
    beside: int = 0,
    doses: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Raced:
    """Race `cells` over `items` items within `budget`, and return the heats.

    `cost` is what a record is expected to cost before any is there, and `beside` counts the cells that are measured
    beside the candidates in every rung. `doses` decide between equals.
    """
    running, seen, spent = list(cells), 0, 0.0
    heats: list[Heat] = []
    # Until all items are met, or nothing is left to spend.
    while (rung := next_rung(len(running), seen, items, budget - spent, cost, beside)).items > seen:
        before, records = spent, (len(running) + beside) * (rung.items - seen)
        outcomes, spent = measure(running, rung.items)
        if spent > before:  # where items come in twins, one more may be none yet
            cost = (spent - before) / records
        losses: dict[str, float] = {}
        kept = running
        if rung.keep is not None:
            losses = expected_losses(outcomes, running, unsteered, rule, seed=seed)
            kept = survivors(losses, rung.keep, doses)
        heats.append(Heat(rung.items, tuple(running), tuple(kept), losses, spent))
        running, seen = kept, rung.items
    return Raced(tuple(heats), outcomes)


def next_rung(candidates: int, seen: int, items: int, left: float, cost: float, beside: int = 0) -> Rung:
    """Return the rung that `candidates` meet next, having met `seen` of `items` items; with as many items at the end.

    `left` is what may be spent, and `cost` what a record is expected to, in one unit. What the finalists take to meet
    the rest is put aside, and there are no more of them than half of what is left pays for; the other half is shared
    equally among the rungs before them. The first rung has at least `FIRST_ITEMS` items where half of it pays for them.
    """
    if seen >= items or (seen and left < (candidates + beside) * cost):
        return Rung(seen, None)
    finalists = min(FINALISTS, max(1, int(left / (2 * (items - seen) * cost)) - beside))
    sizes = _sizes(candidates, finalists)
    if len(sizes) == 1 or left >= (candidates + beside) * (items - seen) * cost:
        affordable = seen + int(left / ((candidates + beside) * cost))
        # Twice what was met, at most, so that a cost that turns out higher is noticed before it is spent.
        ahead = 2 * seen if seen else items
        return Rung(min(items, ahead, max(affordable, seen, LEAST_ITEMS)), None)
    aside = (finalists + beside) * (items - seen) * cost
    share = max(left - aside, 0.0) / (len(sizes) - 1)
    more = int(share / ((candidates - finalists) * cost))
    if not seen:
        more = max(more, min(FIRST_ITEMS, int(left / (2 * (candidates + beside) * cost))))
    return Rung(min(items, max(seen + max(more, 1), LEAST_ITEMS)), sizes[1])


def expected_losses(
    outcomes: Outcomes,
    cells: Sequence[str],
    unsteered: str,
    rule: Rule,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, float]:
    """Return each cell's expected loss under the rule, by id.

    What is no share is taken in parts of the unsteered model's mean (the objective) or of the limit (a bound). Cells
    without a measurement of the objective lose infinitely.
    """
    at = {name: number for number, name in enumerate(outcomes.cells)}
    rows = [at[name] for name in cells]
    n_groups = int(outcomes.groups.max()) + 1
    metric = rule.objective.metric
    scale = 1.0 if metric.unit == "share" else float(np.nanmean(outcomes.values[metric.name][at[unsteered]]))
    weights = np.random.default_rng(seed).exponential(size=(resamples, n_groups))
    drawn = {
        quantity: _drawn_means(_values(outcomes, quantity, at[unsteered])[rows], outcomes.groups, weights)
        for quantity in {rule.objective, *(bound.quantity for bound in rule.bounds)}
    }
    objective = rule.objective.direction * drawn[rule.objective] / (abs(scale) or 1.0)  # [draw, cell]
    excess = np.zeros_like(objective)
    for bound in rule.bounds:
        value = drawn[bound.quantity]
        beyond = value - bound.limit if bound.relation == "<=" else bound.limit - value
        beyond /= 1.0 if bound.quantity.metric.unit == "share" else abs(bound.limit) or 1.0
        # A bound on what these items could not show (no answerable one among them) is open yet.
        excess = np.maximum(excess, np.where(beyond > TOLERANCE, beyond, 0.0))
    fitting = np.where(excess > 0, -np.inf, np.nan_to_num(objective, nan=-np.inf))
    best = fitting.max(axis=1, keepdims=True)
    best = np.where(np.isfinite(best), best, np.nan_to_num(objective, nan=-np.inf).max(axis=1, keepdims=True))
    loss = np.maximum(best - objective, 0.0) + PENALTY * excess
    means = np.nan_to_num(loss, nan=np.inf).mean(axis=0)
    return {name: float(mean) for name, mean in zip(cells, means, strict=True)}


def survivors(losses: Mapping[str, float], keep: int, doses: Mapping[str, float] | None = None) -> list[str]:
    """Return the `keep` cells that lose least, in their order; of equals those of the smaller dose."""
    doses = doses or {}
    ranked = sorted(losses, key=lambda name: (round(losses[name], 9), doses.get(name, math.inf)))
    kept = set(ranked[:keep])
    return [name for name in losses if name in kept]


def _sizes(candidates: int, finalists: int) -> list[int]:
    """How many cells each rung has, from this one to that of the finalists."""
    sizes = [candidates]
    while sizes[-1] > finalists:
        sizes.append(max(finalists, math.ceil(sizes[-1] / SHARE_KEPT)))
    return sizes


def _values(outcomes: Outcomes, quantity: Quantity, unsteered: int) -> Floats:
    """The quantity by cell and item, NaN where it was not measured."""
    values = outcomes.values[quantity.metric.name]
    return values if quantity.sign is None else quantity.sign * (values - values[unsteered])


def _drawn_means(values: Floats, groups: np.ndarray, weights: Floats) -> Floats:
    """Means over items in each draw, `[draw, cell]`, from values `[cell, item]`; NaN where there is none."""
    there = ~np.isnan(values)
    sums, counts = (
        np.stack([np.bincount(groups, row, weights.shape[1]) for row in rows])
        for rows in (np.where(there, values, 0.0), there.astype(np.float64))
    )
    return ratio(weights @ sums.T, weights @ counts.T)
