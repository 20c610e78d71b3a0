"""The trade-off of a run as a chart in HTML: a button a cell, which says its numbers and can be asked for more.

Nothing is loaded, and no script is needed to read it: each mark has its numbers as a title and for screen readers. What
a click does is the page's own matter: `data-cell` is the cell's id. Lengths are in per cent of the plot, so that the
same chart fits a telephone and a desk.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from steerkit.analysis.frontier import by_actuator, pareto_frontier
from steerkit.analysis.summary import Row
from steerkit.core.bootstrap import Estimate
from steerkit.core.characters import one_line
from steerkit.report.marks import axis_name
from steerkit.report.tables import (
    MISSING,
    cell_layer,
    cell_name,
    cell_strength,
    format_change,
    format_estimate,
)
from steerkit.report.views.charts import Axis
from steerkit.scoring.metrics import Question, metrics

MARGIN = 0.05  # of the range, on each side
TICKS = 7  # about so many on an axis
SHAPES = (
    '<circle cx="8" cy="8" r="5"/>',
    '<rect x="3.5" y="3.5" width="9" height="9"/>',
    '<path d="M8 2.5 14 13H2z"/>',
    '<path d="M8 2 14 8l-6 6-6-6z"/>',
    '<path d="M2 3h12L8 13.5z"/>',
    '<path d="M6 2h4v4h4v4h-4v4H6v-4H2V6h4z"/>',
)
STAR = '<path d="m8 1 2 5h5l-4 3.2 1.6 5.3L8 11.4l-4.6 3.1L5 9.2 1 6h5z"/>'
CROSS = '<path d="m4 4 8 8m0-8-8 8" fill="none" stroke="currentColor" stroke-width="2"/>'

STYLE = """
.sk-chart { position: relative; font-size: .8rem; }
.sk-chart .plot { position: relative; height: 22rem; margin: .4rem 1rem 0 3.2rem;
  border: solid rgb(128 128 128 / .7); border-width: 0 0 1px 1px; }
.sk-chart svg.lines { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.sk-chart .lines line, .sk-chart .lines polyline { vector-effect: non-scaling-stroke; fill: none; }
.sk-chart .lines .grid { stroke: rgb(128 128 128 / .25); }
.sk-chart .lines .bar { stroke: currentColor; stroke-opacity: .28; }
.sk-chart .lines .bar.shown { stroke-opacity: 1; stroke-width: 2; }
.sk-chart .lines .frontier { stroke: #009e73; stroke-width: 2; }
.sk-chart .tick { position: absolute; font-variant-numeric: tabular-nums; opacity: .8; }
.sk-chart .tick.x { top: calc(100% + .25rem); transform: translateX(-50%); }
.sk-chart .tick.y { right: calc(100% + .4rem); transform: translateY(50%); }
.sk-chart .axis { margin: 0 0 0 3.2rem; }
.sk-chart .axis.x { margin-top: 1.7rem; text-align: center; }
.sk-chart button.mark { position: absolute; width: 24px; height: 24px; margin: -12px; padding: 4px; border: 0;
  background: none; border-radius: 50%; cursor: pointer; line-height: 0; }
.sk-chart button.mark svg, .sk-chart .legend svg { width: 16px; height: 16px; fill: currentColor; }
.sk-chart button.mark.is-sk-unsteered svg { width: 22px; height: 22px; }
.sk-chart button.mark.is-sk-unsteered { z-index: 1; padding: 1px; }
.sk-chart button.mark:hover, .sk-chart button.mark:focus-visible { outline: 2px solid currentColor; z-index: 3; }
.sk-chart button.mark[aria-pressed=true] { background: rgb(128 128 128 / .35);
  outline: 2px solid currentColor; z-index: 2; }
.sk-chart .legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .5rem 0 0 3.2rem; padding: 0;
  list-style: none; }
.sk-chart .legend li { display: flex; align-items: center; gap: .35rem; margin: 0; overflow-wrap: anywhere; }
.sk-chart .legend i { width: 22px; border-top: 2px solid #009e73; }
.sk-chart .tip { position: absolute; z-index: 5; max-width: min(24rem, 90%); padding: .45rem .6rem; border-radius: 6px;
  background: #1b1f27; color: #f5f6f8; white-space: pre-line; pointer-events: none; font-size: .8rem; line-height: 1.45;
  overflow-wrap: anywhere; box-shadow: 0 2px 8px rgb(0 0 0 / .35); }
.sk-chart .tip[hidden] { display: none; }
.sk-c0 { color: #0072b2; } .sk-c1 { color: #b5568f; } .sk-c2 { color: #b97800; }
.sk-c3 { color: #2a8fc7; } .sk-c4 { color: #00805d; } .sk-c5 { color: #4d4d4d; }
.sk-unsteered { color: #d55e00; } .sk-random { color: #7a7a7a; }
.dark .sk-c0 { color: #4aa8e0; } .dark .sk-c1 { color: #dd93bf; } .dark .sk-c2 { color: #e69f00; }
.dark .sk-c3 { color: #8fd0f5; } .dark .sk-c4 { color: #2fc79a; } .dark .sk-c5 { color: #c4c4c4; }
.dark .sk-unsteered { color: #ff8a3c; } .dark .sk-random { color: #9a9a9a; }
"""


def trade_off_chart(rows: Sequence[Row], question: Question) -> str | None:
    """Return the question's `y` against its `x`, a mark for each cell, as a part of a page; None without a mark.

    On hover and on focus a mark says cell, numbers and 95% intervals; the frontier joins those that none beats.
    """
    x, y = metrics()[question.x], metrics()[question.y]
    rows = [row for row in rows if {x.name, y.name} <= row.levels.keys()]
    if not rows:
        return None
    across, up = (_axis([row.levels[metric.name] for row in rows]) for metric in (x, y))
    places = {row.cell: _Place(row, across, up, x.name, y.name) for row in rows}
    looks = _looks(rows)
    lines = [*_grid(across, up), *(places[row.cell].bars(looks[row.cell][0]) for row in rows)]
    best = (places[row.cell] for row in pareto_frontier(rows, y.name, x.name))
    lines.append(f'<polyline class="frontier" points="{" ".join(f"{at.x},{100 - at.y}" for at in best)}"/>')
    ordered = sorted(rows, key=lambda row: (places[row.cell].x, places[row.cell].y))
    marks = [
        _mark(places[row.cell], said_of(row, (y.name, x.name)), looks[row.cell], first=row is ordered[0])
        for row in ordered
    ]
    return (
        f'<div class="sk-chart"><style>{STYLE}</style><div class="axis">{escape(axis_name(y, "up", "down"))}</div>'
        f'<div class="plot" role="group" aria-label="{escape(question.title)}: arrow keys go from cell to cell">'
        f'<svg class="lines" viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{"".join(lines)}</svg>'
        f'{_ticks(across, up)}{"".join(marks)}<div class="tip" role="status" hidden></div></div>'
        f'<div class="axis x">{escape(axis_name(x, "right", "left"))}</div>{_legend(rows, looks)}</div>'
    )


def said_of(row: Row, names: Sequence[str]) -> str:
    """Return what a mark says: the cell, then a line for each of these metrics, with interval and change."""
    known = metrics()
    place = f"layer {cell_layer(row)}, strength {cell_strength(row)}" if row.at.steerings else ""
    scope = "" if row.at.scope in (None, "completion") else f", scope {row.at.scope}"
    lines = [cell_name(row), place + scope]
    for name in names:
        unit, level, change = known[name].unit, row.levels.get(name), row.changes.get(name)
        said = f"{known[name].label} {format_estimate(level, unit)}"
        if row.role != "unsteered" and change is not None:
            said += f", change {format_change(change, unit)}"
        lines.append(said)
    lines.append(f"{row.n_items} items, cell {row.cell}")
    return "\n".join(one_line(line) for line in lines if line and line != MISSING)


def _looks(rows: Sequence[Row]) -> dict[str, tuple[str, str]]:
    """The class and the shape of each cell's mark."""
    looks = {
        row.cell: ("sk-unsteered", STAR) if row.role == "unsteered" else ("sk-random", CROSS)
        for row in rows
        if row.role in ("unsteered", "random")
    }
    for number, cells in enumerate(by_actuator(rows).values()):
        shape = number % len(SHAPES)
        colour = (number + number // len(SHAPES)) % len(SHAPES)  # so that 36 of them differ
        looks |= {row.cell: (f"sk-c{colour}", SHAPES[shape]) for row in cells}
    return looks


class _Place:
    """Where a cell stands, in per cent from the left and from the bottom, and where its intervals end."""

    def __init__(self, row: Row, across: Axis, up: Axis, x: str, y: str) -> None:
        self.cell = row.cell
        self.x, self.left, self.right = _ends(across, row.levels[x])
        self.y, self.low, self.high = _ends(up, row.levels[y])

    def bars(self, style: str) -> str:
        """The intervals: a line across and one up."""
        ends = (
            (self.left, 100 - self.y, self.right, 100 - self.y),
            (self.x, 100 - self.low, self.x, 100 - self.high),
        )
        return "".join(
            f'<line class="bar {style}" data-of="{self.cell}" x1="{a:.2f}" y1="{b:.2f}" x2="{c:.2f}" y2="{d:.2f}"/>'
            for a, b, c, d in ends
        )


def _ends(axis: Axis, estimate: Estimate) -> tuple[float, float, float]:
    value, low, high = (round(axis.at(part), 2) for part in (estimate.value, estimate.low, estimate.high))
    return value, low, high


def _axis(estimates: Sequence[Estimate]) -> Axis:
    """An axis on which all intervals have room, from 0 to 100."""
    low, high = min(each.low for each in estimates), max(each.high for each in estimates)
    room = (high - low) * MARGIN or max(abs(high), 1.0) * MARGIN
    return Axis(low - room, high + room, 0.0, 100.0)


def _mark(at: _Place, said: str, look: tuple[str, str], *, first: bool) -> str:
    style, shape = look
    return (
        f'<button type="button" class="mark is-{style}" data-cell="{at.cell}" aria-label="{escape(said, quote=True)}" '
        f'aria-pressed="false" tabindex="{0 if first else -1}" style="left:{at.x}%;bottom:{at.y}%">'
        f'<svg class="{style}" viewBox="0 0 16 16" aria-hidden="true">{shape}</svg></button>'
    )


def _grid(across: Axis, up: Axis) -> list[str]:
    lines = [(across.at(tick), 0.0, across.at(tick), 100.0) for tick in across.ticks(TICKS)]
    lines += [(0.0, 100 - up.at(tick), 100.0, 100 - up.at(tick)) for tick in up.ticks(TICKS)]
    return [
        f'<line class="grid" x1="{a:.2f}" y1="{b:.2f}" x2="{c:.2f}" y2="{d:.2f}"/>' for a, b, c, d in lines
    ]


def _ticks(across: Axis, up: Axis) -> str:
    sides = (("x", "left", across), ("y", "bottom", up))
    return "".join(
        f'<span class="tick {name}" style="{side}:{axis.at(tick):.2f}%">{round(tick, 9):g}</span>'
        for name, side, axis in sides
        for tick in axis.ticks(TICKS)
    )


def _legend(rows: Sequence[Row], looks: dict[str, tuple[str, str]]) -> str:
    names = {name: looks[cells[0].cell] for name, cells in by_actuator(rows).items()}
    for role, label in (("unsteered", "unsteered"), ("random", "random direction, same norm")):
        found = next((row for row in rows if row.role == role), None)
        if found is not None:
            names[label] = looks[found.cell]
    entries = [
        f'<li><svg class="{style}" viewBox="0 0 16 16" aria-hidden="true">{shape}</svg>'
        f"{escape(one_line(name))}</li>"
        for name, (style, shape) in names.items()
    ]
    return f'<ul class="legend">{"".join(entries)}<li><i></i>frontier</li></ul>'
