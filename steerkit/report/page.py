"""The report: one self-contained HTML page about one run directory, made from that directory alone."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from pathlib import Path

import jinja2

from steerkit.analysis.choosing import read_choice
from steerkit.analysis.frontier import actuator_frontiers
from steerkit.analysis.judging import judged_rows
from steerkit.analysis.outcomes import METRICS
from steerkit.analysis.risk_coverage import RiskCoverage, risk_coverage
from steerkit.analysis.summary import Row, summarise, write_summary
from steerkit.core.errors import SteerkitError
from steerkit.core.files import replacing
from steerkit.report import tables
from steerkit.report.caveats import caveats
from steerkit.report.examples import RULE, pick_examples
from steerkit.report.plots import write_plots
from steerkit.report.questions import frontier, highlighted_cells, questions
from steerkit.runs.directory import REMEDY, RunDirectory
from steerkit.runs.protocol import Protocol

REPORT_FILE, SUMMARY_FILE, PLOTS_FOLDER = "report.html", "summary.csv", "plots"
SINGLED_OUT = ("best cell", "chosen cell")


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
    selective = risk_coverage(run.records())
    plots = write_plots(rows, run.path / PLOTS_FOLDER, plot_subject(rows, run.protocol), selective)
    page = render_page(run, rows, plots, selective)
    with replacing(run.path / REPORT_FILE, "the report", REMEDY) as scratch:
        scratch.write_text(page, encoding="utf-8")
    return run.path / REPORT_FILE


def render_page(
    run: RunDirectory, rows: Sequence[Row], plots: Sequence[Path], selective: RiskCoverage | None = None
) -> str:
    """The whole page as HTML; texts from models and suites are escaped by the template engine."""
    asked = questions(rows)
    choice = read_choice(run.path)
    chosen = choice.cell if choice is not None else None
    shown = {
        question.name: highlighted_cells(rows, question, run.protocol.split, chosen) for question in asked
    }
    cells = {name: [row.cell for _, row in highlighted] for name, highlighted in shown.items()}
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("steerkit.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return templates.get_template("report.html.j2").render(
        run_name=run.path.resolve().name,
        protocol=run.protocol,
        environments=run.environments,
        n_items=max(row.n_items for row in rows),
        rows=rows,
        questions=asked,
        shown=shown,
        choice=choice,
        best={row.cell for cards in shown.values() for label, row in cards if label in SINGLED_OUT},
        frontier={row.cell for question in asked for row in frontier(rows, question)},
        actuators=actuator_frontiers(rows, "abstention_recall", "over_abstention"),
        selective=selective,
        judged=judged_rows(run),
        by_cell={row.cell: row for row in rows},
        examples={name: pick_examples(run.records(), cells[name]) for name in cells},
        example_rule=RULE,
        plots=[(plot.stem.replace("-", ", "), _data_uri(plot)) for plot in plots],
        caveats=caveats(rows, run.protocol),
        labels={name: metric.label for name, metric in METRICS.items()},
        metrics=METRICS,
        tables=tables,
    )


def plot_subject(rows: Sequence[Row], protocol: Protocol) -> str:
    """What a plot's title says of the items."""
    return f"{protocol.suite}, n = {max(row.n_items for row in rows)} items, split {protocol.split}"


def _data_uri(image: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(image.read_bytes()).decode()
