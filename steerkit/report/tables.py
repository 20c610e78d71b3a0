"""The trade-off as text: which numbers are shown, how they are written, and the table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from steerkit.sweep.statistics import Estimate
from steerkit.sweep.summary import Row

ABSTENTION_COLUMNS = ("abstention_recall", "over_abstention", "accuracy")
BREVITY_COLUMNS = ("accuracy", "tokens")
SIDE_EFFECT_COLUMNS = ("tokens", "thinking_tokens", "truncated", "degenerate")
HEADERS = {
    "abstention_recall": "abst. recall",
    "over_abstention": "over-abst.",
    "accuracy": "accuracy",
    "tokens": "tokens",
    "thinking_tokens": "think",
    "truncated": "cut",
    "degenerate": "degen.",
}
COUNTED = ("tokens", "thinking_tokens")
MISSING = "–"
TABLE_WIDTH, NAME_WIDTH = 100, 10


def asks_for_abstention(rows: Sequence[Row]) -> bool:
    """Whether the suite holds items that should be abstained from."""
    return any("abstention_recall" in row.levels for row in rows)


def main_metrics(rows: Sequence[Row]) -> tuple[str, ...]:
    """The metrics that the suite is about: shown with intervals."""
    wanted = ABSTENTION_COLUMNS if asks_for_abstention(rows) else BREVITY_COLUMNS
    return tuple(name for name in wanted if any(name in row.levels for row in rows))


def side_effects(rows: Sequence[Row]) -> tuple[str, ...]:
    """The metrics that show what a steering costs besides: plain numbers, thinking only if there is any."""
    thinks = any(row.levels["thinking_tokens"].value > 0 for row in rows if "thinking_tokens" in row.levels)
    shown = [name for name in SIDE_EFFECT_COLUMNS if name != "thinking_tokens" or thinks]
    return tuple(name for name in shown if name not in main_metrics(rows))


def format_value(metric: str, value: float) -> str:
    """Shares with two decimals, token counts with one."""
    return f"{value:.1f}" if metric in COUNTED else f"{value:.2f}"


def format_level(metric: str, estimate: Estimate | None) -> str:
    """The value alone, such as `0.73`."""
    return MISSING if estimate is None else format_value(metric, estimate.value)


def format_estimate(metric: str, estimate: Estimate | None) -> str:
    """Such as `0.73 [0.61, 0.84]`."""
    if estimate is None:
        return MISSING
    value, low, high = (
        format_value(metric, number) for number in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low}, {high}]"


def format_change(metric: str, estimate: Estimate | None) -> str:
    """Such as `+0.33 [+0.21, +0.45]`."""
    if estimate is None:
        return MISSING
    decimals = 1 if metric in COUNTED else 2
    return f"{estimate.value:+.{decimals}f} [{estimate.low:+.{decimals}f}, {estimate.high:+.{decimals}f}]"


def cell_name(row: Row) -> str:
    """What a reader calls the cell: its role, its vector, or its steering where it has no single layer."""
    if row.role in ("unsteered", "random"):
        return row.role
    return row.steering if row.vector is None or row.layer is None else row.vector


def cell_layer(row: Row) -> str:
    """The layer, or a dash where there is none or more than one."""
    return MISSING if row.layer is None else str(row.layer)


def cell_strength(row: Row) -> str:
    """The strength as short as it can be written, or a dash for a composition."""
    return MISSING if row.strength is None else f"{row.strength:g}"


def scopes(rows: Sequence[Row]) -> list[str]:
    """The scopes in the rows, in alphabetical order."""
    return sorted({row.scope for row in rows if row.scope is not None})


def trade_off_table(rows: Sequence[Row], title: str | None = None) -> Table:
    """The rows of a summary as a table for 100 columns: a long vector name is cut, a number never is.

    95% intervals stand in brackets; `random` is the random direction for the cell above it. Where a run has
    several scopes, their column takes the place of the side effects.
    """
    several_scopes = len(scopes(rows)) > 1
    intervals, plain = main_metrics(rows), () if several_scopes else side_effects(rows)
    headers = [*(["scope"] if several_scopes else []), "layer", "str."]
    headers += [HEADERS[metric] for metric in (*intervals, *plain)]
    lines = [
        [
            *([row.scope or MISSING] if several_scopes else []),
            cell_layer(row),
            cell_strength(row),
            *(format_estimate(metric, row.levels.get(metric)) for metric in intervals),
            *(format_level(metric, row.levels.get(metric)) for metric in plain),
        ]
        for row in rows
    ]
    table = Table(title=title, box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    widths = [max(map(len, column)) for column in zip(headers, *lines, strict=True)]
    room = TABLE_WIDTH - sum(width + 1 for width in widths)
    table.add_column("vector", overflow="ellipsis", no_wrap=True, max_width=max(NAME_WIDTH, room))
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    for row, line in zip(rows, lines, strict=True):
        name = Text("  random" if row.role == "random" else cell_name(row))
        table.add_row(name, *line, style={"unsteered": "bold", "random": "dim"}.get(row.role))
    return table
