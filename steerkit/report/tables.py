"""The trade-off as text: which numbers are shown, how they are written, and the table for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from steerkit.analysis.judging import Judged
from steerkit.analysis.summary import Row, measured_metrics
from steerkit.core.bootstrap import Estimate
from steerkit.core.characters import visible
from steerkit.scoring.judge import OPINIONS
from steerkit.scoring.metrics import Metric, metrics

MISSING = "–"
TABLE_WIDTH, NAME_WIDTH, JUDGED_NAME_WIDTH, MOST_INTERVALS, SHORTEST_ID = 100, 10, 40, 3, 4

Column = tuple[str, Callable[[Row], str]]  # its header, and what stands there


def main_metrics(rows: Sequence[Row]) -> list[Metric]:
    """Return the main metrics that were measured: shown with intervals where there is room."""
    return _shown(rows, "main")


def side_effects(rows: Sequence[Row]) -> list[Metric]:
    """Return what a steering costs besides, shown as plain numbers; tokens only where there are any."""
    return [
        metric
        for metric in _shown(rows, "side")
        if metric.unit != "tokens"
        or any(row.levels[metric.name].value > 0 for row in rows if metric.name in row.levels)
    ]


def _shown(rows: Sequence[Row], how: str) -> list[Metric]:
    known = metrics()
    return [known[name] for name in measured_metrics(rows) if known[name].show == how]


def format_value(value: float, unit: str = "share") -> str:
    """Write a number: shares with two decimals, tokens with one."""
    return f"{value:.{1 if unit == 'tokens' else 2}f}"


def format_level(estimate: Estimate | None, unit: str = "share") -> str:
    """Write the value alone, such as `0.73`."""
    return MISSING if estimate is None else format_value(estimate.value, unit)


def format_estimate(estimate: Estimate | None, unit: str = "share") -> str:
    """Write an estimate with its interval, such as `0.73 [0.61, 0.84]`."""
    if estimate is None:
        return MISSING
    value, low, high = (format_value(part, unit) for part in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def format_change(estimate: Estimate | None, unit: str = "share") -> str:
    """Write a change with its sign, such as `+0.33 [+0.21, +0.45]`."""
    if estimate is None:
        return MISSING
    decimals = 1 if unit == "tokens" else 2
    return f"{estimate.value:+.{decimals}f} [{estimate.low:+.{decimals}f}, {estimate.high:+.{decimals}f}]"


def format_rate(rate: float | None) -> str:
    """Write a share or a kappa with two decimals, a dash where it is undefined."""
    return MISSING if rate is None else f"{rate:.2f}"


def cell_name(row: Row) -> str:
    """Return what a reader calls the cell: what acts there, and what gates it from which threshold on."""
    gates = row.at.gates if row.role != "random" else []
    return row.at.name + (f", gated by {' and '.join(map(str, gates))}" if gates else "")


def cell_layer(row: Row) -> str:
    """Return the layer, or a dash where there is none or more than one."""
    return MISSING if row.at.layer is None else str(row.at.layer)


def cell_strength(row: Row) -> str:
    """Return the strength as short as it can be written, or a dash where there is not one."""
    return MISSING if row.at.strength is None else f"{row.at.strength:g}"


def cell_columns(rows: Sequence[Row]) -> list[Column]:
    """Return the columns that tell cells apart beside their names: what differs among the rows, layer and strength."""
    width = id_width(rows)
    columns: list[Column] = [("id", lambda row: row.cell[:width])]
    if len(scopes(rows)) > 1:
        columns.append(("scope", lambda row: row.at.scope or MISSING))
    if any(map(_timing, rows)):
        columns.append(("when", lambda row: _timing(row) or MISSING))
    if any(map(_thresholds, rows)):
        columns.append(("gate", lambda row: _thresholds(row) or MISSING))
    return [*columns, ("layer", cell_layer), ("str.", cell_strength)]


def id_width(rows: Sequence[Row]) -> int:
    """Return how many digits tell the cells' ids apart, four at least."""
    widths = range(SHORTEST_ID, max((len(row.cell) for row in rows), default=SHORTEST_ID))
    return next((n for n in widths if len({row.cell[:n] for row in rows}) == len(rows)), widths.stop)


def scopes(rows: Sequence[Row]) -> list[str]:
    """Return the scopes in the rows, in alphabetical order."""
    return sorted({row.at.scope for row in rows if row.at.scope is not None})


def _timing(row: Row) -> str:
    """When the steering acts, if not everywhere alike: its half-life in tokens, its positions, or both."""
    fading = [] if row.at.half_life is None else [f"½ {row.at.half_life:g}"]
    narrowed = [row.at.positions] if row.at.positions and row.at.positions != "every" else []
    return " ".join([*fading, *narrowed])


def _thresholds(row: Row) -> str:
    return " ".join(f"{gate.threshold:.3g}" for gate in row.at.gates)


def room_for_names(rows: Sequence[Row], at_least: int) -> int:
    """Return how wide the column of names has to be for none to be cut."""
    return max([at_least, *(cell_len(_name(row)) for row in rows)])


def trade_off_table(rows: Sequence[Row], *, width: int = TABLE_WIDTH) -> Table:
    """Return the rows of a summary as a table of this width, in columns of text: a long name is cut, a number never is.

    95% intervals stand in brackets, for three metrics at most; `random` is the random direction for the cell
    above it. A cell's `id` is what goes behind `--steer RUN#`. What else was measured stands as plain numbers, as far
    as there is room.
    """
    shown = main_metrics(rows)
    columns = cell_columns(rows) + [_interval(metric) for metric in shown[:MOST_INTERVALS]]
    room = width - sum(_width(column, rows) for column in columns)
    for column in map(_level, [*shown[MOST_INTERVALS:], *side_effects(rows)]):
        if room - _width(column, rows) < NAME_WIDTH:
            break
        room -= _width(column, rows)
        columns.append(column)
    return _table(rows, columns, max(NAME_WIDTH, room), {"unsteered": "bold", "random": "dim"})


def judged_title(judged: Judged) -> str:
    """Return what stands above the table of two opinions."""
    known = metrics()
    labels = " and ".join(known[rules].label for rules, _ in OPINIONS)
    return f"{labels}, by the phrase rules and by {judged.model} ({judged.agreement.n} completions)"


def judged_table(judged: Judged, rows: Sequence[Row], width: int = JUDGED_NAME_WIDTH) -> Table:
    """Return the phrase rules' verdicts beside the judge's: each cell, its name cut to `width`, then all of them.

    It stands in 100 columns by default.
    """
    known = metrics()
    columns = cell_columns(rows)
    for rules, judge in OPINIONS:
        columns += [("rules", _level(known[rules])[1]), ("judge", _level(known[judge])[1])]
    columns.append(("agree", lambda row: format_rate(judged.cells[row.cell].raw)))
    columns.append(("kappa", lambda row: format_rate(judged.cells[row.cell].kappa)))
    table = _table(rows, columns, width, {})
    rates = (format_rate(judged.agreement.raw), format_rate(judged.agreement.kappa))
    table.add_row(Text("all cells", style="bold"), *[""] * (len(columns) - 2), *rates)
    return table


def _interval(metric: Metric) -> Column:
    return metric.header, lambda row: format_estimate(row.levels.get(metric.name), metric.unit)


def _level(metric: Metric) -> Column:
    return metric.header, lambda row: format_level(row.levels.get(metric.name), metric.unit)


def _width(column: Column, rows: Sequence[Row]) -> int:
    header, text = column
    return 1 + max(len(header), *(len(text(row)) for row in rows))


def _table(rows: Sequence[Row], columns: Sequence[Column], width: int, styles: Mapping[str, str]) -> Table:
    """A line a row, the columns behind its name, which is cut to `width`; `styles` are by role."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("cell", overflow="ellipsis", no_wrap=True, max_width=width)
    for header, _ in columns:
        table.add_column(Text(header), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(Text(_name(row)), *(Text(text(row)) for _, text in columns), style=styles.get(row.role))
    return table


def _name(row: Row) -> str:
    return "  random" if row.role == "random" else visible(row.at.name, keep="")
