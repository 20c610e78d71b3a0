"""Which cells are worth having: the Pareto frontier of two metrics, and the best cell under bounds.

Both judge by point estimates. A cell that is chosen here looks better than it is, because it is the best of
many: choose on the split `choose`, then measure it once on `report`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from steerkit.errors import MisuseError
from steerkit.sweeps.statistics import METRICS
from steerkit.sweeps.summary import Row

CHANGE_SIGNS = {"_increase": 1.0, "_decrease": -1.0}


def pareto_frontier(rows: Sequence[Row], first: str, second: str) -> list[Row]:
    """The cells that no other one matches in both metrics and beats in one, the best in `first` leading.

    The unsteered model competes, random controls do not. Raises MisuseError for an unknown metric.
    """
    _check_metric(first)
    _check_metric(second)
    competing = [row for row in rows if row.role != "random" and {first, second} <= row.levels.keys()]
    places = {row.cell: (_goodness(row, first), _goodness(row, second)) for row in competing}
    frontier: list[Row] = []
    for row in sorted(competing, key=lambda row: places[row.cell], reverse=True):
        best = places[frontier[-1].cell] if frontier else None
        if best is None or places[row.cell] == best or places[row.cell][1] > best[1]:
            frontier.append(row)
    return frontier


def choose_cell(rows: Sequence[Row], objective: str, bounds: Mapping[str, float] | None = None) -> Row | None:
    """The steered cell that is best in the metric `objective` within the bounds; None where none is.

    Each bound is the most that is allowed: of a metric (`{"truncated": 0.1}`) or of its change from the
    unsteered model (`{"over_abstention_increase": 0.2, "accuracy_decrease": 0.05}`). A cell without the
    measurement fails its bound. Raises MisuseError for an unknown metric.
    """
    _check_metric(objective)
    fit = [
        row
        for row in rows
        if row.role == "steered"
        and objective in row.levels
        and all(_bounded(row, name) <= limit for name, limit in (bounds or {}).items())
    ]
    return max(fit, key=lambda row: _goodness(row, objective), default=None)


def _goodness(row: Row, metric: str) -> float:
    """The metric with the sign that makes more better."""
    value = row.levels[metric].value
    return value if METRICS[metric].better == "higher" else -value


def _bounded(row: Row, name: str) -> float:
    """The quantity that a bound of this name limits; infinite where it was not measured."""
    for suffix, sign in CHANGE_SIGNS.items():
        if name.endswith(suffix):
            metric = name.removesuffix(suffix)
            _check_metric(metric)
            return sign * row.changes[metric].value if metric in row.changes else float("inf")
    _check_metric(name)
    return row.levels[name].value if name in row.levels else float("inf")


def _check_metric(name: str) -> None:
    if name not in METRICS:
        raise MisuseError(
            f"no metric {name!r}; there are {', '.join(METRICS)}, and bounds on their _increase or _decrease"
        )
