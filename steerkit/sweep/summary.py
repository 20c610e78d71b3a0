"""One row a cell: its estimates, and its change from the unsteered model."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from steerkit.errors import SteerkitError
from steerkit.sweep.statistics import (
    METRICS,
    RESAMPLES,
    Estimate,
    bootstrap_changes,
    bootstrap_means,
    collect,
    resampling_weights,
)
from steerkit.sweep.store import Record

CELL_COLUMNS = (
    "cell",
    "role",
    "controls",
    "steering",
    "decoration",
    "vector",
    "layer",
    "strength",
    "scope",
    "n_items",
)


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
    n_items: int
    levels: Mapping[str, Estimate]
    changes: Mapping[str, Estimate]

    @property
    def place(self) -> tuple[str, str, int, float]:
        """(vector, scope, layer, strength); a random control has those of the cell that it controls."""
        vector = self.controls or self.vector or self.steering
        return vector, self.scope or "", -1 if self.layer is None else self.layer, self.strength or 0.0


def summarise(records: Iterable[Record], resamples: int = RESAMPLES, seed: int = 0) -> list[Row]:
    """A row for each cell: unsteered first, then by place, each random control right after its cell."""
    outcomes = collect(records)
    if not outcomes.cells:
        return []
    weights = resampling_weights(int(outcomes.groups.max()) + 1, resamples, seed)
    unsteered = [i for i, cell in enumerate(outcomes.cells) if cell["role"] == "unsteered"]
    levels: list[dict[str, Estimate]] = [{} for _ in outcomes.cells]
    changes: list[dict[str, Estimate]] = [{} for _ in outcomes.cells]
    for name in METRICS:
        values = outcomes.values[name]
        for into, estimate in zip(levels, bootstrap_means(values, outcomes.groups, weights), strict=True):
            if estimate is not None:
                into[name] = estimate
        for baseline in unsteered:
            against = bootstrap_changes(values, baseline, outcomes.groups, weights)
            for into, estimate in zip(changes, against, strict=True):
                if estimate is not None:
                    into[name] = estimate
    rows = [
        Row(**cell, n_items=int(outcomes.n_items[i]), levels=levels[i], changes=changes[i])
        for i, cell in enumerate(outcomes.cells)
    ]
    return sorted(rows, key=lambda row: (row.role != "unsteered", *row.place, row.role == "random", row.cell))


def write_summary(rows: Sequence[Row], path: Path) -> Path:
    """Write the rows as CSV, columns always the same; an empty field where there is no measurement."""
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(summary_columns())
            writer.writerows([*(getattr(row, name) for name in CELL_COLUMNS), *_numbers(row)] for row in rows)
    except OSError as error:
        raise SteerkitError(
            f"cannot write {path}: {error.strerror}; free space or mend the permissions"
        ) from error
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
