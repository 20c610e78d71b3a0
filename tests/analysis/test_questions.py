from __future__ import annotations

import pytest

from steerkit.analysis.questions import best_cell, questions
from steerkit.analysis.summary import Row
from steerkit.core.bootstrap import Estimate
from steerkit.report.page import highlighted_cells
from steerkit.scoring.abstention import QUESTION as ABSTENTION
from steerkit.scoring.lengths import QUESTION as LENGTH
from tests.sweeps.rows import cell, steering
from tests.sweeps.rows import row as of_levels


def row(role: str, strength: float, tokens: tuple[float, float, float], accuracy: float = 0.0) -> Row:
    """A cell by its change in tokens (value, low, high) and in accuracy."""
    changes = {
        "tokens": Estimate(*tokens, 20),
        "accuracy": Estimate(accuracy, accuracy, accuracy, 20),
        "degenerate": Estimate(0.0, 0.0, 0.0, 20),
    }
    levels = {"tokens": Estimate(50 + tokens[0], 50 + tokens[1], 50 + tokens[2], 20)}
    vector = "random(brief)" if role == "random" else "brief"
    forms = [] if role == "unsteered" else [steering(vector, (3,), strength)]
    at = cell(f"{role}{strength}", *forms, controls="brief" if role == "random" else None)
    return Row(at, 20, levels, changes)


@pytest.mark.parametrize(
    ("levels", "asked"),
    [
        (
            {"abstention_recall": 0.5, "over_abstention": 0.1, "accuracy": 0.5, "tokens": 9},
            [ABSTENTION, LENGTH],
        ),
        ({"accuracy": 0.5, "tokens": 9}, [LENGTH]),
        ({"tokens": 9}, []),
    ],
)
def test_a_run_is_asked_what_it_measured(levels, asked):
    assert questions([of_levels("a", **levels)], ["abstention", "lengths"]) == asked
    assert questions([of_levels("a", **levels)], []) == []


def test_the_best_cell_is_clearly_better_and_within_the_bounds():
    rows = [
        row("unsteered", 0.0, (0, 0, 0)),
        row("steered", 1.0, (-10, -15, -5)),
        row("steered", 2.0, (-20, -30, -10), accuracy=-0.3),
        row("steered", 3.0, (-15, -31, 1)),
        row("random", 1.0, (-40, -50, -30)),
    ]
    assert best_cell(rows, LENGTH) is rows[1]
    labels = {label: cell.cell for label, cell in highlighted_cells(rows, LENGTH, "choose")}
    assert labels == {
        "unsteered": "unsteered0.0",
        "best cell": "steered1.0",
        "random, same norm": "random1.0",
    }


def test_without_a_clear_gain_only_the_unsteered_cell_is_shown():
    rows = [
        row("unsteered", 0.0, (0, 0, 0)),
        row("steered", 1.0, (-1, -3, 1)),
        row("random", 1.0, (0, -1, 1)),
    ]
    assert [label for label, _ in highlighted_cells(rows, LENGTH, "choose")] == ["unsteered"]


def test_on_report_nothing_is_chosen_and_all_cells_are_shown():
    rows = [
        row("unsteered", 0.0, (0, 0, 0)),
        row("steered", -1.0, (10, 5, 15)),
        row("steered", 1.0, (-10, -15, -5)),
        row("random", 1.0, (0, -1, 1)),
    ]
    shown = highlighted_cells(rows, LENGTH, "report")
    assert [label for label, _ in shown] == ["unsteered", "steered", "steered", "random, same norm"]
    assert [cell for _, cell in shown] == rows
    marked = highlighted_cells(rows, LENGTH, "report", chosen="steered1.0")
    assert [label for label, _ in marked] == ["unsteered", "steered", "chosen cell", "random, same norm"]


def test_more_cells_than_stand_side_by_side_are_left_to_the_table():
    rows = [row("unsteered", 0.0, (0, 0, 0)), *(row("steered", float(n), (-9, -10, -8)) for n in range(1, 9))]
    assert [label for label, _ in highlighted_cells(rows, LENGTH, "report")] == ["unsteered"]
