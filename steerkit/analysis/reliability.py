"""What a run's readers read, cell by cell: does a reading still tell what should be abstained from, once steered?

A reading's AUROC is the chance that it is higher on an item that should be abstained from than on one that should be
answered. Intervals and changes are of the paired bootstrap over groups of items, as everywhere (`core/bootstrap`), and
the samples of an item count as their mean.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from steerkit.core.bootstrap import (
    RESAMPLES,
    Estimate,
    Floats,
    Integers,
    bootstrap_changes,
    bootstrap_means,
    interval,
    ratio,
    resampling_weights,
)
from steerkit.core.errors import MisuseError
from steerkit.reading.reduction import Kept, Value, reduced
from steerkit.runs.cells import RunCell
from steerkit.runs.record import Record


@dataclass(frozen=True)
class ReadCell:
    """What one reader, by its place in the protocol, read in a cell (`at`).

    `mean` is over all items. `auroc` and the means over items that should be abstained from (`positive`) and answered
    (`negative`) are None where the suite has not both. The changes are from the unsteered cell on the items that both
    have, None without one.
    """

    at: RunCell
    reader: int
    mean: Estimate
    positive: Estimate | None
    negative: Estimate | None
    auroc: Estimate | None
    mean_change: Estimate | None
    auroc_change: Estimate | None

    def to_json(self) -> dict[str, Any]:
        """Return the cell's fields, then the estimates, as one object for machines."""
        numbers = asdict(self)
        del numbers["at"]
        return {**self.at.to_json(), **numbers}


def readings_by_item(
    records: Iterable[Record], reader: int, reduction: str | None
) -> dict[str, dict[str, list[tuple[int, Value]]]]:
    """Return, by cell and item, (sample, value) of one reader, per-token readings as their `reduction`.

    Raises MisuseError for records that hold a token's readings where no reduction is named.
    """
    found: defaultdict[str, defaultdict[str, list[tuple[int, Value]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for record in records:
        if reader < len(record.readings):
            value = _number(record.readings[reader], reduction)
            found[record.cell][record.item].append((record.sample, value))
    return {cell: dict(items) for cell, items in found.items()}


def read_cells(
    records: Iterable[Record],
    cells: Mapping[str, RunCell],
    readers: int,
    reduction: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[ReadCell]:
    """Return what each of so many readers read in each cell, the unsteered one first, reader by reader.

    `cells` are those of the records' run. Where records hold a token's readings, `reduction` says which number of them
    counts. Raises MisuseError where it does not.
    """
    records = list(records)
    about = {record.item: (record.group, record.should_abstain) for record in records}
    items = sorted(about)
    if not items:
        return []
    numbers = {group: i for i, group in enumerate(sorted({group for group, _ in about.values()}))}
    groups = np.array([numbers[about[item][0]] for item in items], np.int64)
    positive = np.array([about[item][1] for item in items], np.float64)  # 1, 0, or NaN
    weights = resampling_weights(len(numbers), resamples, seed)
    found: list[ReadCell] = []
    for reader in range(readers):
        read = readings_by_item(records, reader, reduction)
        at = sorted((cells[name] for name in read), key=lambda cell: (cell.role != "unsteered", cell.place))
        values = np.array([[_mean(read[cell.id].get(item, [])) for item in items] for cell in at], np.float64)
        if len(values):
            found += _rows(at, reader, values, positive, groups, weights)
    return found


def weighted_auroc(scores: Floats, positive: Floats, weights: Floats) -> Floats:
    """Return the AUROC `[resamples]` of scores `[n]` whose items count `weights` `[resamples, n]` times.

    Ties count half. NaN where a resample lacks one of the two kinds.
    """
    order = np.argsort(scores, kind="stable")
    _, starts = np.unique(scores[order], return_index=True)
    above, below = (  # how often each distinct score is drawn, [resamples, distinct], by kind
        np.add.reduceat((weights * (positive == kind))[:, order], starts, axis=1) for kind in (1.0, 0.0)
    )
    before = np.cumsum(below, axis=1) - below
    return ratio((above * (before + below / 2)).sum(axis=1), above.sum(axis=1) * below.sum(axis=1))


def _rows(
    at: Sequence[RunCell], reader: int, values: Floats, positive: Floats, groups: Integers, weights: Floats
) -> list[ReadCell]:
    baseline = next((i for i, cell in enumerate(at) if cell.role == "unsteered"), None)
    none: list[Estimate | None] = [None] * len(at)
    means = bootstrap_means(values, groups, weights)
    by_kind = [
        bootstrap_means(np.where(positive == kind, values, np.nan), groups, weights) for kind in (1.0, 0.0)
    ]
    changes = none if baseline is None else bootstrap_changes(values, baseline, groups, weights)
    aurocs = [_auroc(row, None, positive, groups, weights) for row in values]
    auroc_changes = (
        none
        if baseline is None
        else [_auroc(row, values[baseline], positive, groups, weights) for row in values]
    )
    return [
        ReadCell(cell, reader, mean, by_kind[0][i], by_kind[1][i], aurocs[i], changes[i], auroc_changes[i])
        for i, cell in enumerate(at)
        if (mean := means[i]) is not None
    ]


def _auroc(
    values: Floats, baseline: Floats | None, positive: Floats, groups: Integers, weights: Floats
) -> Estimate | None:
    """The AUROC of a row of readings, or its change from that of a baseline on the items that both have."""
    there = ~np.isnan(values) & ~np.isnan(positive)
    if baseline is not None:
        there &= ~np.isnan(baseline)
    labels = positive[there]
    if not {0.0, 1.0} <= set(labels.tolist()):
        return None
    drawn = np.concatenate([np.ones((1, len(labels))), weights[:, groups[there]]])  # first all items, once
    found = weighted_auroc(values[there], labels, drawn)
    if baseline is not None:
        found = found - weighted_auroc(baseline[there], labels, drawn)
    return Estimate(float(found[0]), *interval(found[1:]), int(there.sum()))


def _number(kept: Kept, reduction: str | None) -> Value:
    if not isinstance(kept, tuple):
        return kept
    if reduction is None:
        raise MisuseError("this run kept every token's reading: say which number counts: mean, max or last")
    return reduced(kept, reduction)


def _mean(values: Sequence[tuple[int, Value]]) -> float:
    there = [value for _, value in values if value is not None]
    return sum(there) / len(there) if there else np.nan
