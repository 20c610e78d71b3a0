"""What several cells reach together, and at what price: convex hulls of a gain over a cost.

A model may run under one cell for some questions and under another for the rest, drawn at random; so what a family of
cells reaches is not its points but the hull of them and of the unsteered model. Of a gain and a cost that are both
shares, such as abstention recall and over-abstention:

- the *area* below the hull as the cost goes from 0 to 1, with "never" (0, 0) and "always" (1, 1) added: 0.5 for a
  behaviour at random, 1 for one that is always in place;
- the *gain* that the hull has at a cost of so much more than the unsteered model's;
- the *relative price* of a cell beside a hull: its rise in cost over the hull's at the same gain.

Intervals are 95% percentile intervals of a bootstrap over groups of items, in which the hulls are built anew. A hull is
the best of its cells in hindsight, so it favours a family that has more of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steerkit.analysis.outcomes import Outcomes
from steerkit.core.bootstrap import Estimate, Floats, interval, ratio, resampling_weights
from steerkit.core.errors import MisuseError

RESAMPLES = 1000
GAIN, COST = "abstention_recall", "over_abstention"
ALLOWED = (0.05, 0.15)

Point = tuple[float, float]  # gain, cost


@dataclass(frozen=True)
class Reach:
    """What a family of `cells` reaches: the area below its hull, and the gain by how much more cost is allowed."""

    cells: int
    area: Estimate
    gain: Mapping[float, Estimate]


@dataclass(frozen=True)
class RelativePrices:
    """Rises in cost over those of a hull at the same gain: each cell's, and their median.

    Cells whose gain the hull does not reach, or has for no rise at all, are left out.
    """

    cells: Mapping[str, float]
    median: Estimate


def reach(
    outcomes: Outcomes,
    unsteered: str,
    families: Mapping[str, Sequence[str]],
    *,
    gain: str = GAIN,
    cost: str = COST,
    allowed: Sequence[float] = ALLOWED,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Reach]:
    """Return what each family of cells (ids) reaches together with the `unsteered` one, which has a line of its own.

    `families` are by label; the unsteered cell's label is the empty string. Raises MisuseError for a cell without both.
    """
    draws = _draws(outcomes, resamples, seed)
    found: dict[str, Reach] = {}
    for label, cells in {"": (), **families}.items():
        hulls = [
            lower_hull([(0.0, 0.0), *points, (1.0, 1.0)])
            for points in _points(outcomes, [unsteered, *cells], draws, gain, cost)
        ]
        plain = [points[0][1] for points in _points(outcomes, [unsteered], draws, gain, cost)]
        gains = {
            more: _estimate(
                [gain_on(hull, at + more) for hull, at in zip(hulls, plain, strict=True)], outcomes
            )
            for more in allowed
        }
        found[label] = Reach(len(cells), _estimate([area_below(hull) for hull in hulls], outcomes), gains)
    return found


def relative_prices(
    outcomes: Outcomes,
    unsteered: str,
    cells: Sequence[str],
    beside: Sequence[str],
    *,
    gain: str = GAIN,
    cost: str = COST,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> RelativePrices | None:
    """Return the relative prices of `cells` beside the hull of the cells `beside` and the `unsteered` one.

    None where no cell has any. Raises MisuseError for a cell without both metrics.
    """
    draws = _draws(outcomes, resamples, seed)
    each = [
        _prices(points, len(cells))
        for points in _points(outcomes, [unsteered, *cells, *beside], draws, gain, cost)
    ]
    own = {cell: value for cell, value in zip(cells, each[0], strict=True) if not np.isnan(value)}
    if not own:
        return None
    kept = [place for place, value in enumerate(each[0]) if not np.isnan(value)]
    medians = [
        float(np.median(values[there])) if (there := ~np.isnan(values)).any() else float("nan")
        for values in (prices[kept] for prices in each)
    ]
    return RelativePrices(own, _estimate(medians, outcomes))


def lower_hull(points: Iterable[Point]) -> list[Point]:
    """Return the corners of the lower convex hull of (gain, cost), by gain."""
    hull: list[Point] = []
    for x, y in sorted(points):
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (x - hull[-2][0]) >= (y - hull[-2][1]) * (
            hull[-1][0] - hull[-2][0]
        ):
            hull.pop()
        if not hull or x > hull[-1][0]:
            hull.append((x, y))
    return hull


def cost_on(hull: Sequence[Point], gain: float) -> float | None:
    """Return the cost on a hull at this gain; None outside of it."""
    if not hull or not hull[0][0] <= gain <= hull[-1][0]:
        return None
    gains, costs = zip(*hull, strict=True)
    return float(np.interp(gain, gains, costs))


def gain_on(hull: Sequence[Point], cost: float) -> float:
    """Return the most gain that a hull from (0, 0) to (1, 1) has at this cost."""
    gains, costs = zip(*hull, strict=True)
    free = max(gain for gain, price in hull if price == 0)
    return max(free, float(np.interp(cost, costs, gains)))


def area_below(hull: Sequence[Point]) -> float:
    """Return the area below a hull from (0, 0) to (1, 1): of gain, as the cost goes from 0 to 1."""
    gains, costs = zip(*hull, strict=True)
    return 1.0 - float(np.trapezoid(costs, gains))


def _prices(points: Sequence[Point], n_cells: int) -> Floats:
    """The relative prices of the cells behind the unsteered one, `[n_cells]`, NaN where there is none."""
    plain, cells, beside = points[0], points[1 : 1 + n_cells], points[1 + n_cells :]
    hull = lower_hull([plain, *beside])
    prices = np.full(n_cells, np.nan)
    for place, (gain, cost) in enumerate(cells):
        there = cost_on(hull, gain)
        if there is not None and there > plain[1]:
            prices[place] = (cost - plain[1]) / (there - plain[1])
    return prices


def _draws(outcomes: Outcomes, resamples: int, seed: int) -> Floats:
    """How often each item counts, `[1 + resamples, n_items]`: first once each, then as its group is resampled."""
    n_groups = int(outcomes.groups.max()) + 1
    weights = np.concatenate([np.ones((1, n_groups)), resampling_weights(n_groups, resamples, seed)])
    return weights[:, outcomes.groups]


def _points(
    outcomes: Outcomes, cells: Sequence[str], draws: Floats, gain: str, cost: str
) -> list[list[Point]]:
    """For each draw, (gain, cost) of each cell; draws without an item of either are left out."""
    number = {cell: place for place, cell in enumerate(outcomes.cells)}
    if missing := [cell for cell in cells if cell not in number]:
        raise MisuseError(f"cell {missing[0]!r} has no records")
    rates = []
    for metric in (gain, cost):
        values = outcomes.values[metric][[number[cell] for cell in cells]]
        there = ~np.isnan(values)
        rates.append(ratio(draws @ np.where(there, values, 0.0).T, draws @ there.T.astype(np.float64)))
    if np.isnan(rates[0][0] + rates[1][0]).any():
        raise MisuseError(f"a hull needs {gain} and {cost} of each of its cells")
    return [
        list(zip(*(each.tolist() for each in pair), strict=True))
        for pair in zip(*rates, strict=True)
        if not np.isnan(pair[0] + pair[1]).any()
    ]


def _estimate(drawn: Sequence[float], outcomes: Outcomes) -> Estimate:
    """The first value with the 95% interval of the others."""
    return Estimate(drawn[0], *interval(np.array(drawn[1:])), len(outcomes.items))
