"""What the page and the command line show of a run's readings: a table by reader and cell, and coloured completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from steerkit.analysis.run import Run
from steerkit.core.bootstrap import Estimate
from steerkit.reading.html import token_spans
from steerkit.reading.reduction import PER_TOKEN, Value
from steerkit.reading.scale import Scale, scale_of
from steerkit.report.tables import MISSING, format_change, format_estimate
from steerkit.runs.cells import RunCell
from steerkit.runs.protocol import reader_name
from steerkit.runs.record import Record

COLUMNS = ("reader", "cell", "mean", "to abstain from", "to answer", "AUROC", "change of AUROC")


def read_lines(run: Run) -> list[tuple[str, ...]]:
    """Return a line for each reader and cell of a run, as `COLUMNS` has it; none where nothing was read."""
    names = [reader_name(form) for form in run.protocol.readers]
    return [
        (
            names[row.reader],
            _name(row.at),
            _number(row.mean),
            _number(row.positive),
            _number(row.negative),
            format_estimate(row.auroc),
            MISSING if row.at.role == "unsteered" else format_change(row.auroc_change),
        )
        for row in run.read_cells()
    ]


class ColouredTokens:
    """The completions of some records with their tokens coloured by the first reader; on hover, what each reader read.

    All have the same scale, so that their colours compare. Without per-token readings it is false.
    """

    def __init__(
        self, readers: Sequence[Mapping[str, Any]], reading: str | None, records: Sequence[Record]
    ) -> None:
        self._names = [reader_name(form) for form in readers]
        self._there = reading == PER_TOKEN
        first = [value for record in records if record.readings for value in _values(record, 0)]
        self.scale: Scale = scale_of(readers[0]["kind"] if readers else "", first)

    def __bool__(self) -> bool:
        return self._there

    @property
    def legend(self) -> str:
        """Which reader the colours are of, and from where to where they go."""
        return f"{self._names[0]}, from {self.scale.low:.3g} to {self.scale.high:.3g}"

    def of(self, record: Record) -> Markup:
        """The tokens of a record's completion, escaped."""
        columns = [(name, _values(record, place)) for place, name in enumerate(self._names)]
        return Markup(token_spans(record.pieces, columns[0][1], self.scale, columns))  # it escapes


def _values(record: Record, reader: int) -> tuple[Value, ...]:
    kept = record.readings[reader]
    return kept if isinstance(kept, tuple) else (kept,)


def _name(cell: RunCell) -> str:
    place = "" if cell.layer is None else f", layer {cell.layer}, strength {cell.strength:g}"
    gates = f", gated by {' and '.join(map(str, cell.gates))}" if cell.gates else ""
    return f"{cell.name}{place}{gates}"


def _number(estimate: Estimate | None) -> str:
    if estimate is None:
        return MISSING
    return f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"
