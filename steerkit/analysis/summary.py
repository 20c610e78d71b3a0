"""One row a cell: its estimates, and its change from the unsteered model."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from steerkit.analysis.outcomes import CELL_FIELDS, METRICS, collect
from steerkit.core.bootstrap import (
    RESAMPLES,
    Estimate,
    bootstrap_changes,
    bootstrap_means,
    resampling_weights,
)
from steerkit.core.files import replacing
from steerkit.interventions.steering import POSITIONS
from steerkit.runs.directory import REMEDY, Record

CELL_COLUMNS = (*CELL_FIELDS, "n_items")


@dataclass(frozen=True)
class Row:
    """A cell's fields as in its records, with estimates by metric name.

    `n_items` counts the items that the cell has records of. `levels` holds the metrics that were measured,
    `changes` their difference to the unsteered cell on the items that both have; empty without such a cell.
    """

    cell: str
    role: str
    controls: str | None
    steering: str
    decoration: str | None
    vector: str | None
    layer: int | None
    strength: float | None
    scope: str | None
    operation: str | None
    n_items: int
    levels: Mapping[str, Estimate]
    changes: Mapping[str, Estimate]
    half_life: float | None = None
    positions: str | None = None

    @property
    def place(self) -> tuple[str, str, str, int, float, int, float]:
        """(vector, operation, scope, positions, half-life, layer, strength); a random control has those of its cell.

        So of cells that differ only in when they act, the one that pushes less comes first: at boundaries before
        line ends before everywhere, and fading fast before slowly or not at all.
        """
        vector = self.controls or self.vector or self.steering
        half_life = math.inf if self.half_life is None else self.half_life
        layer = -1 if self.layer is None else self.layer
        when = POSITIONS.index(self.positions) if self.positions else -1, half_life
        return vector, self.operation or "", self.scope or "", *when, layer, self.strength or 0.0


def summarise(records: Iterable[Record], resamples: int = RESAMPLES, seed: int = 0) -> list[Row]:
    """A row for each cell: unsteered first, then by place, each random control right after its cell."""
    outcomes = collect(records)
    if not outcomes.cells:
        return []
    weights = resampling_weights(int(outcomes.groups.max()) + 1, resamples, seed)
    unsteered = [number for number, cell in enumerate(outcomes.cells) if cell["role"] == "unsteered"]
    levels: dict[str, list[Estimate | None]] = {}
    changes: dict[str, list[Estimate | None]] = {}
    for name, values in outcomes.values.items():
        levels[name] = bootstrap_means(values, outcomes.groups, weights)
        for baseline in unsteered:  # one, or none
            changes[name] = bootstrap_changes(values, baseline, outcomes.groups, weights)
    rows = [
        Row(**cell, n_items=int(n_items), levels=_measured(levels, i), changes=_measured(changes, i))
        for i, (cell, n_items) in enumerate(zip(outcomes.cells, outcomes.n_items, strict=True))
    ]
    return sorted(rows, key=lambda row: (row.role != "unsteered", *row.place, row.role == "random", row.cell))


def _measured(estimates: Mapping[str, list[Estimate | None]], number: int) -> dict[str, Estimate]:
    """The estimates of one cell by metric, those that are there."""
    return {name: found for name, column in estimates.items() if (found := column[number]) is not None}


def write_summary(rows: Sequence[Row], path: Path) -> Path:
    """Write the rows as CSV, columns always the same; an empty field where there is no measurement."""
    with (
        replacing(path, "the summary", REMEDY) as scratch,
        scratch.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(summary_columns())
        writer.writerows([*(getattr(row, name) for name in CELL_COLUMNS), *_numbers(row)] for row in rows)
    return path


def summary_columns() -> list[str]:
    """The header: the cell, then for each metric its level and its change, with intervals and counts."""
    parts = ("", "_low", "_high", "_n", "_change", "_change_low", "_change_high", "_change_n")
    return [*CELL_COLUMNS, *(metric + part for metric in METRICS for part in parts)]


def _numbers(row: Row) -> list[float | int | str]:
    numbers: list[float | int | str] = []
    for name in METRICS:
        for estimate in (row.levels.get(name), row.changes.get(name)):
            numbers += (
                ["", "", "", ""]
                if estimate is None
                else [round(estimate.value, 6), round(estimate.low, 6), round(estimate.high, 6), estimate.n]
            )
    return numbers
