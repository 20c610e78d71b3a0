"""The plots of a run: heat maps over layer × strength, and one metric against another with the frontier.

Colours are from palettes that colour-blind readers can tell apart (cividis for heat maps), and marks also differ in
shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steerkit.analysis.frontier import by_actuator, pareto_frontier
from steerkit.analysis.risk_coverage import RiskCoverage
from steerkit.analysis.summary import Row
from steerkit.core.bootstrap import Floats
from steerkit.core.files import replacing
from steerkit.report.curves import actuator_plot, risk_coverage_plot
from steerkit.report.marks import (
    FRONTIER,
    RANDOM,
    UNSTEERED,
    VECTOR_MARKS,
    axis_name,
    fonts_for,
    legible,
    new_figure,
    plain_text,
)
from steerkit.report.tables import cell_name, cell_strength, format_value, main_metrics, scopes
from steerkit.runs.directory import REMEDY
from steerkit.scoring.metrics import Question, metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

DPI = 160
LABEL_OFFSETS = [(x, y) for y in (9, -9, 22, -22, 35, -35) for x in (8, -8)]


def write_plots(
    rows: Sequence[Row],
    questions: Sequence[Question],
    folder: Path,
    subject: str,
    selective: RiskCoverage | None = None,
) -> list[Path]:
    """Write the PNG files that the run has the data for into `folder`; `subject` ends each title.

    For each of the `questions` that the run answers, `QUESTION-heatmap.png` shows its two metrics over layers and
    strengths, `QUESTION-frontier.png` one against the other. `metrics-heatmap.png` shows the main metrics that no
    question is about, `actuators.png` the frontier of each actuator, `risk-coverage.png` what `selective` does.
    Raises SteerkitError where the folder cannot be written.
    """
    figures: dict[Path, Figure | None] = {}
    for question in questions:
        figures[folder / f"{question.name}-heatmap.png"] = heat_maps(rows, (question.y, question.x), subject)
        figures[folder / f"{question.name}-frontier.png"] = trade_off(rows, question, subject)
    traded = {name for question in questions for name in question.metrics}
    others = [metric.name for metric in main_metrics(rows) if metric.name not in traded]
    figures[folder / "metrics-heatmap.png"] = heat_maps(rows, others, subject)
    figures[folder / "actuators.png"] = actuator_plot(rows, questions, subject)
    if selective is not None:
        figures[folder / "risk-coverage.png"] = risk_coverage_plot(selective, rows, subject)
    drawn = {path: figure for path, figure in figures.items() if figure is not None}
    for path, figure in drawn.items():
        with replacing(path, "a plot", REMEDY) as scratch:
            figure.savefig(scratch, dpi=DPI)
    return list(drawn)


@plain_text()
def heat_maps(rows: Sequence[Row], names: Sequence[str], subject: str) -> Figure | None:
    """A panel for each metric (across), vector, gate and scope (down); None where no cell has a single layer."""
    steered = [row for row in rows if row.role == "steered" and row.at.layer is not None]
    shown = [metrics()[name] for name in names if any(name in row.levels for row in steered)]
    if not shown:
        return None
    panels = sorted({(cell_name(row), str(row.at.scope)) for row in steered})
    strengths = sorted({0.0} | {row.at.strength for row in steered if row.at.strength is not None})
    layers = sorted({row.at.layer for row in steered if row.at.layer is not None})
    unsteered = [row for row in rows if row.role == "unsteered"]
    figure = new_figure(
        1.6 + len(shown) * max(3.2, 0.62 * len(strengths)),
        0.7 + len(panels) * max(1.8, 1.1 + 0.36 * len(layers)),
    )
    axes = figure.subplots(len(panels), len(shown), squeeze=False, sharex=True, sharey=True)
    for column, metric in enumerate(shown):
        top = (
            1.0
            if metric.unit == "share"
            else max(row.levels[metric.name].value for row in rows if metric.name in row.levels)
        )
        for line, (vector, scope) in enumerate(panels):
            here = [row for row in steered if (cell_name(row), row.at.scope) == (vector, scope)]
            found = {(row.at.layer, row.at.strength): row for row in here}
            found |= {(layer, 0.0): row for row in unsteered for layer in layers}
            grid = np.array(
                [[_value(found.get((layer, s)), metric.name) for s in strengths] for layer in layers]
            )
            panel = axes[line, column]
            image = _draw_grid(panel, grid, metric.unit, top)
            panel.set_xticks(range(len(strengths)), [f"{strength:g}" for strength in strengths])
            panel.set_yticks(range(len(layers)), [str(layer) for layer in layers])
            place = vector if len(scopes(rows)) < 2 else f"{vector}, {scope}"
            panel.set_title(f"{metric.label}:\n{place}", fontsize=8)
        axes[-1, column].set_xlabel("strength (0: unsteered)")
        # One bar a column, as tall as a panel or two: along all of them it would be taller than the page.
        figure.colorbar(image, ax=axes[:, column], pad=0.02, shrink=min(1.0, 2 / len(panels)), anchor=(0, 1))
    for panel in axes[:, 0]:
        panel.set_ylabel("layer")
    figure.suptitle(f"Layer × strength: {subject}", fontsize=10.5)
    return figure


@plain_text()
def trade_off(rows: Sequence[Row], question: Question, subject: str) -> Figure | None:
    """The question's `y` against its `x`: a mark with 95% intervals for each cell, the frontier labelled.

    None where no steered cell has both metrics.
    """
    x, y = question.x, question.y
    rows = [row for row in rows if {x, y} <= row.levels.keys()]
    members = by_actuator(rows)
    if not members:
        return None
    figure = new_figure(8.4, 5.2)
    axes = figure.subplots()
    random = [row for row in rows if row.role == "random"]
    _draw_cells(axes, random, x, y, "random direction, same norm", "x", RANDOM, 26)
    for number, (name, cells) in enumerate(members.items()):
        marker, colour = VECTOR_MARKS[number % len(VECTOR_MARKS)]
        _draw_cells(axes, cells, x, y, name, marker, colour, 30)
    unsteered = [row for row in rows if row.role == "unsteered"]
    _draw_cells(axes, unsteered, x, y, "unsteered", "*", UNSTEERED, 190)
    best = pareto_frontier(rows, y, x)
    axes.plot(
        _values(best, x), _values(best, y), color=FRONTIER, lw=1.5, zorder=2.5,
        label="frontier (layer, strength)",
    )  # fmt: skip
    known = metrics()
    axes.set_xlabel(axis_name(known[x], "right", "left"))
    axes.set_ylabel(axis_name(known[y], "up", "down"))
    axes.grid(alpha=0.25, lw=0.6)
    axes.margins(0.06)
    axes.set_title(f"{known[y].label.capitalize()} against {known[x].label}: {subject}", fontsize=10.5)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    _label_points(figure, axes, rows, best, x, y)
    return figure


def _values(rows: Sequence[Row], metric: str) -> Floats:
    """The metric in each row, `[n_rows]`; NaN where it was not measured."""
    return np.array([_value(row, metric) for row in rows])


def _value(row: Row | None, metric: str) -> float:
    return row.levels[metric].value if row is not None and metric in row.levels else float("nan")


def _draw_grid(axes: Axes, grid: Floats, unit: str, top: float) -> Any:
    """Draw `grid` `[n_layers, n_strengths]` coloured from 0 to `top`, each value written on its field."""
    image = axes.imshow(grid, cmap="cividis", vmin=0.0, vmax=top, aspect="auto", origin="lower")
    for (line, column), value in np.ndenumerate(grid):
        if not np.isnan(value):
            text = format_value(value, unit).removeprefix("0" if unit == "share" else "")
            ink = "black" if value > 0.55 * top else "white"
            axes.text(column, line, text, ha="center", va="center", fontsize=7.5, color=ink)
    axes.tick_params(length=0)
    return image


def _draw_cells(
    axes: Axes, rows: Sequence[Row], x: str, y: str, label: str, marker: str, colour: str, size: float
) -> None:
    """A mark for each row, its intervals faint behind it."""
    if not rows:
        return
    axes.errorbar(
        _values(rows, x), _values(rows, y), xerr=_interval_arms(rows, x), yerr=_interval_arms(rows, y),
        fmt="none", ecolor=colour, alpha=0.9 if marker == "*" else 0.2, elinewidth=0.9, zorder=2,
    )  # fmt: skip
    axes.scatter(
        _values(rows, x), _values(rows, y), marker=marker, c=colour, s=size, label=label,
        edgecolors=None if marker == "x" else "white", linewidths=1.4 if marker == "x" else 0.7,
        zorder=5 if marker == "*" else 3,
    )  # fmt: skip


def _interval_arms(rows: Sequence[Row], metric: str) -> Floats:
    """Distances `[2, n_rows]` from the values down and up to the ends of their intervals."""
    levels = [row.levels[metric] for row in rows]
    arms = [(level.value - level.low, level.high - level.value) for level in levels]
    return np.maximum(np.zeros((2, 1)), np.array(arms, np.float64).T)


def _label_points(
    figure: Figure, axes: Axes, rows: Sequence[Row], best: Sequence[Row], x: str, y: str
) -> None:
    """Name the steered cells of the line `best` where the label meets no mark, line or other label."""
    figure.draw_without_rendering()  # settles the layout, so that places on the canvas are final
    marks = axes.transData.transform(np.stack([_values(rows, x), _values(rows, y)], axis=1))
    corners = axes.transData.transform(np.stack([_values(best, x), _values(best, y)], axis=1))
    shares = np.linspace(0, 1, 50)[:, None]
    line = [start + shares * (end - start) for start, end in pairwise(corners)]
    occupied = np.concatenate([marks, *line])
    frame = axes.bbox.padded(-4)
    taken: list[Bbox] = []
    for row in best:
        if row.role == "unsteered":
            continue
        name = legible(cell_name(row) if row.at.layer is None else f"L{row.at.layer}, {cell_strength(row)}")
        for dx, dy in LABEL_OFFSETS:
            label = axes.annotate(
                name, (row.levels[x].value, row.levels[y].value), (dx, dy), textcoords="offset points",
                ha="left" if dx > 0 else "right", va="center", fontsize=7.5, zorder=6,
                fontfamily=fonts_for(name),
            )  # fmt: skip
            box = label.get_window_extent()
            within = frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1
            if within and not box.count_contains(occupied) and not box.count_overlaps(taken):
                taken.append(box)
                break
            label.remove()
