"""From records to arrays: what each metric is, per cell and item. An item's samples are averaged."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from steerkit.core.bootstrap import Floats, Integers, ratio
from steerkit.core.errors import InputError
from steerkit.runs.directory import Record
from steerkit.scoring.metrics import Metric, metrics

CELL_FIELDS = (
    "cell", "role", "controls", "steering", "decoration", "vector", "layer", "strength", "scope", "operation",
    "half_life", "positions",
)  # fmt: skip
TIMING: Mapping[str, Any] = {"half_life": None, "positions": None}  # those that records did not always have


METRICS: Mapping[str, Metric] = metrics()


@dataclass(frozen=True)
class Outcomes:
    """What was measured, per cell and item.

    `cells` are the cells' own record fields (`CELL_FIELDS`), `n_items` `[n_cells]` counts the items that each
    has records of; `groups` `[n_items]` numbers the items' groups from 0; `values[metric]` is
    `[n_cells, n_items]`, the mean over samples, NaN where there is no measurement.
    """

    cells: tuple[dict[str, Any], ...]
    n_items: Integers
    groups: Integers
    values: Mapping[str, Floats]


def cell_fields(record: Record) -> dict[str, Any]:
    """The fields of a record that say what its cell is, `CELL_FIELDS`. Raises KeyError where one is missing.

    Records that were written before `half_life` and `positions` were fields have them in their spec alone.
    """
    older = {} if record.keys() >= TIMING.keys() else _timing(record)
    return {name: older[name] if name in older else record[name] for name in CELL_FIELDS}


def _timing(record: Record) -> dict[str, Any]:
    """When a record's one steering acts, as its spec says; None for any other cell."""
    if record["vector"] is None:
        return dict(TIMING)
    said = dict(part.partition("=")[::2] for part in record["steering"].rpartition("@")[2].split(","))
    half_life = float(said["half_life"]) if "half_life" in said else None
    return {"half_life": half_life, "positions": said.get("positions", "every")}


def collect(records: Iterable[Record]) -> Outcomes:
    """Read a stream of records into arrays; of the texts nothing is kept, and their order does not matter."""
    cells: dict[str, dict[str, Any]] = {}
    cell_numbers: dict[str, int] = {}
    item_numbers: dict[str, int] = {}
    group_of: dict[str, str] = {}
    rows, columns = array("q"), array("q")
    measured = {name: array("d") for name in METRICS}
    for record in records:
        try:
            if record["cell"] not in cells:
                cells[record["cell"]] = cell_fields(record)
            group_of[record["item"]] = record["group"]
            values = {name: metric.of(record) for name, metric in METRICS.items()}
        except (KeyError, AttributeError, TypeError) as error:
            raise InputError(
                f"the record of cell {record.get('cell')!r} and item {record.get('item')!r} is incomplete ({error}): "
                "delete its line and run the same sweep again to have it made anew"
            ) from error
        rows.append(cell_numbers.setdefault(record["cell"], len(cell_numbers)))
        columns.append(item_numbers.setdefault(record["item"], len(item_numbers)))
        for name, value in values.items():
            measured[name].append(float("nan") if value is None else value)

    items, groups = sorted(group_of), sorted(set(group_of.values()))
    group_numbers = {group: number for number, group in enumerate(groups)}
    sorted_column = np.argsort([item_numbers[item] for item in items])  # from the order of arrival
    shape = (len(cells), len(items))
    places = np.asarray(rows, np.int64) * len(items) + sorted_column[columns]  # in the flattened shape
    return Outcomes(
        cells=tuple(cells.values()),
        n_items=np.bincount(np.unique(places) // max(1, len(items)), minlength=len(cells)),
        groups=np.array([group_numbers[group_of[item]] for item in items], np.int64),
        values={name: _mean_by_place(np.asarray(column), places, shape) for name, column in measured.items()},
    )


def _mean_by_place(values: Floats, places: Integers, shape: tuple[int, int]) -> Floats:
    """Mean of the values (NaN left out) that share a place in a flattened array of `shape`."""
    there = ~np.isnan(values)
    size = shape[0] * shape[1]
    sums = np.bincount(places[there], values[there], minlength=size)
    counts = np.bincount(places[there], minlength=size)
    return ratio(sums, counts).reshape(shape)
