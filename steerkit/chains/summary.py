"""Findings as estimates with intervals: the means over items, and their changes from the unsteered model.

The bootstrap is that of `steerkit.core.bootstrap`: groups of items are resampled, with the same draws for every
cell and metric, so that a change is taken within each resample.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steerkit.analysis.outcomes import CELL_FIELDS, cell_fields
from steerkit.analysis.summary import Row
from steerkit.core.bootstrap import (
    RESAMPLES,
    Estimate,
    bootstrap_changes,
    bootstrap_means,
    resampling_weights,
)
from steerkit.core.files import replacing
from steerkit.runs.directory import REMEDY, Record

SUMMARY_FILE = "faithfulness.csv"

# What each metric says, in the order of the table. Shares are of the chains that the test could be made on.
METRICS = {
    "with_chain": "completions with a whole chain",
    "steps": "steps in a chain",
    "as_given": "forced answer is the one given",
    "aoc": "early termination: area over the curve",
    "needed": "share of the chain needed for its answer",
    "without_chain_same": "same answer without the chain",
    "filler_same": "same answer from filler",
    "paraphrase_same": "same answer from a paraphrased half",
    "mistake_same": "same answer after a mistake",
    "answer_logprob": "reference answer, nats per token",
    "gain": "information gain, nats per token",
    "gain_along": "mean gain on the way, nats per token",
    "gain_published": "perplexity drop per step (as published)",
}


@dataclass(frozen=True)
class Measured:
    """One value: of a metric, in a cell, for a unit (an item or a pair of twins) of a group."""

    cell: str
    metric: str
    unit: str
    group: str
    value: float


def faithfulness_rows(lines: Iterable[Record], resamples: int = RESAMPLES, seed: int = 0) -> list[Row]:
    """A row a cell from the lines of `faithfulness.jsonl`, unsteered first; estimates by the names of METRICS."""
    fields: dict[str, Record] = {}
    measured: list[Measured] = []
    for line in lines:
        fields.setdefault(line["cell"], line)
        measured += [
            Measured(line["cell"], metric, line["item"], line["group"], float(value))
            for metric, value in line["scores"].items()
            if metric in METRICS and value is not None
        ]
    return rows_of(fields, measured, resamples, seed)


def rows_of(
    fields: Mapping[str, Record], measured: Sequence[Measured], resamples: int = RESAMPLES, seed: int = 0
) -> list[Row]:
    """Estimates by cell and metric: several values of one unit (its samples) are averaged first.

    `fields` gives for each cell id a record, or any mapping with a record's cell fields.
    """
    if not measured:
        return []
    cells = {cell: i for i, cell in enumerate(fields)}
    group_of = {value.unit: value.group for value in measured}
    units = {unit: i for i, unit in enumerate(sorted(group_of))}
    numbers = {group: i for i, group in enumerate(sorted(set(group_of.values())))}
    groups = np.array([numbers[group_of[unit]] for unit in units], np.int64)
    weights = resampling_weights(len(numbers), resamples, seed)
    sums: defaultdict[str, Any] = defaultdict(lambda: np.zeros((2, len(cells), len(units))))
    for value in measured:
        place = cells[value.cell], units[value.unit]
        sums[value.metric][0][place] += value.value
        sums[value.metric][1][place] += 1
    baseline = next((i for cell, i in cells.items() if fields[cell]["role"] == "unsteered"), None)
    levels: dict[str, list[Estimate | None]] = {}
    changes: dict[str, list[Estimate | None]] = {}
    for metric, (total, count) in sums.items():
        values = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
        levels[metric] = bootstrap_means(values, groups, weights)
        if baseline is not None:
            changes[metric] = bootstrap_changes(values, baseline, groups, weights)
    seen = {(value.cell, value.unit) for value in measured}
    rows = [
        Row(
            **cell_fields(fields[cell]),
            n_items=sum((cell, unit) in seen for unit in units),
            levels=_of_cell(levels, i),
            changes=_of_cell(changes, i),
        )
        for cell, i in cells.items()
    ]
    return sorted(rows, key=lambda row: (row.role != "unsteered", *row.place, row.role == "random", row.cell))


def write_faithfulness_summary(rows: Sequence[Row], folder: Path) -> Path:
    """Write `faithfulness.csv`, one line for each cell and metric that was measured."""
    path = folder / SUMMARY_FILE
    parts = ("", "_low", "_high", "_n")
    with (
        replacing(path, "the summary", REMEDY) as scratch,
        scratch.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(
            [*CELL_FIELDS, "metric", *(f"{what}{part}" for what in ("level", "change") for part in parts)]
        )
        for row in rows:
            for metric in METRICS:
                if metric in row.levels:
                    cell = [getattr(row, name) for name in CELL_FIELDS]
                    writer.writerow(
                        [*cell, metric, *_numbers(row.levels[metric]), *_numbers(row.changes.get(metric))]
                    )
    return path


def _of_cell(estimates: Mapping[str, list[Estimate | None]], number: int) -> dict[str, Estimate]:
    return {metric: found for metric, column in estimates.items() if (found := column[number]) is not None}


def _numbers(estimate: Estimate | None) -> list[float | int | str]:
    if estimate is None:
        return ["", "", "", ""]
    return [round(estimate.value, 6), round(estimate.low, 6), round(estimate.high, 6), estimate.n]
