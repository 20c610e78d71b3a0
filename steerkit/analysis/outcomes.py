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


@dataclass(frozen=True)
class Outcomes:
    """What was measured. Records `[n_records]` and cells are in the order in which they came, items in that of ids.

    `cell` and `item` `[n_records]` are numbers in `cells` and `items`, `sample` those of the samples.
    `verdicts[name]` `[n_records]` are the scores of VERDICTS, NaN where there is none. `gate` `[n_records]` is what the
    record's gates read, NaN where there is none or several disagree. `groups` `[n_items]` numbers the items' groups
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
    verdicts: Mapping[str, Floats]
    gate: Floats
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
    cells: dict[str, int] = {}
    items: dict[str, tuple[int, str, float]] = {}
    cell, item, sample, gate = array("q"), array("q"), array("q"), array("d")
    verdicts = {name: array("d") for name in VERDICTS}
    single = {name: array("d") for name, metric in measured.items() if metric.compare is None}
    pairs = _Twins({name: metric.compare for name, metric in measured.items() if metric.compare})
    for record in records:
        number = cells.setdefault(record.cell, len(cells))
        known = items.get(record.item)
        if known is None:
            label = np.nan if record.should_abstain is None else float(record.should_abstain)
            known = items[record.item] = len(items), record.group, label
        cell.append(number)
        item.append(known[0])
        sample.append(record.sample)
        gate.append(_reading(record))
        given = record.scores
        for name, column in verdicts.items():
            column.append(_number(given.get(name)))
        try:
            for name, column in single.items():
                column.append(_number(measured[name].of(record)))
            if pairs.compare:
                pairs.add(record, number, known[0])
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"the record of cell {record.cell!r} and item {record.item!r} lacks what a metric needs ({error!r}): "
                "delete its line and run the same sweep again to have it made anew"
            ) from error

    names = sorted(items)
    place = np.empty(len(names), np.int64)  # from the order of arrival to that of the ids
    place[[items[name][0] for name in names]] = np.arange(len(names))
    groups = {group: i for i, group in enumerate(sorted({group for _, group, _ in items.values()}))}
    shape = len(cells), len(names)
    cell_of, item_of = _integers(cell), place[_integers(item)]
    values = {name: _means(_floats(column), cell_of, item_of, shape) for name, column in single.items()}
    values |= {
        name: _means(_floats(column), _integers(pairs.cell), place[_integers(pairs.item)], shape)
        for name, column in pairs.values.items()
    }
    return Outcomes(
        cells=tuple(cells),
        items=tuple(names),
        groups=np.array([groups[items[name][1]] for name in names], np.int64),
        should_abstain=np.array([items[name][2] for name in names], np.float64),
        cell=cell_of,
        item=item_of,
        sample=_integers(sample),
        verdicts={name: _floats(column) for name, column in verdicts.items()},
        gate=_floats(gate),
        values={name: values[name] for name in measured},
    )


class _Twins:
    """The metrics of two records of one group, cell and sample: a value for each pair, at its first item."""

    def __init__(self, compare: Mapping[str, Callable[[Record, Record], float | None]]) -> None:
        self.compare = compare
        self.cell, self.item = array("q"), array("q")
        self.values = {name: array("d") for name in compare}
        self._waiting: dict[tuple[str, str, int], tuple[Record, int]] = {}

    def add(self, record: Record, cell: int, item: int) -> None:
        """Compare the record with its twin if that has come, else keep it until it does."""
        place = record.cell, record.group, record.sample
        twin = self._waiting.pop(place, None)
        if twin is None:
            self._waiting[place] = record, item
            return
        first, second = in_order(twin[0], record)
        self.cell.append(cell)
        self.item.append(twin[1] if first is twin[0] else item)
        for name, compare in self.compare.items():
            self.values[name].append(_number(compare(first, second)))


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _reading(record: Record) -> float:
    """What the record's gates read: the probability that all of them share, NaN where there is not one."""
    read = {reading.probability for reading in record.gates} - {None}
    return _number(read.pop()) if len(read) == 1 else np.nan


def _integers(column: array[int]) -> Integers:
    return np.asarray(column, np.int64)


def _floats(column: array[float]) -> Floats:
    return np.asarray(column, np.float64)


def _means(values: Floats, cell: Integers, item: Integers, shape: tuple[int, int]) -> Floats:
    """Mean by cell and item `[n_cells, n_items]` of values `[n]`, NaN left out."""
    there = ~np.isnan(values)
    places, size = cell[there] * shape[1] + item[there], shape[0] * shape[1]
    sums = np.bincount(places, values[there], minlength=size)
    return ratio(sums, np.bincount(places, minlength=size)).reshape(shape)
