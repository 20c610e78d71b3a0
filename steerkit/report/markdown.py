"""Numbers of a run as Markdown, for a study's page or a vector's card: levels, changes, and tables of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from steerkit.analysis.summary import Row
from steerkit.report.tables import MISSING, format_change, format_estimate, format_value
from steerkit.scoring.metrics import metrics


def markdown_table(headings: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Return a table with a column a heading; what stands in its lines is written as text, `|` escaped."""
    rows = [headings, ["---"] * len(headings), *lines]
    return "\n".join(
        f"| {' | '.join(str(each).replace('|', chr(92) + '|') for each in row)} |" for row in rows
    )


def level(row: Row, metric: str) -> str:
    """Return a metric with its 95% interval, such as `0.44 [0.36, 0.52]`; a dash where it was not measured."""
    return format_estimate(row.levels.get(metric), metrics()[metric].unit)


def change(row: Row, metric: str) -> str:
    """Return a metric with its change from the unsteered model, such as `0.44 (+0.40 [+0.32, +0.48])`.

    Of the unsteered model itself it is the level.
    """
    unit = metrics()[metric].unit
    if row.role == "unsteered" or metric not in row.changes:
        return level(row, metric)
    return f"{format_value(row.levels[metric].value, unit)} ({format_change(row.changes[metric], unit)})"


def across(rows: Sequence[Row], metric: str) -> str:
    """Return the mean of a metric over some cells and the smallest and largest of it, such as `0.04 (0.02 to 0.05)`."""
    unit = metrics()[metric].unit
    values = [row.levels[metric].value for row in rows if metric in row.levels]
    if not values:
        return MISSING
    mean, least, most = (format_value(value, unit) for value in (fmean(values), min(values), max(values)))
    return f"{mean} ({least} to {most})" if len(values) > 1 else mean
