"""From records to arrays, in one pass: what was scored, completion by completion, and each metric by cell and item.

Of the texts nothing is kept, so a run of a million records fits into memory; but for metrics of twins, which need both
records at once: the first is held until the second comes.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from steerkit.core.bootstrap import Floats, Integers, ratio
from steerkit.core.errors import InputError
from steerkit.runs.record import Record
from steerkit.scoring.metrics import Metric, in_order, metrics

VERDICTS = ("abstained", "correct", "judged_abstained")  # scores that risk and agreement are worked out from
RECORDS_AT_ONCE = 4096  # as Python objects, before they become arrays


@dataclass(frozen=True)
class Outcomes:
    """What was measured. Records `[n_records]` and cells are in the order in which they came, items in that of ids.

    `cell` and `item` `[n_records]` are numbers in `cells` and `items`, `sample` those of the samples. `scores[name]`
    `[n_records]` are the scores of VERDICTS and of the metrics, NaN where there is none. `gate` `[n_records]` is what
    the record's gates read, NaN where there is none or several disagree. `groups` `[n_items]` numbers the items' groups
    from 0; `should_abstain` `[n_items]` is 1, 0, or NaN where the source does not say. `values[metric]` is
    `[n_cells, n_items]`, the mean over samples, NaN where there is no measurement.
    """

    cells: tuple[str, ...]
    items: tuple[str, ...]
    groups: Integers
    should_abstain: Floats
    cell: Integers
    item: Integers
    sample: Integers
    gate: Floats
    scores: Mapping[str, Floats]
    values: Mapping[str, Floats]

    @functools.cached_property
    def n_items(self) -> Integers:
        """How many items each cell has records of, `[n_cells]`."""
        pairs = np.unique(self.cell * max(1, len(self.items)) + self.item)
        return np.bincount(pairs // max(1, len(self.items)), minlength=len(self.cells))


def collect(records: Iterable[Record], measured: Mapping[str, Metric] | None = None) -> Outcomes:
    """Read a stream of records into arrays; by default all registered metrics are measured.

    The order of the records does not matter. Raises InputError where a metric cannot be worked out from a record.
    """
    measured = metrics() if measured is None else measured
    plain = {name: metric for name, metric in measured.items() if not metric.measure and not metric.compare}
    own = {name: metric for name, metric in measured.items() if metric.measure}
    twins = _Twins({name: metric.compare for name, metric in measured.items() if metric.compare})
    names = tuple(dict.fromkeys([*VERDICTS, *(metric.score or name for name, metric in plain.items())]))
    cells: dict[str, int] = {}
    items: dict[str, tuple[int, str, bool | None]] = {}
    lines: list[list[float | None]] = []
    blocks: list[Floats] = [np.empty((0, 4 + len(names) + len(own)))]
    for record in records:
        cell = cells.setdefault(record.cell, len(cells))
        item, *_ = items.setdefault(record.item, (len(items), record.group, record.should_abstain))
        try:
            line = [cell, item, record.sample, _reading(record), *map(record.scores.get, names)]
            line += [metric.of(record) for metric in own.values()]
            twins.add(record, cell, item)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"the record of cell {record.cell!r} and item {record.item!r} lacks what a metric needs ({error!r}): "
                "delete its line and run the same sweep again to have it made anew"
            ) from error
        lines.append(line)
        if len(lines) == RECORDS_AT_ONCE:
            blocks.append(np.array(lines, np.float64))  # None becomes NaN
            lines.clear()
    if lines:
        blocks.append(np.array(lines, np.float64))
    table = np.concatenate(blocks).T  # [column, record]

    ids = sorted(items)
    place = np.empty(len(ids), np.int64)  # from the order of arrival to that of the ids
    place[[items[name][0] for name in ids]] = np.arange(len(ids))
    groups = {group: i for i, group in enumerate(sorted({group for _, group, _ in items.values()}))}
    labels = np.array([items[name][2] for name in ids], np.float64)
    cell_of, item_of = table[0].astype(np.int64), place[table[1].astype(np.int64)]
    scores = dict(zip((*names, *own), table[4:], strict=True))

    def values_of(name: str, metric: Metric) -> Floats:
        if metric.compare:
            where = np.asarray(twins.cells, np.int64), place[np.asarray(twins.items, np.int64)]
            found = np.asarray(twins.values[name], np.float64)
        else:
            where = cell_of, item_of
            found = scores[name if metric.measure else metric.score or name]
            if not metric.measure and metric.concerns != "all":
                found = np.where(labels[item_of] == (metric.concerns == "unanswerable"), found, np.nan)
        return _means(found, *where, (len(cells), len(ids)))

    return Outcomes(
        cells=tuple(cells),
        items=tuple(ids),
        groups=np.array([groups[items[name][1]] for name in ids], np.int64),
        should_abstain=labels,
        cell=cell_of,
        item=item_of,
        sample=table[2].astype(np.int64),
        gate=table[3],
        scores=scores,
        values={name: values_of(name, metric) for name, metric in measured.items()},
    )


class _Twins:
    """The metrics of two records of one group, cell and sample: a value for each pair, at its first item."""

    def __init__(self, compare: Mapping[str, Callable[[Record, Record], float | None]]) -> None:
        self._compare = compare
        self.cells, self.items = array("q"), array("q")
        self.values: dict[str, list[float | None]] = {name: [] for name in compare}
        self._waiting: dict[tuple[str, str, int], tuple[Record, int]] = {}

    def add(self, record: Record, cell: int, item: int) -> None:
        """Compare the record with its twin if that has come, else keep it until it does."""
        if not self._compare:
            return
        key = record.cell, record.group, record.sample
        twin = self._waiting.pop(key, None)
        if twin is None:
            self._waiting[key] = record, item
            return
        first, second = in_order(twin[0], record)
        self.cells.append(cell)
        self.items.append(twin[1] if first is twin[0] else item)
        for name, compare in self._compare.items():
            self.values[name].append(compare(first, second))


def _reading(record: Record) -> float | None:
    """What the record's gates read: the probability that all of them share, None where there is not one."""
    read = {reading.probability for reading in record.gates} - {None}
    return read.pop() if len(read) == 1 else None


def _means(values: Floats, cell: Integers, item: Integers, shape: tuple[int, int]) -> Floats:
    """Mean by cell and item `[n_cells, n_items]` of values `[n]`, NaN left out."""
    there = ~np.isnan(values)
    places, size = cell[there] * shape[1] + item[there], shape[0] * shape[1]
    sums = np.bincount(places, values[there], minlength=size)
    return ratio(sums, np.bincount(places, minlength=size)).reshape(shape)
