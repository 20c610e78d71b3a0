"""What the study of readings under steering reads, and how its tables say it, without the model."""

from __future__ import annotations

from experiments.reading_under_steering.run import cells, named, table
from steerkit.analysis.reliability import read_cells
from steerkit.interventions.vector import load_vector
from steerkit.runs.cells import Cell, RunCell
from tests.reading.test_reliability import made


def test_each_cell_is_another_and_has_a_line() -> None:
    asked = cells(load_vector("abstain-smollm2-135m-instruct"))
    assert len({cell.id for cell in asked}) == len(asked) == 9
    records = [made(cell, i, float(i % 2 == 0)) for cell in asked for i in range(8)]
    rows = read_cells(records, {cell.id: RunCell.of(cell) for cell in asked}, 1)
    assert named(rows[0]) == "unsteered"
    assert len({named(row) for row in rows}) == len(asked)
    lines = list(table(rows, probability=True))
    assert len(lines) == 2 + len(asked)
    assert lines[2] == "| unsteered | 1.00 [1.00, 1.00] |  | 1.00 | 0.00 |  |"
    assert {line.count("|") for line in lines} == {7}
    assert Cell().id == rows[0].at.id
