"""The plot of a map of readings: layers by tokens, on colours that colour-blind readers can tell apart."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from steerkit.core.files import replacing
from steerkit.reading.read_map import ReadMap
from steerkit.reading.scale import SEQUENTIAL, SIGNED
from steerkit.reading.tokens import shown
from steerkit.report.marks import new_figure, plain_text
from steerkit.report.plots import DPI

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LABELS = 60  # tokens that are named; of more, every second or third is
REMEDY = "choose a place that you may write to"


def plot_map(read: ReadMap, path: str | os.PathLike[str]) -> Path:
    """Draw a map of readings into an image file and return its path; the format is that of the file's ending.

    Layers of a vector are each coloured by their own range, as states grow with depth; a probe's from 0 to 1. Raises
    SteerkitError where the file cannot be written.
    """
    path = Path(path)
    with replacing(path, "the map", REMEDY) as scratch:
        map_figure(read).savefig(scratch, dpi=DPI, format=path.suffix.removeprefix(".") or "png")
    return path


@plain_text()
def map_figure(read: ReadMap) -> Figure:
    """Return a map of readings as a figure, the last layer on top."""
    from matplotlib.colors import LinearSegmentedColormap  # slow to import

    signed = read.scale(0).signed
    stops = [tuple(part / 255 for part in colour) for colour in (SIGNED if signed else SEQUENTIAL)]
    colours = LinearSegmentedColormap.from_list("readings", stops).with_extremes(bad="0.6")
    places = [[read.scale(i).at(value) for value in values] for i, values in enumerate(read.values)]
    grid = np.array(places, np.float64)  # None becomes NaN
    tokens, layers = len(read.tokens), len(read.layers)
    figure = new_figure(min(24.0, 2.4 + 0.24 * tokens), min(12.0, 1.8 + 0.17 * layers))
    axes = figure.subplots()
    image = axes.imshow(
        grid, cmap=colours, vmin=-1.0 if signed else 0.0, vmax=1.0, aspect="auto", origin="lower"
    )
    step = -(-tokens // MOST_LABELS)
    named = range(0, tokens, step)
    axes.set_xticks(named, [shown(read.tokens[place]) for place in named], rotation=90, fontsize=7)
    step = -(-layers // 30)
    axes.set_yticks(range(0, layers, step), [str(layer) for layer in read.layers[::step]], fontsize=7)
    if read.prompt_tokens < tokens:
        axes.axvline(read.prompt_tokens - 0.5, color="black", lw=1.0)
    axes.set_ylabel("layer")
    axes.set_xlabel("token (line: where the completion begins)" if read.prompt_tokens < tokens else "token")
    bar = "share of the layer's largest component" if read.kind == "vector" else "probability"
    figure.colorbar(image, ax=axes, label=bar, pad=0.01)
    axes.set_title(f"{shown(read.label)} by layer and token", fontsize=10.5)
    return figure
