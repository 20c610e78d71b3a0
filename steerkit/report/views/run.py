"""A run: its first trade-offs as charts, and a row a cell."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit.analysis.frontier import by_actuator
from steerkit.analysis.run import Run
from steerkit.analysis.summary import Row
from steerkit.core.registry import VIEWS
from steerkit.report.tables import (
    cell_columns,
    cell_name,
    format_estimate,
    format_level,
    main_metrics,
    side_effects,
)
from steerkit.report.views.charts import GREY, ORANGE, Point, legend, scatter, style
from steerkit.report.views.parts import frame, note, table
from steerkit.scoring.metrics import Question

MOST_CHARTS = 2


def run_html(run: Run) -> str:
    """Return a run's trade-offs, a chart a question, and a table in which the cells of the first frontier are bold."""
    rows, protocol = run.summary(), run.protocol
    where = f"run of {protocol.suite}/{protocol.split} on {protocol.model}"
    subtitle = f"{where}, {len(run.cells)} cells, {protocol.decoding}"
    if not rows:
        return frame(str(run.path), subtitle, note("no records yet"))
    best = {row.cell for row in run.frontier()} if run.questions else set()
    charts = [_trade_off(run, question) for question in run.questions[:MOST_CHARTS]]
    return frame(str(run.path), subtitle, *charts, _cells(rows, best))


def _trade_off(run: Run, question: Question) -> str:
    """The chart of a question, or nothing where no steered cell has both metrics."""
    x, y = run.metrics[question.x], run.metrics[question.y]
    rows = [row for row in run.summary() if {x.name, y.name} <= row.levels.keys()]
    styles = {
        row.cell: (name, *style(number))
        for number, (name, cells) in enumerate(by_actuator(rows).items())
        for row in cells
    }
    if not styles:
        return ""
    styles |= {
        row.cell: ("random direction, same norm", "cross", GREY) for row in rows if row.role == "random"
    }
    styles |= {row.cell: ("unsteered", "star", ORANGE) for row in rows if row.role == "unsteered"}
    points = []
    for row in sorted(rows, key=lambda row: ("random", "edited", "steered", "unsteered").index(row.role)):
        across, up = row.levels[x.name], row.levels[y.name]
        _, shape, colour = styles[row.cell]
        at = "" if row.at.layer is None else f", layer {row.at.layer}, strength {row.at.strength:g}"
        said = (
            f"{row.cell[:6]} {cell_name(row)}{at}\n{y.label}: {format_estimate(up, y.unit)}\n"
            f"{x.label}: {format_estimate(across, x.unit)}"
        )
        points.append(
            Point((across.value, across.low, across.high), (up.value, up.low, up.high), shape, colour, said)
        )
    line = [
        (row.levels[x.name].value, row.levels[y.name].value) for row in run.frontier(question.y, question.x)
    ]
    labels = (_axis(x.label, x.better, "right", "left"), _axis(y.label, y.better, "up", "down"))
    chart = scatter(*labels, points, line, f"{y.label} against {x.label}")
    entries = dict.fromkeys((shape, colour, name) for name, shape, colour in styles.values())
    return chart + legend(entries)


def _axis(label: str, better: str, higher: str, lower: str) -> str:
    return f"{label} (better: {higher if better == 'higher' else lower})"


def _cells(rows: Sequence[Row], best: set[str]) -> str:
    columns = cell_columns(rows)
    shown, besides = main_metrics(rows), side_effects(rows)
    headings = ["cell", *(header for header, _ in columns), *(each.header for each in (*shown, *besides))]
    lines = [
        [
            cell_name(row),
            *(written(row) for _, written in columns),
            *(format_estimate(row.levels.get(metric.name), metric.unit) for metric in shown),
            *(format_level(row.levels.get(metric.name), metric.unit) for metric in besides),
        ]
        for row in rows
    ]
    classes = ["sk-best" if row.cell in best else "sk-faint" if row.role == "random" else "" for row in rows]
    return table(headings, lines, numbers=len(headings) - 1, classes=classes)


VIEWS.add("run", run_html)
