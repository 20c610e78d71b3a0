"""Runs: the trade-off of a run as a chart, a cell's completions beside the unsteered ones, and labels on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from steerkit.core.errors import MisuseError
from steerkit.report.chart import trade_off_chart
from steerkit.report.side_by_side import CHANGES, KINDS, filtered
from steerkit.report.tables import cell_name, format_rate
from steerkit.scoring.label import LABELLED_SCORES
from steerkit.scoring.metrics import Question
from steerkit.serving.workbench.coloured import plain_html
from steerkit.serving.workbench.context import Context
from steerkit.serving.workbench.opened import OpenRun, opened
from steerkit.serving.workbench.run_views import cells_html, completions_html
from steerkit.serving.workbench.scripts import LABELS, MARKS
from steerkit.serving.workbench.told import OVER_AT_ONCE, in_one_line, said

PAGE = 10  # completions on a page
NO_RUNS = (
    '<p class="sk-empty">There are no runs to look at: serve with --runs FOLDER, the folder that holds the --out of '
    "your sweeps.</p>"
)


class RunsTab:
    """The tab's components and what they do."""

    def __init__(self, context: Context) -> None:
        self._context = context
        names = context.run_names()
        with gr.Row():
            self.run = gr.Dropdown(
                names, value=None, label="run", elem_id="runs-run", scale=3, min_width=240,
                info="below the folder of runs, the latest first",
            )  # fmt: skip
            self.question = gr.Dropdown(
                [], label="trade-off", scale=2, min_width=200, elem_id="runs-question"
            )
            self.again = gr.Button("Look again", scale=0, min_width=130, elem_classes="sk-beside")
        self.line = gr.HTML(elem_id="runs-line", elem_classes="sk-line", apply_default_css=False)
        self.chart = gr.HTML(
            "" if names else NO_RUNS, elem_id="runs-chart", js_on_load=MARKS, apply_default_css=False
        )
        with gr.Accordion("all cells as a table", open=False):
            self.cells = gr.HTML(elem_id="runs-cells", js_on_load=MARKS, apply_default_css=False)
        with gr.Column(visible=False) as self.below:
            self.title = gr.HTML(elem_id="runs-title", apply_default_css=False)
            with gr.Row():
                self.change = gr.Radio(list(CHANGES), value="all", label="changed", elem_id="runs-change")
                self.kind = gr.Radio(list(KINDS), value="all", label="questions", elem_id="runs-kind")
                self.text = gr.Textbox("", label="containing", elem_id="runs-text", min_width=160)
            with gr.Row():
                self.score = gr.Radio(list(LABELLED_SCORES), value="abstained", label="label")
                self.blind = gr.Checkbox(False, label="hide the scorers' verdicts", elem_id="runs-blind")
            self.agreement = gr.HTML(elem_id="runs-agreement", apply_default_css=False)
        self.completions = gr.HTML(elem_id="runs-completions", js_on_load=LABELS, apply_default_css=False)
        with gr.Row(elem_classes="sk-buttons", visible=False) as self.pager:
            self.back = gr.Button("← Back", min_width=90, elem_id="runs-back")
            self.onward = gr.Button("Onward →", min_width=90, elem_id="runs-onward")
        self.cell, self.page = gr.State(None), gr.State(0)
        self._connect()

    def _connect(self) -> None:
        def told(handler: Any) -> Any:
            return in_one_line(self.line, handler)

        self.again.click(
            lambda: {self.run: gr.update(choices=self._context.run_names())}, None, [self.run], **OVER_AT_ONCE
        )
        chart = [self.chart, self.cells, self.question, self.line]
        looked = [
            self.below,
            self.pager,
            self.title,
            self.completions,
            self.agreement,
            self.cell,
            self.page,
            self.line,
        ]
        shown = [self.run, self.cell, self.change, self.kind, self.text, self.score, self.blind]
        self.run.change(told(self._open), self.run, [*chart, *looked], **OVER_AT_ONCE)
        self.question.input(told(self._draw), [self.run, self.question], chart, **OVER_AT_ONCE)
        for marks in (self.chart, self.cells):
            marks.pick(told(self._pick), shown, looked, **OVER_AT_ONCE)
        for filtering in (self.change, self.kind, self.score, self.blind):
            filtering.input(told(self._show), shown, looked, **OVER_AT_ONCE)
        self.text.change(told(self._show), shown, looked, trigger_mode="always_last", **OVER_AT_ONCE)
        for turned, by in ((self.back.click, -1), (self.onward.click, 1)):
            turned(told(self._turning(by)), [self.page, *shown], looked, **OVER_AT_ONCE)
        self.completions.labelled(told(self._label), shown, [self.agreement, self.line], **OVER_AT_ONCE)

    def _opened(self, name: str) -> OpenRun:
        return opened(self._context.run_path(name))

    def _open(self, name: str | None) -> dict[Any, Any]:
        nothing = {
            self.below: gr.update(visible=False),
            self.pager: gr.update(visible=False),
            self.completions: "",
        }
        if name is None:
            return nothing
        run = self._opened(name)
        if not run.rows:
            raise MisuseError(f"{name} has no records yet: let the sweep make some, then open it again")
        titles = [question.title for question in run.run.questions]
        drawn = self._draw(name, titles[0] if titles else None)
        return {
            **drawn,
            **nothing,
            self.cell: None,
            self.question: gr.update(choices=titles, value=titles[0] if titles else None),
        }

    def _draw(self, name: str, title: str | None) -> dict[Any, Any]:
        run = self._opened(name)
        question = self._question(run, title)
        chart = None if question is None else trade_off_chart(run.rows, question)
        protocol = run.run.protocol
        most = max(row.n_items for row in run.rows)
        about = f"{protocol.suite}, split {protocol.split}, {protocol.model}: "
        about += f"{len(run.rows)} cells of up to {most} items"
        return {
            self.chart: chart or '<p class="sk-empty">This run answers no question that has a trade-off.</p>',
            self.cells: cells_html(run.rows),
            self.line: said(about),
        }

    def _question(self, run: OpenRun, title: str | None) -> Question | None:
        questions = run.run.questions
        return next((each for each in questions if each.title == title), questions[0] if questions else None)

    def _pick(self, picked: gr.EventData, name: str, _: Any, *filters: Any) -> dict[Any, Any]:
        return self._show(name, str(picked.cell), *filters)

    def _turning(self, by: int) -> Any:
        """A handler that goes so many pages on."""

        def turned(page: int, *given: Any) -> dict[Any, Any]:
            name, cell, change, kind, text, score, blind = given
            return self._show(name, cell, change, kind, text, score, blind, page + by)

        return turned

    def _show(
        self,
        name: str,
        cell: str | None,
        change: Any,
        kind: Any,
        text: str,
        score: str,
        blind: bool,
        page: int = 0,
    ) -> dict[Any, Any]:
        """A page of a cell's completions beside the unsteered ones."""
        if cell is None:
            raise MisuseError("choose a cell first: click a mark of the chart")
        run = self._opened(name)
        row = run.row(cell)
        if row is None:
            raise MisuseError(f"the run has no records of cell {cell!r}")
        rows = filtered(run.beside(cell), change, kind, text)
        pages = max(1, -(-len(rows) // PAGE))
        page = min(max(page, 0), pages - 1)
        here = rows[page * PAGE : (page + 1) * PAGE]
        spec = row.at.spec or "nothing acts"
        return {
            self.below: gr.update(visible=True),
            self.pager: gr.update(visible=pages > 1),
            self.title: _title_html(cell_name(row), spec, len(rows), len(run.beside(cell)), page, pages),
            self.completions: completions_html(here, run, score, blind=blind),
            self.agreement: said(self._agreement(run, cell, score)),
            self.cell: cell,
            self.page: page,
            self.line: "",
        }

    def _label(self, given: gr.EventData, name: str, cell: str | None, *filters: Any) -> dict[Any, Any]:
        run, (score, blind) = self._opened(name), filters[-2:]
        verdict = {"yes": True, "no": False}.get(str(given.verdict))
        run.labels.give(
            (str(given.cell), str(given.item), int(given.sample)), score, verdict, blind=bool(blind)
        )
        return {self.agreement: said(self._agreement(run, str(cell), score)), self.line: ""}

    def _agreement(self, run: OpenRun, cell: str, score: str) -> str:
        """How far the scorer agrees with the labels of this cell's and the unsteered completions."""
        records = [record for each in run.beside(cell) for record in _both(each)]
        counts = run.labels.agreement(records, score)
        if not counts.n:
            return f"no labels on {score!r} here yet; {len(run.labels)} in the run"
        return (
            f"{counts.n} labels on {score!r} here: the scorer says the same on {format_rate(counts.raw)} of them "
            f"(kappa {format_rate(counts.kappa)}); {len(run.labels)} in the run, kept in {run.labels.path.name}"
        )


def _both(each: Any) -> Sequence[Any]:
    return [each.record] if each.unsteered in (None, each.record) else [each.record, each.unsteered]


def _title_html(name: str, spec: str, found: int, of: int, page: int, pages: int) -> str:
    where = f", page {page + 1} of {pages}" if pages > 1 else ""
    return (
        f'<h3 class="sk-title">{plain_html(name)} <span class="sk-count">{found} of {of} completions{where}</span></h3>'
        f'<p class="sk-notes sk-spec">{plain_html(spec)}</p>'
    )
