"""Tables and estimates of results.md, from records alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from steerkit.analysis.outcomes import collect
from steerkit.analysis.summary import Row, summarise
from steerkit.core.bootstrap import INTERVAL, Estimate, resampling_weights
from steerkit.runs.cells import RunCell
from steerkit.runs.record import Record

METRICS = ("accuracy", "abstention_recall", "over_abstention", "thinking_tokens", "tokens", "truncated")
OTHER = {
    "kind": "other",
    "name": "another model or cell",
}  # what makes a label another cell than the first one
LARGE = 1e4  # from here on a number is written as a power of ten


def heading(dtype: str, tokens: int, absent: Sequence[str]) -> str:
    """What was run, and what was not."""
    lacking = f" Not trained, hence not measured: {', '.join(absent)}." if absent else ""
    return (
        "# The reasoning tax\n\n"
        f"Written by `run.py`. Split `report` where nothing else is said, {dtype}, greedy, at most {tokens} tokens. In "
        "brackets 95% intervals, bootstrap over twin groups; in parentheses the change against the table's first "
        f"line or column, paired item by item.{lacking}"
    )


def labelled(records: Mapping[str, Iterable[Record]]) -> Iterator[Record]:
    """The records of several runs as if they were cells of one, called by their labels."""
    for label, some in records.items():
        for record in some:
            yield replace(record, cell=label)


def compared(records: Mapping[str, Iterable[Record]]) -> dict[str, Row]:
    """One row for each label, in order, its changes paired with the first one's on the items that both have."""
    first = next(iter(records), None)
    cells = {label: RunCell(label, forms=() if label == first else (OTHER,)) for label in records}
    found = {row.cell: row for row in summarise(labelled(records), cells)}
    return {label: found[label] for label in records if label in found}


def share_recovered(
    before: Iterable[Record], after: Iterable[Record], steered: Iterable[Record]
) -> Estimate | None:
    """(steered - after) / (before - after) in abstention recall, on the items that all three have.

    None where nothing was lost. Its interval is infinite where a resample in forty or more loses nothing: the
    share of a loss that may be none has no bounds.
    """
    outcomes = collect(labelled({"before": before, "after": after, "steered": steered}))
    recall = outcomes.values["abstention_recall"]
    shared = ~np.isnan(recall).any(axis=0)
    sums = np.zeros((3, int(outcomes.groups.max()) + 1))
    for row in range(3):
        np.add.at(sums[row], outcomes.groups[shared], recall[row][shared])
    before_sum, after_sum, steered_sum = sums.sum(axis=1)
    if before_sum <= after_sum:
        return None
    value = float((steered_sum - after_sum) / (before_sum - after_sum))
    drawn = resampling_weights(sums.shape[1]) @ sums.T
    lost = drawn[:, 0] - drawn[:, 1]
    if np.percentile(lost, INTERVAL[0]) <= 0:
        return Estimate(value, -np.inf, np.inf, int(shared.sum()))
    share = (drawn[:, 2] - drawn[:, 1]) / np.where(lost > 0, lost, np.nan)
    low, high = np.nanpercentile(share, INTERVAL)
    return Estimate(value, float(low), float(high), int(shared.sum()))


def table(rows: Mapping[str, Row], metrics: Sequence[str] = METRICS) -> str:
    """A line for each row: levels with intervals, and from the second on the changes."""
    lines = [f"| | items | {' | '.join(metrics)} |", "|---" * (len(metrics) + 2) + "|"]
    for label, row in rows.items():
        values = (value(row, metric, row.role != "unsteered") for metric in metrics)
        lines.append(f"| {label.replace('|', '/')} | {row.n_items} | {' | '.join(values)} |")
    return "\n".join(lines)


def side_by_side(rows: Mapping[str, Row], metrics: Mapping[str, str]) -> str:
    """A line for each metric, a column for each row: levels, and from the second on the changes."""
    lines = [f"| | {' | '.join(rows)} |", "|---" * (len(rows) + 1) + "|"]
    for metric, says in metrics.items():
        if any(metric in row.levels for row in rows.values()):
            values = (value(row, metric, row.role != "unsteered") for row in rows.values())
            lines.append(f"| {says} | {' | '.join(values)} |")
    return "\n".join(lines)


def value(row: Row, metric: str, with_change: bool) -> str:
    """A metric with its interval, or with its change from the first row and that one's interval."""
    found, change = row.levels.get(metric), row.changes.get(metric)
    if found is None:
        return "–"
    if not with_change:
        return estimate(found)
    return f"{number(found.value)} ({estimate(change, '+')})" if change is not None else estimate(found)


def estimate(found: Estimate, sign: str = "") -> str:
    """Such as `0.25 [0.17, 0.33]`."""
    return f"{number(found.value, sign)} [{number(found.low, sign)}, {number(found.high, sign)}]"


def number(what: float, sign: str = "") -> str:
    """Two decimals for shares and nats, one for tokens."""
    size = abs(what)
    return f"{what:{sign}.2f}" if size < 10 else f"{what:{sign}.1f}" if size < LARGE else f"{what:{sign}.1e}"
