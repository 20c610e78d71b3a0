"""Two plots of many cells at once: the frontier of each actuator, and risk against coverage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from steerkit.analysis.frontier import actuator, actuator_frontiers, by_actuator
from steerkit.analysis.risk_coverage import OperatingPoint, RiskCoverage
from steerkit.analysis.summary import Row
from steerkit.report.marks import FRONTIER, RANDOM, UNSTEERED, VECTOR_MARKS, axis_name, new_figure, plain_text
from steerkit.scoring.metrics import Question, metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@plain_text()
def actuator_plot(rows: Sequence[Row], questions: Sequence[Question], subject: str) -> Figure | None:
    """Draw the cells of each actuator and their Pareto frontier, a panel for the trade-off of each question.

    None where there is no question, or where fewer than two actuators have all of their metrics.
    """
    asked = {name for question in questions for name in (question.y, question.x)}
    rows = [row for row in rows if asked <= row.levels.keys()]
    marks = _marks(rows)
    if len(marks) < 2 or not questions:
        return None
    figure = new_figure(5.2 * max(len(questions), 1.4), 4.9)
    for axes, question in zip(figure.subplots(1, len(questions), squeeze=False)[0], questions, strict=True):
        x, y = question.x, question.y
        for name, cells in actuator_frontiers(rows, y, x).items():
            marker, colour = marks[name]
            members = by_actuator(rows)[name]
            axes.scatter(
                _values(members, x), _values(members, y), marker=marker, c=colour, s=18, alpha=0.35, lw=0
            )
            axes.plot(
                _values(cells, x), _values(cells, y), color=colour, marker=marker, ms=5.5, lw=1.4,
                mec="white", mew=0.6, label=name,
            )  # fmt: skip
        for role, marker, colour, size in (("random", "x", RANDOM, 18), ("unsteered", "*", UNSTEERED, 150)):
            found = [row for row in rows if row.role == role]
            if found:
                axes.scatter(
                    _values(found, x), _values(found, y), marker=marker, c=colour, s=size, zorder=4,
                    lw=1.0, label=f"{role} direction" if role == "random" else role,
                )  # fmt: skip
        axes.set_xlabel(axis_name(metrics()[x], "right", "left"))
        axes.set_ylabel(axis_name(metrics()[y], "up", "down"))
        axes.grid(alpha=0.25, lw=0.6)
        axes.margins(0.06)
    axes = figure.axes[0]
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False
    )
    figure.suptitle(f"The frontier of each actuator: {subject}", fontsize=10.5)
    return figure


@plain_text()
def risk_coverage_plot(found: RiskCoverage, rows: Sequence[Row], subject: str) -> Figure | None:
    """Draw risk against coverage: a point for each cell, a curve for each score, beside random order and oracle.

    None where no cell answers anything.
    """
    points = [point for point in found.points if point.risk is not None]
    if not points:
        return None
    by_cell = {row.cell: row for row in rows}
    marks = _marks(rows)
    figure = new_figure(8.4, 5.2)
    axes = figure.subplots()
    _draw_points(axes, [p for p in points if p.role == "random"], "x", RANDOM, "random direction", 22)
    for name, (marker, colour) in marks.items():
        cells = {row.cell for row in by_actuator(rows)[name]}
        members = [point for point in points if point.cell in cells]
        _draw_points(axes, members, marker, colour, name, 30)
    _draw_points(axes, [p for p in points if p.role == "unsteered"], "*", UNSTEERED, "unsteered", 190)
    for curve in found.curves:
        name = actuator(by_cell[curve.cell])
        colour = marks[name][1] if name in marks else FRONTIER
        label = f"refusing by gate ({name}): AURC {curve.area.value:.3f}"
        coverage, risk = [0.0, *curve.coverage], [curve.risk[0], *curve.risk]
        axes.plot(coverage, risk, color=colour, lw=1.5, zorder=2.5, label=label)
    for curve in found.curves[:1]:  # the unsteered model's own, whichever gate
        base, end = curve.random_order.value, curve.coverage[-1]
        label = f"refusing at random: AURC {base:.3f}"
        axes.plot([0.0, end], [base, base], color=RANDOM, ls=":", label=label)
        label = f"refusing errors first: AURC {curve.oracle.value:.3f}"
        axes.plot(*curve.oracle_curve(), color=RANDOM, ls="--", label=label)
    axes.set_xlabel("coverage: share of the questions that are answered (better: right)")
    axes.set_ylabel("risk: share of errors among the answers (better: down)")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.25, lw=0.6)
    axes.set_title(f"Risk against coverage: {subject}", fontsize=10.5)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def _draw_points(
    axes: Axes, points: Sequence[OperatingPoint], marker: str, colour: str, label: str, size: float
) -> None:
    """A mark for each cell, its intervals faint behind it."""
    for point in points:
        assert point.risk is not None
        for estimate, place in ((point.coverage, "x"), (point.risk, "y")):
            ends = [[point.coverage.value] * 2, [point.risk.value] * 2]
            ends["xy".index(place)] = [estimate.low, estimate.high]
            axes.plot(*ends, color=colour, alpha=0.25, lw=0.9, zorder=2)
    if points:
        x = [point.coverage.value for point in points]
        y = [point.risk.value for point in points if point.risk is not None]
        axes.scatter(x, y, marker=marker, c=colour, s=size, label=label, zorder=5 if marker == "*" else 3)


def _marks(rows: Sequence[Row]) -> Mapping[str, tuple[str, str]]:
    """Shape and colour of each actuator, in alphabetical order."""
    return {name: VECTOR_MARKS[i % len(VECTOR_MARKS)] for i, name in enumerate(by_actuator(rows))}


def _values(rows: Sequence[Row], metric: str) -> list[float]:
    return [row.levels[metric].value for row in rows]
