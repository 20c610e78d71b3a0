"""The trade-off as text: which numbers are shown, how they are written, and the table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from steerkit.analysis.frontier import gates_of, mover, without_gates
from steerkit.analysis.judging import Judged
from steerkit.analysis.outcomes import METRICS
from steerkit.analysis.summary import Row
from steerkit.core.bootstrap import Estimate

JUDGED_METRICS = ("abstention_recall", "over_abstention")
JUDGED_HEADERS = ("recall", "judged", "over-abst.", "judged")
MISSING = "–"
TABLE_WIDTH, NAME_WIDTH, MOST_INTERVALS = 100, 10, 3


def main_metrics(rows: Sequence[Row]) -> list[str]:
    """Those of the metrics in question that were measured: shown with intervals where there is room."""
    return _shown(rows, "main")


def side_effects(rows: Sequence[Row]) -> list[str]:
    """What a steering costs besides, shown as plain numbers; thinking only where there is any."""
    thinks = any(row.levels["thinking_tokens"].value > 0 for row in rows if "thinking_tokens" in row.levels)
    return [name for name in _shown(rows, "side") if name != "thinking_tokens" or thinks]


def _shown(rows: Sequence[Row], how: str) -> list[str]:
    return [
        name
        for name, metric in METRICS.items()
        if metric.show == how and any(name in row.levels for row in rows)
    ]


def _counts_tokens(metric: str) -> bool:
    return metric in METRICS and METRICS[metric].unit == "tokens"


def format_value(metric: str, value: float) -> str:
    """Shares with two decimals, token counts with one."""
    return f"{value:.1f}" if _counts_tokens(metric) else f"{value:.2f}"


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
    decimals = 1 if _counts_tokens(metric) else 2
    return f"{estimate.value:+.{decimals}f} [{estimate.low:+.{decimals}f}, {estimate.high:+.{decimals}f}]"


def cell_name(row: Row) -> str:
    """What a reader calls the cell: `ungated_name`, and what gates it from which threshold on."""
    gates = dict.fromkeys(f"{name.strip()} ≥ {format_threshold(at)}" for name, at in gates_of(row))
    gated = f", gated by {' and '.join(gates)}" if gates and row.role != "random" else ""
    return ungated_name(row) + gated


def ungated_name(row: Row) -> str:
    """The cell's role, what moves the model there, or its spec where it has no single layer."""
    if row.role in ("unsteered", "random"):
        return row.role
    if row.layer is not None:
        return mover(row)
    return " + ".join(without_gates(spec) for spec in (row.steering, row.decoration) if spec)


def cell_gate(row: Row) -> str:
    """The thresholds of the cell's gates, or a dash."""
    return " ".join(dict.fromkeys(format_threshold(at) for _, at in gates_of(row))) or MISSING


def format_threshold(text: str) -> str:
    """A threshold from a spec string with the digits that tell it from its neighbours."""
    return f"{float(text):.3g}" if text else MISSING


def cell_layer(row: Row) -> str:
    """The layer, or a dash where there is none or more than one."""
    return MISSING if row.layer is None else str(row.layer)


def cell_strength(row: Row) -> str:
    """The strength as short as it can be written, or a dash for a composition."""
    return MISSING if row.strength is None else f"{row.strength:g}"


def cell_timing(row: Row) -> str:
    """When the cell's steering acts, if not everywhere alike: its half-life in tokens, its positions, or both."""
    fading = [] if row.half_life is None else [f"½ {row.half_life:g}"]
    narrowed = [row.positions] if row.positions and row.positions != "every" else []
    return " ".join([*fading, *narrowed]) or MISSING


def scopes(rows: Sequence[Row]) -> list[str]:
    """The scopes in the rows, in alphabetical order."""
    return sorted({row.scope for row in rows if row.scope is not None})


def trade_off_table(rows: Sequence[Row], title: str | None = None) -> Table:
    """The rows of a summary as a table for 100 columns: a long vector name is cut, a number never is.

    95% intervals stand in brackets, for three metrics at most; `random` is the random direction for the cell
    above it. Where a run has several scopes, or steerings that fade or act at the ends of steps or lines only, their
    columns take the place of the side effects; where it has gates, their thresholds have a column.
    """
    several_scopes = len(scopes(rows)) > 1
    timed = any(cell_timing(row) != MISSING for row in rows)
    gated = any(map(gates_of, rows))
    intervals, rest = main_metrics(rows)[:MOST_INTERVALS], main_metrics(rows)[MOST_INTERVALS:]
    plain = rest if several_scopes or timed else [*rest, *side_effects(rows)]
    headers = [*(["scope"] if several_scopes else []), *(["when"] if timed else [])]
    headers += [*(["gate"] if gated else []), "layer", "str."]
    headers += [METRICS[metric].header for metric in (*intervals, *plain)]
    lines = [
        [
            *([row.scope or MISSING] if several_scopes else []),
            *([cell_timing(row)] if timed else []),
            *([cell_gate(row)] if gated else []),
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
        name = Text("  random" if row.role == "random" else ungated_name(row))
        table.add_row(name, *line, style={"unsteered": "bold", "random": "dim"}.get(row.role))
    return table


def judged_table(judged: Judged) -> Table:
    """The phrase rules' verdicts and the judge's, beside each other, for 100 columns: each cell, then all of them."""
    title = f"abstention by the phrase rules and by {judged.model} ({judged.agreement.n} completions)"
    table = Table(title=title, box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("vector", overflow="ellipsis", no_wrap=True, max_width=40)
    for header in ("layer", "str.", *JUDGED_HEADERS, "agree", "kappa"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in judged.rows:
        table.add_row(
            Text("  random" if row.rules.role == "random" else cell_name(row.rules)),
            cell_layer(row.rules),
            cell_strength(row.rules),
            *(
                format_level(metric, opinion.levels.get(metric))
                for metric in JUDGED_METRICS
                for opinion in (row.rules, row.judge)
            ),
            format_rate(row.agreement.raw),
            format_rate(row.agreement.kappa),
        )
    rates = (format_rate(judged.agreement.raw), format_rate(judged.agreement.kappa))
    table.add_row(Text("all cells", style="bold"), *[""] * (2 + len(JUDGED_HEADERS)), *rates)
    return table


def format_rate(rate: float | None) -> str:
    """A share or a kappa with two decimals, a dash where it is undefined."""
    return MISSING if rate is None else f"{rate:.2f}"
