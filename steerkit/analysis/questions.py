"""The questions that a run answers, such as whether to answer and how long to think, and the best cell for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from steerkit.analysis.choosing import choose_cell, parse_rule
from steerkit.analysis.summary import Row
from steerkit.scoring import metrics
from steerkit.scoring.metrics import Question


def questions(rows: Sequence[Row], scorers: Iterable[str] | None = None) -> list[Question]:
    """Return the questions of these scorers, or of all, that the rows' measurements answer."""
    asked = metrics.questions(scorers)
    return [each for each in asked if any({each.x, each.y} <= row.levels.keys() for row in rows)]


def best_cell(rows: Sequence[Row], question: Question) -> Row | None:
    """Return the best cell by the question's rule, of those that are better than unsteered by their whole interval."""
    improved = [row for row in rows if _improves(row, question.objective)]
    return choose_cell(improved, question.objective, question.bounds)


def _improves(row: Row, objective: str) -> bool:
    metric = parse_rule(objective).objective.metric
    if metric.name not in row.changes:
        return False
    change = row.changes[metric.name]
    return change.low > 0 if metric.better == "higher" else change.high < 0
