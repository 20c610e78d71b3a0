"""Which cells are worth having: the Pareto frontier of two metrics, of a run or of each of its actuators.

By point estimates: where the frontier lies is optimistic, as the best of many always is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from steerkit.analysis.outcomes import METRICS
from steerkit.analysis.summary import Row
from steerkit.core.errors import MisuseError

COMPOSITION = "composition"
# In a spec string; behind a probe's name may stand /LAYER.
_GATE = re.compile(r"[@,]gate=([^,/;]+)[^,;]*(?:,threshold=([^,;]+))?")


def pareto_frontier(rows: Sequence[Row], first: str, second: str) -> list[Row]:
    """The cells that no other one matches in both metrics and beats in one, the best in `first` leading.

    The unsteered model competes, random controls do not. Raises MisuseError for an unknown metric.
    """
    for name in (first, second):
        if name not in METRICS:
            raise MisuseError(f"no metric {name!r}; there are {', '.join(METRICS)}")
    competing = [row for row in rows if row.role != "random" and {first, second} <= row.levels.keys()]
    places = {row.cell: (_goodness(row, first), _goodness(row, second)) for row in competing}
    frontier: list[Row] = []
    for row in sorted(competing, key=lambda row: places[row.cell], reverse=True):
        best = places[frontier[-1].cell] if frontier else None
        if best is None or places[row.cell] == best or places[row.cell][1] > best[1]:
            frontier.append(row)
    return frontier


def actuator_frontiers(rows: Sequence[Row], first: str, second: str) -> dict[str, list[Row]]:
    """The Pareto frontier of each actuator's own cells and the unsteered model, by the actuator's name.

    Every actuator has the unsteered model as its strength 0. In alphabetical order; random controls are none.
    Raises MisuseError for an unknown metric.
    """
    unsteered = [row for row in rows if row.role == "unsteered"]
    return {
        name: pareto_frontier([*unsteered, *cells], first, second)
        for name, cells in by_actuator(rows).items()
    }


def by_actuator(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each actuator, in their order, by its name in alphabetical order."""
    acting = actuated(rows)
    return {
        name: [row for row in acting if actuator(row) == name] for name in sorted(set(map(actuator, acting)))
    }


def actuated(rows: Sequence[Row]) -> list[Row]:
    """The rows that are neither the unsteered model nor a random control."""
    return [row for row in rows if row.role not in ("unsteered", "random")]


def actuator(row: Row) -> str:
    """What moves the model in a cell, whatever its layer and strength: the cells of one actuator share this.

    The vector's name with the operation unless that is `add`, its half-life and its positions if it has any; the
    decoration's name (without the amount behind its `@`); or both; and what gates them.
    """
    gates = dict.fromkeys(name.strip() for name, _ in gates_of(row))
    return mover(row) + (f", gated by {' and '.join(gates)}" if gates else "")


def mover(row: Row) -> str:
    """The actuator without what gates it."""
    parts = []
    if row.vector is not None:
        manner = [
            *([row.operation] if row.operation and row.operation != "add" else []),
            *([f"half-life {row.half_life:g}"] if row.half_life is not None else []),
            *([row.positions] if row.positions and row.positions != "every" else []),
        ]
        parts.append(f"{row.vector} ({', '.join(manner)})" if manner else row.vector)
    elif row.steering:
        parts.append(COMPOSITION)
    if row.decoration is not None:
        parts.append(row.decoration.partition("@")[0])
    return " + ".join(parts)


def gates_of(row: Row) -> list[tuple[str, str]]:
    """(name, threshold) of each gate in the cell's specs, in their order; a threshold is as it stands there."""
    return _GATE.findall(f"{row.steering};{row.decoration or ''}")


def without_gates(spec: str) -> str:
    """The spec string without the fields that gate it."""
    return _GATE.sub(lambda found: found[0][0], spec).replace("@,", "@").rstrip("@,")


def _goodness(row: Row, metric: str) -> float:
    """The metric with the sign that makes more better."""
    value = row.levels[metric].value
    return value if METRICS[metric].better == "higher" else -value
