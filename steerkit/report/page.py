"""The report: one self-contained HTML page about one run directory, made from that directory alone."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from steerkit.analysis.choosing import read_choice
from steerkit.analysis.frontier import actuator_frontiers, pareto_frontier
from steerkit.analysis.questions import best_cell
from steerkit.analysis.risk_coverage import RiskCoverage
from steerkit.analysis.run import Run
from steerkit.analysis.summary import Row, write_summary
from steerkit.core.characters import visible
from steerkit.core.errors import SteerkitError
from steerkit.core.files import replacing
from steerkit.reading.html import STYLE
from steerkit.report import tables
from steerkit.report.caveats import caveats
from steerkit.report.examples import RULE, pick_examples
from steerkit.report.plots import write_plots
from steerkit.report.readings import COLUMNS, ColouredTokens, read_lines
from steerkit.runs.directory import REMEDY
from steerkit.runs.references import cell_reference
from steerkit.scoring.judge import OPINIONS
from steerkit.scoring.metrics import Question, metrics

REPORT_FILE, SUMMARY_FILE, PLOTS_FOLDER = "report.html", "summary.csv", "plots"
SINGLED_OUT = ("best cell", "chosen cell")
MOST_SIDE_BY_SIDE = 6
ROLE_LABELS = {"random": "random, same norm"}


def write_report(run: Run) -> Path:
    """Write `summary.csv`, `plots/*.png` and `report.html` into the run's directory and return the page's path.

    Raises InputError where the run is damaged, SteerkitError where it has no records yet or cannot be written.
    """
    rows = run.summary()
    if not rows:
        raise SteerkitError(f"{run.path} has no records yet: let the sweep make some, then report again")
    write_summary(rows, run.path / SUMMARY_FILE)
    selective = run.risk_coverage()
    plots = write_plots(rows, run.questions, run.path / PLOTS_FOLDER, plot_subject(run), selective)
    page = render_page(run, plots, selective)
    with replacing(run.path / REPORT_FILE, "the report", REMEDY) as scratch:
        scratch.write_text(page, encoding="utf-8")
    return run.path / REPORT_FILE


def render_page(run: Run, plots: Sequence[Path], selective: RiskCoverage | None = None) -> str:
    """Return the whole page as HTML; texts from models and suites are escaped by the template engine."""
    rows, questions = run.summary(), run.questions
    choice = read_choice(run.path)
    chosen = choice.cell if choice is not None else None
    shown = {each.name: highlighted_cells(rows, each, run.protocol.split, chosen) for each in questions}
    cells = {name: [row.cell for _, row in highlighted] for name, highlighted in shown.items()}
    records = list(run.records({cell for ids in cells.values() for cell in ids}))
    traded = questions[0] if questions else None
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            run_name=run.path.resolve().name,
            steer=lambda row: shlex.join(["--steer", cell_reference(run.path, row.cell)]),
            protocol=run.protocol,
            environments=run.directory.environments,
            tensors=dict.fromkeys(part for row in rows for part in row.at.tensors),
            n_items=max(row.n_items for row in rows),
            rows=rows,
            columns=tables.cell_columns(rows),
            questions=questions,
            shown=shown,
            choice=choice,
            best={row.cell for cards in shown.values() for label, row in cards if label in SINGLED_OUT},
            frontier={
                row.cell for question in questions for row in pareto_frontier(rows, question.y, question.x)
            },
            traded=traded,
            actuators=actuator_frontiers(rows, traded.y, traded.x) if traded else {},
            selective=selective,
            judged=run.judged(),
            opinions=OPINIONS,
            by_cell={row.cell: row for row in rows},
            examples={
                name: pick_examples(records, cells[name], markers=run.protocol.markers) for name in cells
            },
            example_rule=RULE,
            read_columns=COLUMNS,
            read_lines=read_lines(run),
            coloured=ColouredTokens(run.protocol.readers, run.protocol.reading, records),
            reading_style=Markup(STYLE),  # our own
            plots=[(plot.stem.replace("-", ", "), _data_uri(plot)) for plot in plots],
            caveats=caveats(rows, run.protocol),
            metrics=metrics(),
            tables=tables,
        )
    )


def environment() -> jinja2.Environment:
    """Return the template engine, in which each text is data.

    What acts on a reader's screen is shown as an escape, and HTML's own characters are escaped. The filter `bdi` sets
    a text apart from the direction of what stands beside it.
    """
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("steerkit.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_seen,
    )
    made.filters["bdi"] = lambda text: Markup("<bdi>{}</bdi>").format(_seen(text))
    return made


def _seen(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def highlighted_cells(
    rows: Sequence[Row], question: Question, split: str, chosen: str | None = None
) -> list[tuple[str, Row]]:
    """Return (label, row) of the cells to set side by side.

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
    controls = (row for row in rows if row.role == "random" and best and row.at.place == best.at.place)
    labelled = (("unsteered", unsteered), ("best cell", best), (ROLE_LABELS["random"], next(controls, None)))
    return [(label, row) for label, row in labelled if row is not None]


def plot_subject(run: Run) -> str:
    """Return what a plot's title says of the items."""
    most = max(row.n_items for row in run.summary())
    return f"{run.protocol.suite}, n = {most} items, split {run.protocol.split}"


def _data_uri(image: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(image.read_bytes()).decode()
