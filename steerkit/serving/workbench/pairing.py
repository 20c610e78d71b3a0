"""Pairs: contrast pairs edited one at a time, linted, made into a vector with progress, and both saved."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import gradio as gr

from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.core.registry import ESTIMATORS
from steerkit.extraction.extract import extract
from steerkit.extraction.lint import lint
from steerkit.extraction.pairs import (
    ContrastPairs,
    builtin_pairs,
    load_pairs,
    save_pairs,
)
from steerkit.interventions.vector import SteeringVector
from steerkit.serving.workbench.context import PAIRS as PAIRS_ENDING
from steerkit.serving.workbench.context import VECTOR, Context
from steerkit.serving.workbench.drafts import Draft, findings_html, list_html, progress_html
from steerkit.serving.workbench.scripts import MARKS, PAIRS
from steerkit.serving.workbench.streams import PAUSE
from steerkit.serving.workbench.told import OVER_AT_ONCE, WRITTEN_SLOWLY, in_one_line, said

CONTRASTS = ("content", "length")


class PairsTab:
    """The tab's components and what they do."""

    def __init__(self, context: Context) -> None:
        self._context = context
        with gr.Row():
            self.set = gr.Dropdown(
                self._sets(), value=None, label="open a set", elem_id="pairs-set", scale=2, min_width=200,
                info="built in, or saved before",
            )  # fmt: skip
            self.name = gr.Textbox("pairs", label="name", elem_id="pairs-name", scale=2, min_width=160)
            self.save = gr.Button(
                "Save the pairs", elem_id="pairs-save", scale=0, min_width=150, elem_classes="sk-beside"
            )
        self.line = gr.HTML(elem_id="pairs-line", elem_classes="sk-line", apply_default_css=False)
        with gr.Row(elem_classes="sk-split"):
            with gr.Column(scale=2, min_width=300):
                self.list = gr.HTML(
                    list_html(Draft()), elem_id="pairs-list", js_on_load=PAIRS, apply_default_css=False
                )
            with gr.Column(scale=3, min_width=320):
                self.prompt = gr.Textbox("", label="prompt", lines=2, max_lines=8, elem_id="pairs-prompt")
                self.positive = gr.Textbox(
                    "", label="positive: with the behaviour", lines=3, max_lines=12, elem_id="pairs-positive"
                )
                self.negative = gr.Textbox(
                    "", label="negative: without it", lines=3, max_lines=12, elem_id="pairs-negative"
                )
                with gr.Row(elem_classes="sk-buttons"):
                    self.back = gr.Button("← Back", min_width=80, elem_id="pairs-back")
                    self.onward = gr.Button("Onward →", min_width=80, elem_id="pairs-onward")
                    self.add = gr.Button("New pair", min_width=80, elem_id="pairs-add")
                    self.delete = gr.Button("Delete", min_width=80, elem_id="pairs-delete")
        with gr.Row():
            self.contrast = gr.Radio(
                list(CONTRASTS), value="content", label="the two sides are meant to differ in"
            )
            self.check = gr.Button(
                "Lint", elem_id="pairs-lint", scale=0, min_width=150, elem_classes="sk-beside"
            )
        self.findings = gr.HTML(elem_id="pairs-findings", js_on_load=PAIRS, apply_default_css=False)
        with gr.Row():
            methods = [name for name, each in ESTIMATORS.items() if not each.whole]
            self.method = gr.Dropdown(methods, value=methods[0], label="method", min_width=160)
            self.aggregation = gr.Radio(
                ["mean", "last"], value="mean", label="completions are read over their tokens"
            )
            self.extract = gr.Button(
                "Extract a vector", variant="primary", elem_id="pairs-extract", scale=0, min_width=170,
                elem_classes="sk-beside",
            )  # fmt: skip
            self.stop = gr.Button("Stop", scale=0, min_width=80, elem_classes="sk-beside")
        self.progress = gr.HTML(elem_id="pairs-progress", apply_default_css=False)
        self.plot = gr.HTML(elem_id="pairs-plot", js_on_load=MARKS, apply_default_css=False)
        with gr.Row(visible=False) as self.saving:
            self.vector_name = gr.Textbox(
                "", label="save the vector as", elem_id="pairs-vector-name", min_width=160
            )
            self.keep = gr.Button(
                "Save the vector", elem_id="pairs-keep", scale=0, min_width=150, elem_classes="sk-beside"
            )
        self.draft, self.vector = gr.State(Draft()), gr.State(None)
        self._connect()

    def _connect(self) -> None:
        def told(handler: Any) -> Any:
            return in_one_line(self.line, handler)

        boxes = [self.prompt, self.positive, self.negative]
        held = [self.draft, self.name, *boxes]
        shown = [self.draft, self.name, self.list, *boxes, self.line]
        self.set.input(told(self._open), self.set, [*shown, self.contrast, self.findings], **OVER_AT_ONCE)
        moves = (
            (self.back.click, lambda draft: draft.moved(draft.at - 1)),
            (self.onward.click, lambda draft: draft.moved(draft.at + 1)),
            (self.add.click, lambda draft: draft.added()),
            (self.delete.click, lambda draft: draft.without()),
        )
        for clicked, change in moves:
            clicked(told(self._changing(change)), held, shown, **OVER_AT_ONCE)
        for marks in (self.list, self.findings):
            marks.pair(told(self._pick), held, shown, **OVER_AT_ONCE)
        for box in boxes:  # what is typed stands in the set once the box is left
            box.blur(
                told(self._changing(lambda draft: draft, refill=False)),
                held,
                [self.draft, self.list],
                **OVER_AT_ONCE,
            )
        self.save.click(told(self._save), held, [self.draft, self.list, self.set, self.line], **OVER_AT_ONCE)
        self.check.click(
            told(self._lint),
            [*held, self.contrast],
            [self.draft, self.list, self.findings, self.line],
            **OVER_AT_ONCE,
        )
        extracting = self.extract.click(
            told(self._extract), [*held, self.method, self.aggregation],
            [self.draft, self.list, self.progress, self.plot, self.vector, self.saving, self.vector_name, self.line],
            concurrency_limit=1, **WRITTEN_SLOWLY,
        )  # fmt: skip
        self.stop.click(
            lambda: {self.progress: "", self.line: said("stopped")}, None, [self.progress, self.line],
            cancels=[extracting], **OVER_AT_ONCE,
        )  # fmt: skip
        self.kept = self.keep.click(
            told(self._keep), [self.vector, self.vector_name], [self.line], **OVER_AT_ONCE
        )

    def _sets(self) -> list[str]:
        return list(dict.fromkeys([*builtin_pairs(), *self._context.pairs_names()]))

    def _open(self, name: str) -> dict[Any, Any]:
        saved = name in self._context.pairs_names()
        pairs = load_pairs(self._context.place(name, PAIRS_ENDING) if saved else name)
        draft = Draft(name, pairs.pairs)
        contrast = "length" if name == "brevity" else "content"
        return {
            **self._shown(draft),
            self.line: said(f"{len(pairs)} pairs"),
            self.contrast: contrast,
            self.findings: "",
        }

    def _changing(self, change: Any, *, refill: bool = True) -> Any:
        """A handler that takes over what is in the boxes, then changes the set."""

        def changed(draft: Draft, name: str, *boxes: str) -> dict[Any, Any]:
            new = change(replace(draft.edited(*boxes), name=name.strip() or draft.name))
            return self._shown(new) if refill else {self.draft: new, self.list: list_html(new)}

        return changed

    def _pick(self, picked: gr.EventData, draft: Draft, name: str, *boxes: str) -> dict[Any, Any]:
        change = self._changing(lambda draft: draft.moved(int(picked.at)))
        shown: dict[Any, Any] = change(draft, name, *boxes)
        return shown

    def _shown(self, draft: Draft) -> dict[Any, Any]:
        prompt, positive, negative = draft.boxes
        return {
            self.draft: draft, self.name: draft.name, self.list: list_html(draft), self.prompt: prompt,
            self.positive: positive, self.negative: negative, self.line: "",
        }  # fmt: skip

    def _held(self, draft: Draft, name: str, *boxes: str) -> Draft:
        return replace(draft.edited(*boxes), name=name.strip() or draft.name)

    def _save(self, *held: Any) -> dict[Any, Any]:
        draft = self._held(*held)
        pairs = draft.whole()
        path = save_pairs(pairs, self._context.place(draft.name, PAIRS_ENDING))
        return {
            self.draft: draft,
            self.list: list_html(draft),
            self.set: gr.update(choices=self._sets()),
            self.line: said(f"wrote {len(pairs)} pairs to {path}"),
        }

    def _lint(self, *given: Any) -> dict[Any, Any]:
        draft, contrast = self._held(*given[:-1]), given[-1]
        findings = lint(draft.whole(), contrast, lm=self._context.lm)
        return {
            self.draft: draft,
            self.list: list_html(draft, findings),
            self.findings: findings_html(findings, draft),
            self.line: "",
        }

    async def _extract(self, *given: Any) -> AsyncIterator[dict[Any, Any]]:
        draft, (method, aggregation) = self._held(*given[:-2]), given[-2:]
        pairs = draft.whole()
        yield {self.draft: draft, self.progress: progress_html(0, 1), self.line: "", self.plot: ""}
        async with aclosing(extracted(self._context, pairs, method, aggregation)) as steps:
            async for step in steps:
                yield (
                    {self.progress: progress_html(*step)}
                    if isinstance(step, tuple)
                    else {
                        self.progress: "",
                        self.plot: step._repr_html_(),
                        self.vector: step,
                        self.saving: gr.update(visible=True),
                        self.vector_name: draft.name,
                        self.line: said(
                            f"a vector of {len(pairs)} pairs by {method}: save it, and Try has it"
                        ),
                    }
                )

    def _keep(self, vector: SteeringVector | None, name: str) -> dict[Any, Any]:
        if vector is None:
            raise MisuseError("there is no vector yet: extract one")
        path = self._context.place(name, VECTOR)
        vector.renamed(path.stem).save(path)
        return {self.line: said(f"wrote {path}: Try and Grid have it")}


async def extracted(
    context: Context, pairs: ContrastPairs, method: str, aggregation: str
) -> AsyncGenerator[tuple[int, int] | SteeringVector, None]:
    """Yield how far the extraction is, as it goes, then the vector. Raises what `extract` raises.

    It has the model for itself; where nobody asks for more, it stops at its next report.
    """
    reached = (0, 1)
    stopped = threading.Event()

    def report(done: int, total: int) -> None:
        nonlocal reached
        reached = (done, total)
        if stopped.is_set():
            raise SteerkitError("stopped")

    def work() -> SteeringVector:
        return extract(context.lm, pairs, method, aggregation, progress=report)  # type: ignore[arg-type]

    task = asyncio.ensure_future(context.scheduler.run(work))
    try:
        while not task.done():
            await asyncio.wait([task], timeout=PAUSE)
            if not task.done():
                yield reached
        yield task.result()
    finally:
        stopped.set()
