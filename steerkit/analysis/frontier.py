"""Which cells are worth having: the Pareto frontier of two metrics, of a run or of each of its actuators.

By point estimates: where the frontier lies is optimistic, as the best of many always is.
"""

from __future__ import annotations

from collections.abc import Sequence

from steerkit.analysis.summary import Row
from steerkit.core.errors import MisuseError
from steerkit.scoring.metrics import Metric, metrics


def pareto_frontier(rows: Sequence[Row], first: str, second: str) -> list[Row]:
    """Return the cells that no other one matches in both metrics and beats in one, the best in `first` leading.

    The unsteered model competes, random controls do not. Raises MisuseError for an unknown metric.
    """
    known = metrics()
    for name in (first, second):
        if name not in known:
            raise MisuseError(f"no metric {name!r}; there are {', '.join(known)}")
    competing = [row for row in rows if row.role != "random" and {first, second} <= row.levels.keys()]
    places = {row.cell: tuple(_goodness(row, known[name]) for name in (first, second)) for row in competing}
    frontier: list[Row] = []
    for row in sorted(competing, key=lambda row: places[row.cell], reverse=True):
        best = places[frontier[-1].cell] if frontier else None
        if best is None or places[row.cell] == best or places[row.cell][1] > best[1]:
            frontier.append(row)
    return frontier


def actuator_frontiers(rows: Sequence[Row], first: str, second: str) -> dict[str, list[Row]]:
    """Return the Pareto frontier of each actuator's own cells and the unsteered model, by the actuator's name.

    Every actuator has the unsteered model as its strength 0. In alphabetical order; random controls are none.
    Raises MisuseError for an unknown metric.
    """
    unsteered = [row for row in rows if row.role == "unsteered"]
    acting = by_actuator(rows)
    return {name: pareto_frontier([*unsteered, *cells], first, second) for name, cells in acting.items()}


def by_actuator(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each actuator, in their order, by its name in alphabetical order."""
    acting: dict[str, list[Row]] = {}
    for row in actuated(rows):
        acting.setdefault(actuator(row), []).append(row)
    return dict(sorted(acting.items()))


def actuated(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that are neither the unsteered model nor a random control."""
    return [row for row in rows if row.role not in ("unsteered", "random")]


def actuator(row: Row) -> str:
    """Return what moves the model in a cell and what gates it, whatever layer, strength, amounts and thresholds.

    The cells of one actuator share this name.
    """
    gates = dict.fromkeys(gate.name for gate in row.at.gates)
    return row.at.mover + (f", gated by {' and '.join(gates)}" if gates else "")


def _goodness(row: Row, metric: Metric) -> float:
    """The metric with the sign that makes more better."""
    value = row.levels[metric.name].value
    return value if metric.better == "higher" else -value
