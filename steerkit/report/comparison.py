"""A comparison of actuators as Markdown: what was chosen, what each reaches, what limits it, what its gate reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from steerkit.analysis.frontier import by_actuator
from steerkit.analysis.gating import gate_of, without_gates
from steerkit.analysis.hulls import ALLOWED, reach, relative_prices
from steerkit.analysis.limits import Limit, by_kind, limits
from steerkit.report.markdown import across, change, level, markdown_table
from steerkit.report.tables import MISSING, format_estimate
from steerkit.runs.cells import Cell
from steerkit.sweeps.comparison import Comparison, Measured

LONG_NUMBER = re.compile(r"\d+\.\d{4,}")


def chosen_table(found: Comparison, metrics: Sequence[str]) -> str:
    """Return what each rule picked, measured on `report`, with the random directions behind each pick."""
    report = found.report
    lines = [["", "unsteered", "", *(level(report.row(Cell()), metric) for metric in metrics)]]
    for rule, picks in found.picks.items():
        for actuator, cell in picks.items():
            if cell is None:
                lines.append([rule, actuator, "no cell meets the bounds", *[""] * len(metrics)])
                continue
            row = report.row(cell)
            lines.append([rule, actuator, cell_spec(cell), *(change(row, metric) for metric in metrics)])
            if random := [report.row(each) for each in found.controls[cell.id]]:
                said = f"random directions of its norm: {len(random)}"
                lines.append(["", said, "", *(across(random, metric) for metric in metrics)])
    return markdown_table(["rule", "actuator", "cell", *metrics], lines)


def cells_table(measured: Measured, cells: Sequence[Cell], metrics: Sequence[str]) -> str:
    """Return the unsteered model and these cells, with their changes from it."""
    lines = [
        [cell_spec(cell), *(change(measured.row(cell), metric) for metric in metrics)]
        for cell in [Cell(), *cells]
    ]
    return markdown_table(["cell", *metrics], lines)


def reach_table(measured: Measured) -> str:
    """Return what each actuator reaches with all its cells, by `steerkit.analysis.hulls`."""
    families = {name: [row.cell for row in rows] for name, rows in by_actuator(measured.rows).items()}
    lines = [
        [name or "unsteered", each.cells, *map(format_estimate, (each.area, *each.gain.values()))]
        for name, each in reach(measured.outcomes, Cell().id, families).items()
    ]
    return markdown_table(
        ["actuator", "cells", "area", *(f"recall at +{more:.2f}" for more in ALLOWED)], lines
    )


def price_sentence(measured: Measured, vector: str) -> str:
    """Return how much of a vector's price its gate leaves; empty where its cells overlap nowhere."""
    ids = [cell.id for cell in ungated(measured, vector)]
    under = [
        cell.id
        for cell in measured.cells
        if cell.role == "steered" and gate_of(cell) and without_gates(cell).id in ids
    ]
    prices = relative_prices(measured.outcomes, Cell().id, under, ids)
    if prices is None:
        return ""
    return (
        f"At equal recall, over-abstention rises under the gate by {format_estimate(prices.median)} of what it rises "
        f"without (median of {len(prices.cells)} cells of `{vector}`)."
    )


def limits_table(measured: Measured, vector: str) -> str:
    """Return what a vector's cells reach under a perfect gate, and the gate with a perfect actuator."""
    cells = ungated(measured, vector)
    thresholds = sorted({gate.threshold for cell in measured.cells if (gate := gate_of(cell))})
    found = limits(measured.outcomes, Cell().id, [cell.id for cell in cells], thresholds)
    lines: list[tuple[str, Limit]] = [("unsteered", found.unsteered)]
    lines += [(f"perfect gate, {cell_spec(cell)}", found.perfect_gate[cell.id]) for cell in cells]
    lines += [(f"perfect actuator, gate from {t:.3f} on", each) for t, each in found.perfect_actuator.items()]
    lines += [
        (f"perfect actuator, best threshold in hindsight for {share:.0%}", each)
        for share, each in found.best_threshold.items()
    ]
    return markdown_table(
        ["what", "abstention_recall", "over_abstention", "accuracy"],
        [
            [what, *map(format_estimate, (each.recall, each.over_abstention, each.accuracy))]
            for what, each in lines
        ],
    )


def kinds_table(measured: Measured, kind_of: Callable[[str], str], threshold: float) -> str:
    """Return how the gate reads each kind of question; `kind_of` says that of an item's id."""
    kinds = [kind_of(item) for item in measured.outcomes.items]
    lines = [
        [
            kind,
            each.items,
            format_estimate(each.auroc),
            *(MISSING if share is None else f"{share:.2f}" for share in each.opens),
        ]
        for kind, each in by_kind(measured.outcomes, kinds, threshold).items()
    ]
    return markdown_table(["kind", "questions", "AUROC", "opens: should abstain", "opens: others"], lines)


def ungated(measured: Measured, vector: str) -> list[Cell]:
    """Return the cells of a vector alone that have no gate."""
    return [
        cell
        for cell in measured.cells
        if cell.role == "steered"
        and gate_of(cell) is None
        and [each.label for each in cell.interventions] == [vector]
    ]


def cell_spec(cell: Cell) -> str:
    """Return a cell as a table shows it: numbers to three digits, and without the scope `completion`, the usual one."""
    text = "; ".join(map(str, cell.interventions)).replace(",scope=completion", "")
    return f"`{LONG_NUMBER.sub(lambda found: f'{float(found[0]):.3f}', text)}`" if text else "unsteered"
