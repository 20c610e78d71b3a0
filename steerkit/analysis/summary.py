"""One row a cell: its estimates, and its change from the unsteered model."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from steerkit.analysis.outcomes import Outcomes, collect
from steerkit.core.bootstrap import (
    RESAMPLES,
    Estimate,
    bootstrap_changes,
    bootstrap_means,
    resampling_weights,
)
from steerkit.core.errors import InputError
from steerkit.core.files import replacing
from steerkit.runs.cells import Role, RunCell
from steerkit.runs.directory import REMEDY
from steerkit.runs.record import Record

PARTS = ("", "_low", "_high", "_n", "_change", "_change_low", "_change_high", "_change_n")


@dataclass(frozen=True)
class Row:
    """A cell (`at`) with estimates by metric name.

    `n_items` counts the items that the cell has records of. `levels` holds the metrics that were measured,
    `changes` their difference to the unsteered cell on the items that both have; empty without such a cell.
    """

    at: RunCell
    n_items: int
    levels: Mapping[str, Estimate]
    changes: Mapping[str, Estimate]

    @property
    def cell(self) -> str:
        """The cell's id."""
        return self.at.id

    @property
    def role(self) -> Role:
        """What the cell is in the experiment."""
        return self.at.role

    def only(self, metrics: Collection[str]) -> Row:
        """Return the row with the estimates of these metrics alone."""
        levels, changes = (
            {name: estimate for name, estimate in estimates.items() if name in metrics}
            for estimates in (self.levels, self.changes)
        )
        return replace(self, levels=levels, changes=changes)

    def to_json(self) -> dict[str, Any]:
        """Return the cell's fields, then the estimates, as one object for machines."""
        estimates = {
            name: {metric: asdict(estimate) for metric, estimate in getattr(self, name).items()}
            for name in ("levels", "changes")
        }
        return {**self.at.to_json(), "n_items": self.n_items, **estimates}

    def __repr__(self) -> str:
        levels = ", ".join(f"{name} {estimate.value:.3g}" for name, estimate in self.levels.items())
        return f"Row({self.at.spec or self.role}: {levels})"


def summarise(
    measured: Outcomes | Iterable[Record],
    cells: Mapping[str, RunCell],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Row]:
    """Return a row for each cell that has records: unsteered first, then by place, random controls behind their cells.

    `measured` are records, or what `collect` made of them, and `cells` those of their run. Raises InputError for a
    record whose cell is not among them.
    """
    outcomes = measured if isinstance(measured, Outcomes) else collect(measured)
    if unknown := [name for name in outcomes.cells if name not in cells]:
        raise InputError(f"there are records of cell {unknown[0]!r}, which the run does not say what it is")
    if not outcomes.cells:
        return []
    at = [cells[name] for name in outcomes.cells]
    weights = resampling_weights(int(outcomes.groups.max()) + 1, resamples, seed)
    unsteered = [number for number, cell in enumerate(at) if cell.role == "unsteered"]  # one, or none
    levels: dict[str, list[Estimate | None]] = {}
    changes: dict[str, list[Estimate | None]] = {}
    for name, values in outcomes.values.items():
        levels[name] = bootstrap_means(values, outcomes.groups, weights)
        for baseline in unsteered:
            changes[name] = bootstrap_changes(values, baseline, outcomes.groups, weights)
    rows = [
        Row(cell, int(n_items), _measured(levels, i), _measured(changes, i))
        for i, (cell, n_items) in enumerate(zip(at, outcomes.n_items, strict=True))
    ]
    return sorted(
        rows, key=lambda row: (row.role != "unsteered", row.at.place, row.role == "random", row.cell)
    )


def _measured(estimates: Mapping[str, list[Estimate | None]], number: int) -> dict[str, Estimate]:
    """The estimates of one cell by metric, those that are there."""
    return {name: found for name, column in estimates.items() if (found := column[number]) is not None}


def measured_metrics(rows: Sequence[Row]) -> list[str]:
    """Return the metrics that some row has a level of, in the order of the run's scorers."""
    return list(dict.fromkeys(name for row in rows for name in row.levels))


def write_summary(rows: Sequence[Row], path: Path) -> Path:
    """Write the rows as CSV and return the path: the cell, then level and change of each metric that was measured.

    A field is empty where there is no measurement. Raises SteerkitError where the file cannot be written.
    """
    names = measured_metrics(rows)
    with (
        replacing(path, "the summary", REMEDY) as scratch,
        scratch.open("w", newline="", encoding="utf-8") as file,
    ):
        cell = RunCell("").to_json()
        writer = csv.DictWriter(file, [*cell, "n_items", *(name + part for name in names for part in PARTS)])
        writer.writeheader()
        writer.writerows(flat_rows(rows))
    return path


def flat_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a flat object a row: the cell, then level and change of each metric, None where there is none."""
    names = measured_metrics(rows)
    flat = []
    for row in rows:
        form = {**row.at.to_json(), "n_items": row.n_items}
        for name in names:
            numbers = (*_numbers(row.levels.get(name)), *_numbers(row.changes.get(name)))
            form |= {name + part: number for part, number in zip(PARTS, numbers, strict=True)}
        flat.append(form)
    return flat


def _numbers(estimate: Estimate | None) -> tuple[float | None, ...]:
    if estimate is None:
        return None, None, None, None
    return round(estimate.value, 6), round(estimate.low, 6), round(estimate.high, 6), estimate.n


def flat_record(record: Record, cell: RunCell) -> dict[str, Any]:
    """Return a record as a flat object: what its cell is, the record's own fields, and its scores by name.

    A score that is called like a field is under `score_NAME`.
    """
    place = {name: getattr(cell, name) for name in ("role", "name", "layer", "strength", "scope")}
    form = {"cell": record.cell, **place, **asdict(record)}
    scores = form.pop("scores")
    return form | {f"score_{name}" if name in form else name: score for name, score in scores.items()}
