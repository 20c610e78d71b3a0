"""A run's cells as a table, and completions beside the unsteered ones, in HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from steerkit.analysis.summary import Row
from steerkit.core.characters import one_line
from steerkit.core.prompts import as_text
from steerkit.report.examples import parts_of, verdict
from steerkit.report.readings import ColouredTokens
from steerkit.report.side_by_side import Beside
from steerkit.report.tables import cell_columns, cell_name, format_estimate, main_metrics
from steerkit.runs.record import Record
from steerkit.serving.workbench.coloured import plain_html
from steerkit.serving.workbench.opened import OpenRun

MOST_ROWS = 400  # of a table of cells
ANSWERS = {"abstained": ("abstains", "answers"), "correct": ("right", "wrong")}


def cells_html(rows: Sequence[Row]) -> str:
    """Return the cells as a table, a button each, with the main metrics and their intervals."""
    columns = [(name, text) for name, text in cell_columns(rows) if name != "id"]
    shown = main_metrics(rows)
    heads = ["cell", *(name for name, _ in columns), *(metric.header for metric in shown)]
    lines = []
    for row in rows[:MOST_ROWS]:
        name = escape(one_line(cell_name(row)))
        fields = [text(row) for _, text in columns]
        fields += [format_estimate(row.levels.get(metric.name), metric.unit) for metric in shown]
        values = "".join(f"<td>{escape(field)}</td>" for field in fields)
        lines.append(
            f'<tr><th scope="row"><button type="button" data-cell="{row.cell}" aria-pressed="false">{name}</button>'
            f"</th>{values}</tr>"
        )
    left = f"<p>{len(rows) - MOST_ROWS} more are in summary.csv.</p>" if len(rows) > MOST_ROWS else ""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    return (
        f'<div class="sk-scroll sk-cells" tabindex="0" role="region" aria-label="all cells"><table><thead><tr>{head}'
        f"</tr></thead><tbody>{''.join(lines)}</tbody></table></div>{left}"
    )


def completions_html(rows: Sequence[Beside], run: OpenRun, score: str, *, blind: bool) -> str:
    """Return completions beside the unsteered ones, each with its verdict unless `blind`, and with label buttons."""
    if not rows:
        return '<p class="sk-empty">No completion is like that: choose another filter.</p>'
    records = [record for row in rows for record in (row.unsteered, row.record) if record is not None]
    protocol = run.run.protocol
    coloured = ColouredTokens(protocol.readers, protocol.reading, records)
    legend = f'<p class="sk-legend">colour: {escape(one_line(coloured.legend))}</p>' if coloured else ""
    items = "".join(_item(row, run, coloured, score, blind=blind) for row in rows)
    return f'<div class="sk-items sk-read">{legend}{items}</div>'


def _item(row: Beside, run: OpenRun, coloured: ColouredTokens, score: str, *, blind: bool) -> str:
    record = row.record
    expected = "should abstain" if record.should_abstain else "answerable" if record.answers else "open"
    expected += f": {one_line(record.answers[0])}" if record.answers else ""
    changed = ' <b class="sk-new">new verdict</b>' if row.new_verdict and not blind else ""
    alone = row.unsteered is None or row.unsteered is record or row.unsteered.cell == record.cell
    sides = [("this cell", record)] if alone else [("unsteered", row.unsteered), ("this cell", record)]
    columns = "".join(
        _side(name, each, run, coloured, score, blind=blind) for name, each in sides if each is not None
    )
    return (
        f'<article><h4 class="sk-question" dir="auto">{plain_html(as_text(record.prompt))}</h4>'
        f'<p class="sk-notes">{escape(one_line(record.item))}, {escape(expected)}{changed}</p>'
        f'<div class="sk-two">{columns}</div></article>'
    )


def _side(
    name: str, record: Record, run: OpenRun, coloured: ColouredTokens, score: str, *, blind: bool
) -> str:
    said = "" if blind else f' <span class="sk-verdict">{escape(str(verdict(record)))}</span>'
    if coloured and record.pieces:
        text = str(coloured.of(record))
    else:
        parts = parts_of(record, run.run.protocol.markers)
        text = "".join(plain_html(t) if answers else f"<i>{plain_html(t)}</i>" for t, answers in parts)
    label = run.labels.of(record.key, score)
    buttons = "".join(
        f'<button type="button" data-label="{value}" aria-pressed="{str(label is given).lower()}">{word}</button>'
        for value, given, word in zip(("yes", "no"), (True, False), ANSWERS[score], strict=True)
    )
    return (
        f'<section class="sk-answer" aria-label="{name}"><h5>{name}{said}</h5>'
        f'<div class="sk-text" dir="auto">{text}</div>'
        f'<div class="sk-labels" role="group" aria-label="label: {score}" data-cell-of="{record.cell}" '
        f'data-item="{escape(record.item, quote=True)}" data-sample="{record.sample}">{buttons}</div></section>'
    )
