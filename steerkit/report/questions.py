"""The questions that a run may answer, such as whether to answer and how long to think, and the best cells."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit.analysis.choosing import choose_cell
from steerkit.analysis.frontier import pareto_frontier
from steerkit.analysis.outcomes import METRICS
from steerkit.analysis.summary import Row
from steerkit.scoring import metrics
from steerkit.scoring.metrics import Question

MOST_SIDE_BY_SIDE = 6
ROLE_LABELS = {"random": "random, same norm"}


def questions(rows: Sequence[Row]) -> list[Question]:
    """Those that the run's measurements can answer."""
    return [question for question in metrics.questions() if any(_answers(row, question) for row in rows)]


def frontier(rows: Sequence[Row], question: Question) -> list[Row]:
    """The cells that no other one beats in the question's trade-off."""
    return pareto_frontier(rows, question.y, question.x)


def best_cell(rows: Sequence[Row], question: Question) -> Row | None:
    """The best cell by the question's rule whose change for the better has an interval that excludes none."""
    return choose_cell(
        [row for row in rows if _improves(row, question.objective)], question.objective, question.bounds
    )


def highlighted_cells(
    rows: Sequence[Row], question: Question, split: str, chosen: str | None = None
) -> list[tuple[str, Row]]:
    """(label, row) of the cells to set side by side.

    On `report` nothing is chosen: all the cells of the run, the one that was `chosen` (its id) on another split
    marked, or the unsteered one alone where there are more than can stand side by side. On other splits the
    unsteered cell, the best one, and its random control, as far as they are there.
    """
    unsteered = next((row for row in rows if row.role == "unsteered"), None)
    if split == "report":
        if len(rows) > MOST_SIDE_BY_SIDE:
            return [] if unsteered is None else [("unsteered", unsteered)]
        return [
            ("chosen cell" if row.cell == chosen else ROLE_LABELS.get(row.role, row.role), row)
            for row in rows
        ]
    best = best_cell(rows, question)
    control = next((row for row in rows if row.role == "random" and best and row.place == best.place), None)
    labelled = (("unsteered", unsteered), ("best cell", best), (ROLE_LABELS["random"], control))
    return [(label, row) for label, row in labelled if row is not None]


def _answers(row: Row, question: Question) -> bool:
    return {question.x, question.y} <= row.levels.keys()


def _improves(row: Row, metric: str) -> bool:
    if metric not in row.changes:
        return False
    return row.changes[metric].low > 0 if METRICS[metric].better == "higher" else row.changes[metric].high < 0
