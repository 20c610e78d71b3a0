"""The report: one self-contained HTML page about one run directory, made from that directory alone."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from pathlib import Path

import jinja2

from steerkit.errors import SteerkitError
from steerkit.report import tables
from steerkit.report.examples import RULE, pick_examples
from steerkit.report.plots import write_plots
from steerkit.sweep.frontier import choose_cell, pareto_frontier
from steerkit.sweep.protocol import Protocol
from steerkit.sweep.statistics import METRICS
from steerkit.sweep.store import RunDirectory
from steerkit.sweep.summary import Row, summarise, write_summary

REPORT_FILE, SUMMARY_FILE, PLOTS_FOLDER = "report.html", "summary.csv", "plots"
ABSTENTION_BOUNDS = {
    "abstention_recall_decrease": 0.0,
    "over_abstention_increase": 0.2,
    "degenerate_increase": 0.1,
}
BREVITY_BOUNDS = {"tokens_increase": 0.0, "accuracy_decrease": 0.05, "degenerate_increase": 0.1}
NOTABLE_RATE = 0.1
ALT_TEXTS = {
    "heatmap": "Heat maps of the main metrics over layers and strengths",
    "abstention": "Abstention recall against over-abstention, with the frontier",
    "length": "Accuracy against mean tokens, with the frontier",
}
SPLIT_NOTES = {
    "fit": "The items are of the split fit: vectors may have been extracted from or calibrated on them.",
    "choose": "The items are of the split choose: pick a cell here, then measure it once on report.",
    "report": "The items are of the split report: a cell shown as a result was to be picked on choose.",
}


def write_report(path: str | os.PathLike[str]) -> Path:
    """Write `summary.csv`, `plots/*.png` and `report.html` into the run directory; the page's path.

    Raises MisuseError where there is no run, InputError where it is damaged, SteerkitError where it has no
    records yet or cannot be written.
    """
    run = RunDirectory(path)
    rows = summarise(run.records())
    if not rows:
        raise SteerkitError(f"{run.path} has no records yet: let the sweep make some, then report again")
    write_summary(rows, run.path / SUMMARY_FILE)
    plots = write_plots(rows, run.path / PLOTS_FOLDER, plot_subject(rows, run.protocol))
    page = render_page(run, rows, plots)
    scratch = run.path / f"{REPORT_FILE}.tmp"
    try:
        scratch.write_text(page, encoding="utf-8")
        scratch.replace(run.path / REPORT_FILE)
    except OSError as error:
        reason = f"{error.strerror}; free space or mend the permissions"
        raise SteerkitError(f"cannot write the report to {run.path}: {reason}") from error
    return run.path / REPORT_FILE


def render_page(run: RunDirectory, rows: Sequence[Row], plots: Sequence[Path]) -> str:
    """The whole page as HTML; texts from models and suites are escaped by the template engine."""
    shown = highlighted_cells(rows)
    loader = jinja2.PackageLoader("steerkit.report")
    templates = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    templates.undefined = jinja2.StrictUndefined
    metrics = tables.main_metrics(rows)
    frontier = {row.cell for row in pareto_frontier(rows, *_frontier_axes(rows))}
    return templates.get_template("report.html.j2").render(
        run_name=run.path.resolve().name,
        protocol=run.protocol,
        environments=run.environments,
        rows=rows,
        shown=shown,
        best=best_cell(rows),
        best_rule=best_rule(rows),
        metrics=metrics,
        side_effects=tables.side_effects(rows),
        labels={name: metric.label for name, metric in METRICS.items()},
        several_scopes=len(tables.scopes(rows)) > 1,
        frontier=frontier,
        frontier_axes=_frontier_axes(rows),
        plots=[(ALT_TEXTS[plot.stem], _data_uri(plot)) for plot in plots],
        examples=pick_examples(run.records(), [row.cell for _, row in shown]) if len(shown) > 1 else [],
        example_rule=RULE,
        caveats=caveats(rows, run.protocol),
        items=max(row.n_items for row in rows),
        tables=tables,
    )


def plot_subject(rows: Sequence[Row], protocol: Protocol) -> str:
    """What a plot's title says of the items."""
    return f"{protocol.suite}, n = {max(row.n_items for row in rows)} items, split {protocol.split}"


def highlighted_cells(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    """(label, row) of the unsteered cell, the best one, and its random control, as far as they are there."""
    unsteered = next((row for row in rows if row.role == "unsteered"), None)
    best = best_cell(rows)
    control = next((row for row in rows if row.role == "random" and best and row.place == best.place), None)
    labelled = (("unsteered", unsteered), ("best cell", best), ("random, same norm", control))
    return [(label, row) for label, row in labelled if row is not None]


def best_cell(rows: Sequence[Row]) -> Row | None:
    """The cell that the page puts first, as `best_rule` words it; None where no cell keeps to the bounds."""
    if tables.asks_for_abstention(rows):
        return choose_cell(rows, "abstention_recall", ABSTENTION_BOUNDS)
    return choose_cell(rows, "tokens", BREVITY_BOUNDS)


def best_rule(rows: Sequence[Row]) -> str:
    """How the best cell was picked, in words."""
    if tables.asks_for_abstention(rows):
        return (
            "highest abstention recall, not below the unsteered model's, with over-abstention at most 0.20 and "
            "degeneration at most 0.10 above it"
        )
    return (
        "fewest tokens, not more than the unsteered model's, with accuracy at most 0.05 below and degeneration "
        "at most 0.10 above it"
    )


def caveats(rows: Sequence[Row], protocol: Protocol) -> list[str]:
    """What a reader must know before quoting a number from this run."""
    steered = [row for row in rows if row.role == "steered"]
    controls = sum(1 for row in rows if row.role == "random")
    notes = [
        f"{len(steered)} steered cells were compared, beside {controls} random controls. The best of "
        "many cells looks better than it is, and the intervals are not corrected for that.",
        SPLIT_NOTES.get(protocol.split, f"The items are of the split {protocol.split}."),
        "Intervals are 95% percentile intervals of a paired bootstrap over items, twins resampled together. "
        "They speak for other questions of this kind, not for other suites, prompts or models. One without "
        "width says that no item differed, which is not certainty.",
    ]
    cut = [(row.levels["truncated"].value, row) for row in rows if "truncated" in row.levels]
    if cut and max(cut, key=lambda entry: entry[0])[0] > NOTABLE_RATE:
        share, worst = max(cut, key=lambda entry: entry[0])
        notes.append(
            f"Up to {share:.0%} of a cell's completions ({_full_name(worst)}) were cut off at "
            f"{protocol.decoding.max_new_tokens} tokens: their lengths are lower bounds, and what they "
            "would have said later was not scored."
        )
    bad = [
        row for row in rows if "degenerate" in row.levels and row.levels["degenerate"].value > NOTABLE_RATE
    ]
    if bad:
        notes.append(
            f"In {len(bad)} of {len(rows)} cells more than {NOTABLE_RATE:.0%} of the completions degenerated "
            "(repeated themselves): an abstention there may be mere breakage."
        )
    sizes = [row.n_items for row in rows]
    if min(sizes) < max(sizes):
        notes.append(
            f"Cells hold between {min(sizes)} and {max(sizes)} items: the run is not complete, or was "
            "extended. Levels of different cells are then over different items; changes are over common ones."
        )
    if protocol.decoding.temperature == 0:
        notes.append("Decoding was greedy: the intervals hold no variation from sampling.")
    return notes


def _frontier_axes(rows: Sequence[Row]) -> tuple[str, str]:
    return (
        ("abstention_recall", "over_abstention")
        if tables.asks_for_abstention(rows)
        else ("accuracy", "tokens")
    )


def _full_name(row: Row) -> str:
    name = f"random for {row.controls}" if row.role == "random" else tables.cell_name(row)
    return name if row.layer is None else f"{name}, layer {row.layer}, strength {tables.cell_strength(row)}"


def _data_uri(image: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(image.read_bytes()).decode()
