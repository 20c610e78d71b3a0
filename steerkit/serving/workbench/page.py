"""The workbench's page: four tabs, a theme of system fonts, and nothing that is fetched from elsewhere."""

from __future__ import annotations

from importlib import resources
from typing import Any

import gradio as gr

from steerkit.serving.workbench.context import Context
from steerkit.serving.workbench.gridding import GridTab
from steerkit.serving.workbench.looking import RunsTab
from steerkit.serving.workbench.pairing import PairsTab
from steerkit.serving.workbench.told import OVER_AT_ONCE
from steerkit.serving.workbench.trying import TryTab

TITLE = "steerkit workbench"
MOST_WAITING = 64  # events of all pages together


def blocks(context: Context) -> gr.Blocks:
    """Return the page over a model and its folders."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
        gr.HTML(
            f'<header class="sk-head"><h1>steerkit</h1><p>{context.lm.name}, {context.lm.n_layers} layers</p></header>',
            apply_default_css=False,
        )
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Try", id="try", render_children=True):
                trying = TryTab(context)
            with gr.Tab("Grid", id="grid", render_children=True):
                gridding = GridTab(context)
            with gr.Tab("Runs", id="runs", render_children=True):
                RunsTab(context)
            with gr.Tab("Pairs", id="pairs", render_children=True):
                pairing = PairsTab(context)
        _connect(tabs, trying, gridding, pairing)
    page.queue(default_concurrency_limit=8, max_size=MOST_WAITING, api_open=False)
    return page


def _connect(tabs: gr.Tabs, trying: TryTab, gridding: GridTab, pairing: PairsTab) -> None:
    """What goes from one tab to another: a place of the grid, and a vector that was saved."""

    def take_over(picked: gr.EventData, prompt: str, *controls: Any) -> list[Any]:
        layer, strength = str(picked.place).split(",")
        kept = list(controls)
        kept[1], kept[2] = int(layer), float(strength)
        return [gr.update(selected="try"), prompt, *kept]

    gridding.table.pick(
        take_over,
        [gridding.prompt, *gridding.controls.inputs],
        [tabs, trying.question, *trying.controls.inputs],
        **OVER_AT_ONCE,
    )
    pairing.kept.then(
        lambda: [trying.controls.names(), gridding.controls.names()],
        None,
        [trying.controls.vector, gridding.controls.vector],
        **OVER_AT_ONCE,
    )


def theme() -> gr.themes.Base:
    """Return the theme: fonts of the system, so that none is fetched."""
    made = gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.gray,
        spacing_size=gr.themes.sizes.spacing_sm,
        radius_size=gr.themes.sizes.radius_md,
        font=("system-ui", "sans-serif"),
        font_mono=("ui-monospace", "monospace"),
    )
    return made.set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_600",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
    )


def style() -> str:
    """Return the page's own style sheet, with that of readings."""
    from steerkit.reading.html import STYLE

    own = resources.files("steerkit.serving.workbench").joinpath("workbench.css").read_text(encoding="utf-8")
    return STYLE + own
