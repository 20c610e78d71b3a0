"""Findings as tables for a terminal: one a cell, a line a metric, with intervals and changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from steerkit.analysis.summary import Row
from steerkit.chains.instruction_rows import INSTRUCTION_METRICS, instruction_rows
from steerkit.chains.results import read_findings
from steerkit.chains.summary import METRICS, faithfulness_rows
from steerkit.chains.twin_gap import TWIN_METRICS, twin_rows
from steerkit.core.bootstrap import Estimate
from steerkit.runs.directory import RunDirectory

MISSING = "–"
COLUMNS = (("measure", 40), ("value", 22), ("change", 24), ("n", 4))


@dataclass(frozen=True)
class Section:
    """One question about a run: rows by cell, and what each of their metrics says."""

    name: str
    rows: Sequence[Row]
    metrics: Mapping[str, str]


def sections(run: RunDirectory) -> Iterator[Section]:
    """What there is to say about a run: its chains, the constraints that its prompts state, its twins."""
    found = read_findings(run.path)
    asked = [
        Section("chains of thought", faithfulness_rows(found.lines) if found else [], METRICS),
        Section("instruction following", instruction_rows(run.records()), INSTRUCTION_METRICS),
        Section("twins with another number", twin_rows(run.records(), "number"), TWIN_METRICS),
        Section("twins without a premise", twin_rows(run.records(), "premise"), TWIN_METRICS),
    ]
    yield from (section for section in asked if section.rows)


def section_tables(section: Section, title: str) -> Group:
    """The estimates for 100 columns, cell by cell: level, change from the unsteered model, number of units."""
    parts: list[RenderableType] = [Text(title, style="italic")]
    for row in section.rows:
        parts += [Text(_name(row), style="bold"), _cell_table(row, section.metrics)]
    return Group(*parts)


def _cell_table(row: Row, metrics: Mapping[str, str]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 2), pad_edge=False, header_style="dim")
    for (header, width), justify in zip(COLUMNS, ("left", "right", "right", "right"), strict=True):
        table.add_column(header, width=width, justify=justify)  # type: ignore[arg-type]
    for metric, says in metrics.items():
        if metric in row.levels:
            level, change = row.levels[metric], row.changes.get(metric)
            compared = None if row.role == "unsteered" else change
            table.add_row(says, _written(level), _written(compared, "+"), str(level.n))
    return table


def _name(row: Row) -> str:
    if row.role == "unsteered":
        return row.role
    return " + ".join(spec for spec in (row.steering, row.decoration) if spec)


def _written(estimate: Estimate | None, sign: str = "") -> str:
    """Such as `0.73 [0.61, 0.84]`."""
    if estimate is None:
        return MISSING
    value, low, high = (_number(number, sign) for number in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def _number(value: float, sign: str) -> str:
    """Two decimals; a power of ten for what perplexities may come to."""
    return f"{value:{sign}.2f}" if abs(value) < 1e4 else f"{value:{sign}.1e}"
