"""The tables of results.md, from run directories alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import steerkit as sk
from steerkit.sweeps.grid import Cell
from steerkit.sweeps.statistics import Estimate
from steerkit.sweeps.store import Record
from steerkit.sweeps.summary import Row, summarise

METRICS = ("accuracy", "abstention_recall", "over_abstention", "thinking_tokens", "tokens", "truncated")
Picked = Mapping[tuple[str, str, bool], Cell | None]


def heading(dtype: str, tokens: int, absent: Sequence[str]) -> str:
    """What was run, and what was not."""
    lacking = f" Not trained, hence not measured: {', '.join(absent)}." if absent else ""
    return (
        "# The reasoning tax\n\n"
        f"Written by `run.py`. Split `report`, {dtype}, greedy, at most {tokens} tokens. In brackets 95% intervals, "
        f"paired bootstrap over twin groups; changes are against the table's first line.{lacking}"
    )


def compared(records: Mapping[str, Iterator[Record]]) -> dict[str, Row]:
    """One row for each label, in order, its changes paired with the first one's on the items that both have."""

    def together() -> Iterator[Record]:
        for place, (label, some) in enumerate(records.items()):
            for record in some:
                yield {**record, "cell": label, "role": "steered" if place else "unsteered"}

    rows = {row.cell: row for row in summarise(together())}
    return {label: rows[label] for label in records}


def before_and_after(runs: Mapping[str, Mapping[str, sk.Run]]) -> str:
    """A table for each suite: the base, then each variant with its changes; the brevity suite by level besides."""
    parts = ["## Before and after"]
    for suite, by_model in runs.items():
        rows = compared({name: _of_cell(run, Cell().id) for name, run in by_model.items()})
        parts += [f"### {suite}", table(rows)]
        if suite == "brevity":
            parts += ["Accuracy by level:", _by_level(by_model)]
    return "\n\n".join(parts)


def _by_level(by_model: Mapping[str, sk.Run]) -> str:
    levels = sorted({_level(record) for run in by_model.values() for record in run.directory.records()})
    lines = [f"| model | {' | '.join(levels)} |", "|---" * (len(levels) + 1) + "|"]
    for name, run in by_model.items():
        cells = []
        for level in levels:
            records = (r for r in run.directory.records() if _level(r) == level)
            cells.append(_level_of(summarise(records)[0], "accuracy"))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _level(record: Record) -> str:
    return f"level {record['item'].split('-')[1]}"  # brevity-LEVEL-PLACE


def paid_back(picked: Picked, steered: sk.Run, before: sk.Run) -> str:
    """The chosen cells against the model before fine-tuning, and the share of the lost recall that they give back."""
    plain = Cell().id
    labels: dict[str, str] = {"before fine-tuning": "", "long": plain}
    lines = []
    for (rule, name, gated), cell in picked.items():
        label = f"{rule}: {name}, {'gated' if gated else 'ungated'}"
        if cell is None:
            lines.append(f"- {label}: no cell meets the bounds")
            continue
        labels[label] = cell.id
        lines.append(f"- {label}: `{_spec(cell)}`")
    rows = compared(
        {
            label: _of_cell(steered, cell) if cell else _of_cell(before, plain)
            for label, cell in labels.items()
        }
    )
    return "\n\n".join(
        [
            "## Paid back",
            "Abstention suite. Chosen on `choose`:\n\n" + "\n".join(lines),
            table(rows),
            "Share of the lost recall that comes back (point estimates; meaningless where little was lost):",
            "\n".join(_recovered(rows)),
            "Every cell on `report`, random directions of the same norm included, against the long model:",
            table({_shown(row): row for row in steered.summary()}),
        ]
    )


def _recovered(rows: Mapping[str, Row]) -> Iterator[str]:
    recall = {label: row.levels["abstention_recall"].value for label, row in rows.items()}
    before, after, *_ = recall.values()
    for label, value in list(recall.items())[2:]:
        share = f"{(value - after) / (before - after):.0%}" if before > after else "nothing was lost"
        yield f"- {label}: {share}"


def table(rows: Mapping[str, Row], metrics: Sequence[str] = METRICS) -> str:
    """A line for each row: levels with intervals, and from the second on the changes."""
    lines = [f"| | items | {' | '.join(metrics)} |", "|---" * (len(metrics) + 2) + "|"]
    for label, row in rows.items():
        baseline = row.role == "unsteered"
        cells = [_level_of(row, m) if baseline else _change_of(row, m) for m in metrics]
        lines.append(f"| {label.replace('|', '/')} | {row.n_items} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _level_of(row: Row, metric: str) -> str:
    found = row.levels.get(metric)
    if found is None:
        return "–"
    digits = _digits(found)
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _change_of(row: Row, metric: str) -> str:
    found, change = row.levels.get(metric), row.changes.get(metric)
    if found is None or change is None:
        return "–"
    digits = _digits(found)
    moved = f"{change.value:+.{digits}f} [{change.low:+.{digits}f}, {change.high:+.{digits}f}]"
    return f"{found.value:.{digits}f} ({moved})"


def _digits(estimate: Estimate) -> int:
    return 1 if estimate.high > 1.5 else 2  # tokens, or a share


def _of_cell(run: sk.Run, cell: str) -> Iterator[Record]:
    return (record for record in run.directory.records() if record["cell"] == cell)


def _spec(cell: Cell) -> str:
    fields: dict[str, Any] = cell.fields()
    return str(fields["steering"] or fields["decoration"])


def _shown(row: Row) -> str:
    return f"`{row.steering or row.decoration or 'unsteered'}`"
