"""How far each actuator gets with all its cells together: two areas, from the records alone.

A model may be run under one cell for some questions and under another for the rest, so what an actuator can reach
is a convex hull of its cells and of the unsteered model.

1. *Frontier area*: below the hull of (over-abstention, recall), with never abstaining (0, 0) and always abstaining
   (1, 1) added. Abstaining at random has 0.5, abstaining from exactly the right questions 1.
2. *AURC*: the mean risk over the coverages from 0 to the unsteered model's, along the hull of (coverage, errors)
   with (0, 0) added. Coverage is the share of questions that are answered, risk the share of errors among those,
   and an answer to a question that should be abstained from is an error; see `steerkit.analysis.risk_coverage`.
   Refusing at random keeps the unsteered model's risk throughout.

Intervals: bootstrap over twin groups, hulls included. A hull is the best of its cells in hindsight, so it favours
an actuator that has more of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.abstention_tradeoff.cells import actuator
from experiments.abstention_tradeoff.limits import PLAIN, by_cell, lower_hull
from experiments.abstention_tradeoff.tables import table
from steerkit.analysis.outcomes import collect
from steerkit.analysis.risk_coverage import RiskCoverageCurve, risk_coverage
from steerkit.core.bootstrap import resampling_weights
from steerkit.runs.cells import Cell, RunCell
from steerkit.runs.record import Record

RESAMPLES = 1000
ALLOWED = (0.05, 0.15)
HEADINGS = (
    "actuator",
    "cells",
    "frontier area",
    *(f"recall at +{allowed:.2f} over-abstention" for allowed in ALLOWED),
    "AURC",
    "AURC below unsteered risk",
)

Floats = NDArray[np.float64]
Point = tuple[float, float]


def frontiers(records: Iterable[Record], cells: Sequence[Cell]) -> str:
    """One line for each actuator, ungated and gated, and for the probe with an actuator that always abstains.

    Cells that have not been measured on every item are left out.
    """
    asked = {cell.id: cell for cell in (Cell(), *cells)}
    found = by_cell(records)
    items = found[PLAIN].keys()
    table_of = {name: rows for name, rows in found.items() if name in asked and rows.keys() == items}
    behaviour = Behaviour.of(table_of)
    draws = behaviour.draws()
    rates = behaviour.rates(draws)
    own: dict[str, list[str]] = {}
    for name in table_of:
        if name != PLAIN:
            vector, gated = actuator(asked[name])
            own.setdefault(f"{vector}, {'gated' if gated else 'ungated'}", []).append(name)
    lines = [line("unsteered, else at random", rates.only([PLAIN]), 0)]
    lines += [line(label, rates.only([PLAIN, *names]), len(names)) for label, names in sorted(own.items())]
    gated = next((name for name, rows in table_of.items() if next(iter(rows.values())).gates), None)
    if gated is None:
        return table(HEADINGS, lines)
    perfect = behaviour.refusing(PLAIN, table_of[gated])
    lines.append(
        line("the probe, perfect actuator, any threshold", perfect.rates(draws), len(perfect.names) - 1)
    )
    both = {name: asked[name] for name in (PLAIN, gated)}
    curve = read_curve((row for name in both for row in table_of[name].values()), both)
    return "\n\n".join([table(HEADINGS, lines), described(curve)] if curve else [table(HEADINGS, lines)])


@dataclass(frozen=True)
class Behaviour:
    """What each cell did with each item.

    `abstained` and `wrong` `[cell, item]`, `group`, `should` and `judged` `[item]`: whether it should be abstained
    from, and whether there is a saying that an answer is right.
    """

    names: tuple[str, ...]
    items: tuple[str, ...]
    abstained: NDArray[np.bool_]
    wrong: NDArray[np.bool_]
    group: NDArray[np.int64]
    should: NDArray[np.bool_]
    judged: NDArray[np.bool_]

    @classmethod
    def of(cls, cells: Mapping[str, Mapping[str, Record]]) -> Behaviour:
        """Of the items that every cell has a record of."""
        items = tuple(sorted(set.intersection(*(set(rows) for rows in cells.values()))))
        first = next(iter(cells.values()))
        numbers = {name: i for i, name in enumerate(sorted({first[i].group for i in items}))}
        should = np.array([bool(first[i].should_abstain) for i in items])
        abstained = np.array([[rows[i].scores["abstained"] for i in items] for rows in cells.values()], bool)
        correct = np.array([[bool(rows[i].scores["correct"]) for i in items] for rows in cells.values()])
        return cls(
            names=tuple(cells),
            items=items,
            abstained=abstained,
            wrong=~abstained & (should | ~correct),
            group=np.array([numbers[first[i].group] for i in items]),
            should=should,
            judged=should | np.array([first[i].answers is not None for i in items]),
        )

    def draws(self, resamples: int = RESAMPLES) -> Floats:
        """How often each twin group counts, `[draw, group]`: first once each, then as resampled.

        A resample without a question to abstain from, or without another, is left out.
        """
        n_groups = int(self.group.max()) + 1
        weights = np.concatenate([np.ones((1, n_groups)), resampling_weights(n_groups, resamples)])
        each = weights[:, self.group]
        return weights[(each @ self.should > 0) & (each @ ~self.should > 0)]

    def rates(self, weights: Floats) -> Rates:
        """The rates of every cell with each group counted as often as `weights` `[draw, group]` says."""
        each = weights[:, self.group]

        def share(what: NDArray[np.bool_], among: NDArray[np.bool_]) -> Floats:
            return (each * among) @ what.T / (each @ among)[:, None]

        return Rates(
            self.names,
            recall=share(self.abstained, self.should),
            over=share(self.abstained, ~self.should),
            coverage=share(~self.abstained, self.judged),
            errors=share(self.wrong, self.judged),
        )

    def refusing(self, plain: str, gated: Mapping[str, Record]) -> Behaviour:
        """The cell `plain` with an abstention wherever the gate read so much, for every threshold that it read."""
        number = self.names.index(plain)
        read = np.array([gated[item].gates[0].probability for item in self.items])
        thresholds = np.unique(read)
        fires = np.vstack([np.zeros_like(self.should), read >= thresholds[:, None]])
        return Behaviour(
            names=(plain, *map(str, thresholds)),
            items=self.items,
            abstained=self.abstained[number] | fires,
            wrong=self.wrong[number] & ~fires,
            group=self.group,
            should=self.should,
            judged=self.judged,
        )


@dataclass(frozen=True)
class Rates:
    """Recall, over-abstention, coverage and errors, `[draw, cell]`; the first draw is the items as they are."""

    names: tuple[str, ...]
    recall: Floats
    over: Floats
    coverage: Floats
    errors: Floats

    def only(self, names: Sequence[str]) -> Rates:
        """Those cells, in that order."""
        at = [self.names.index(name) for name in names]
        return Rates(
            tuple(names), self.recall[:, at], self.over[:, at], self.coverage[:, at], self.errors[:, at]
        )


def line(label: str, rates: Rates, n_cells: int) -> str:
    """An actuator's line; the unsteered model leads its rates."""
    places, answers = pairs(rates.recall, rates.over), pairs(rates.coverage, rates.errors)
    areas = [frontier_area(points) for points in places]
    recalls = [[recall_at(points, points[0][1] + allowed) for points in places] for allowed in ALLOWED]
    risks = [aurc(points, points[0][0]) for points in answers]
    gains = [points[0][1] / points[0][0] - risk for points, risk in zip(answers, risks, strict=True)]
    values = [estimated(column) for column in (areas, *recalls, risks)]
    return f"| {label} | {n_cells} | {' | '.join(values)} | {estimated(gains, '+.3f')} |"


def pairs(first: Floats, second: Floats) -> list[list[Point]]:
    """For each draw, the points of all cells."""
    return [list(zip(x, y, strict=True)) for x, y in zip(first.tolist(), second.tolist(), strict=True)]


def frontier_area(points: Iterable[Point]) -> float:
    """The area below the hull of (recall, over-abstention) points, as over-abstention goes from 0 to 1."""
    recall, over = zip(*lower_hull([(0.0, 0.0), *points, (1.0, 1.0)]), strict=True)
    return 1.0 - float(np.trapezoid(over, recall))


def recall_at(points: Iterable[Point], over: float) -> float:
    """The most recall that the hull of (recall, over-abstention) points has at this over-abstention."""
    recalls, overs = zip(*lower_hull([(0.0, 0.0), *points, (1.0, 1.0)]), strict=True)
    free = max(recall for recall, price in zip(recalls, overs, strict=True) if price == 0)
    return max(free, float(np.interp(over, overs, recalls)))


def aurc(points: Iterable[Point], most: float) -> float:
    """The mean of errors / coverage over coverages up to `most`, along the hull of (coverage, errors) points."""
    area = 0.0
    for (left, errors), (right, more_errors) in itertools.pairwise(lower_hull([(0.0, 0.0), *points])):
        if left >= most:
            break
        end = min(right, most)
        slope = (more_errors - errors) / (right - left)
        area += slope * (end - left)
        if left > 0:
            area += (errors - slope * left) * math.log(end / left)
    return area / most


def read_curve(records: Iterable[Record], cells: Mapping[str, Cell]) -> RiskCoverageCurve | None:
    """The risk–coverage curve of what the gate read, over the unsteered model's answers."""
    found = risk_coverage(collect(records), {name: RunCell.of(cell) for name, cell in cells.items()})
    return found.curves[0] if found and found.curves else None


def described(curve: RiskCoverageCurve) -> str:
    """The probe's curve, threshold by threshold, without a hull: `steerkit.analysis.risk_coverage`."""
    area, random_order, oracle, gain = (
        f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]"
        for e in (curve.area, curve.random_order, curve.oracle, curve.gain)
    )
    return (
        f"The probe's own curve (refuse from a threshold on, no hull): AURC {area}; in random order {random_order}, by "
        f"an oracle {oracle}, gain over random order {gain}."
    )


def estimated(draws: Sequence[float], form: str = ".3f") -> str:
    """The first value, with the 95% interval of the others."""
    low, high = np.quantile(draws[1:], [0.025, 0.975])
    return f"{draws[0]:{form}} [{low:{form}}, {high:{form}}]"
