"""Grid: one prompt under every layer and strength, all in one batch, in a table that fills while it is written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import gradio as gr

from steerkit.core.errors import MisuseError
from steerkit.core.prompts import Renderer
from steerkit.engines.base import Decoding, Request
from steerkit.interventions.spec import parse_range
from steerkit.reading.scale import Scale
from steerkit.runs.cells import Cell
from steerkit.serving.workbench.coloured import (
    common_scale,
    legend_html,
    notes_of,
    plain_html,
    written_html,
)
from steerkit.serving.workbench.context import Context
from steerkit.serving.workbench.controls import NOTHING, Settings, SteeringControls, reader_names, readers_of
from steerkit.serving.workbench.scripts import MARKS
from steerkit.serving.workbench.streams import Written, write
from steerkit.serving.workbench.told import OVER_AT_ONCE, WRITTEN_SLOWLY, in_one_line, said

MOST_CELLS = 256
EMPTY = (
    '<p class="sk-empty">Every layer meets every strength, and all of them are written at once. A click on a cell '
    "takes its layer and strength over to Try.</p>"
)

Place = tuple[int, float]  # layer and strength


def cells_of(settings: Settings, layers: str, strengths: str, context: Context) -> dict[Place, Cell]:
    """Return the cells by layer and strength. Raises MisuseError without a vector, for a bad range and for too many."""
    if settings.vector == NOTHING:
        raise MisuseError("a grid needs a vector: choose one")
    places = [
        (layer, strength)
        for layer in parse_range(layers, int, what="layers")
        for strength in parse_range(strengths, float, what="strengths")
    ]
    if len(places) > MOST_CELLS:
        raise MisuseError(
            f"{len(places)} cells are too many for a page: give at most {MOST_CELLS} here, or sweep them"
        )
    return {
        (layer, strength): Cell(replace(settings, layer=layer, strength=strength).interventions(context))
        for layer, strength in places
    }


class GridTab:
    """The tab's components and what they do."""

    def __init__(self, context: Context) -> None:
        self._context = context
        middle = context.lm.n_layers // 2
        step = max(1, context.lm.n_layers // 8)
        layers = sorted({max(0, middle - step), middle, min(context.lm.n_layers - 1, middle + step)})
        with gr.Row(elem_classes="sk-split"):
            with gr.Column(scale=1, min_width=300, elem_classes="sk-side"):
                self.controls = SteeringControls(context, "grid", one_place=False)
                self.layers = gr.Textbox(
                    ",".join(map(str, layers)),
                    label="layers",
                    info="4,8,12 or start:stop:step",
                    elem_id="grid-layers",
                )
                self.strengths = gr.Textbox("0.5:2:0.5", label="strengths", elem_id="grid-strengths")
                self.reader = gr.Dropdown(reader_names(), value=NOTHING, label="colour tokens by")
                self.tokens = gr.Number(48, label="most new tokens", minimum=1, precision=0)
            with gr.Column(scale=3, min_width=320):
                self.prompt = gr.Textbox(
                    "", label="prompt", lines=1, max_lines=8, elem_id="grid-prompt",
                    placeholder="How many boats lay in the harbour of Genoa on 4 June 1641?",
                )  # fmt: skip
                with gr.Row(elem_classes="sk-buttons"):
                    self.fill = gr.Button(
                        "Fill the grid", variant="primary", elem_id="grid-fill", min_width=110
                    )
                    self.stop = gr.Button("Stop", min_width=80)
                self.line = gr.HTML(elem_id="grid-line", elem_classes="sk-line", apply_default_css=False)
                self.table = gr.HTML(EMPTY, elem_id="grid-table", js_on_load=MARKS, apply_default_css=False)
        inputs = [self.prompt, self.layers, self.strengths, self.reader, self.tokens, *self.controls.inputs]
        filled = gr.on(
            [self.fill.click, self.prompt.submit], in_one_line(self.line, self._fill), inputs,
            [self.table, self.line], concurrency_limit=None, **WRITTEN_SLOWLY,
        )  # fmt: skip
        self.stop.click(lambda: said("stopped"), None, self.line, cancels=[filled], **OVER_AT_ONCE)

    async def _fill(
        self, prompt: str, layers: str, strengths: str, reader: str, tokens: float, *controls: Any
    ) -> AsyncIterator[dict[Any, Any]]:
        if not prompt.strip():
            raise MisuseError("write a prompt first")
        settings = self.controls.settings(controls)
        cells = cells_of(settings, layers, strengths, self._context)
        decoding = Decoding(int(tokens or 0))
        requests: dict[Any, Request] = {}
        for place, cell in [(None, Cell()), *cells.items()]:
            at = Settings(settings.vector, layer=settings.layer if place is None else place[0])
            readers = readers_of(reader, at, self._context)
            requests[place] = Request(
                prompt.strip(), cell.interventions, decoding, readers=readers, reads_prompt=False
            )
        async for written in write(self._context.scheduler, requests):
            over = sum(each.over for each in written.values())
            failed = next((each.error for each in written.values() if each.error is not None), None)
            yield {
                self.table: table_html(written, self._context.lm.renderer),
                self.line: said(f"{over} of {len(written)} cells are done")
                if failed is None
                else said(str(failed), wrong=True),
            }


def table_html(written: Mapping[Any, Written], renderer: Renderer) -> str:
    """Return the table: the unsteered completion above it, a line a layer, a column a strength."""
    places = [place for place in written if place is not None]
    layers, strengths = sorted({layer for layer, _ in places}), sorted({strength for _, strength in places})
    read = common_scale(written.values())
    scale = None if read is None else read[1]
    heads = "".join(f'<th scope="col">strength {strength:g}</th>' for strength in strengths)
    lines = []
    for layer in layers:
        fields = "".join(
            f"<td>{_field(written[layer, strength], renderer, scale)}"
            f'<button type="button" data-place="{layer},{strength:g}" '
            f'aria-label="layer {layer}, strength {strength:g}: take over to Try">→ Try</button></td>'
            for strength in strengths
        )
        lines.append(f'<tr><th scope="row">layer {layer}</th>{fields}</tr>')
    legend = "" if read is None else legend_html(*read)
    return (
        f'<div class="sk-grid sk-read"><section class="sk-answer"><h4>unsteered</h4>'
        f'{_field(written[None], renderer, scale)}</section>{legend}<div class="sk-scroll" tabindex="0" role="region" '
        f'aria-label="completions by layer and strength"><table><thead><tr><th></th>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div></div>"
    )


def _field(each: Written, renderer: Renderer, scale: Scale | None) -> str:
    if each.error is not None:
        return f'<p class="sk-wrong">{plain_html(str(each.error))}</p>'
    text = written_html(each, renderer, scale)
    said = "" if each.completion is None else "; ".join(notes_of(each.completion))
    return f'<div class="sk-text" dir="auto">{text}</div><p class="sk-notes">{plain_html(said)}</p>'
