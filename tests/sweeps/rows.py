"""Rows of a summary with estimates that have no width."""

from __future__ import annotations

from steerkit.analysis.summary import Row
from steerkit.core.bootstrap import Estimate


def row(cell: str, role: str = "steered", changes: dict | None = None, **levels: float) -> Row:
    """A cell of that name by its metrics, and by their changes from the unsteered model."""

    def estimates(values):
        return {name: Estimate(value, value, value, 10) for name, value in values.items()}

    where = (cell, role, None, cell, None, cell, 1, 1.0, "completion", "add", 10)
    return Row(*where, levels=estimates(levels), changes=estimates(changes or {}))
