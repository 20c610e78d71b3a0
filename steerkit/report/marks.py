"""What all plots share: colours that colour-blind readers can tell apart (Okabe–Ito), shapes, and the canvas."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from steerkit.scoring.metrics import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNSTEERED, RANDOM, FRONTIER = "#D55E00", "#8A8A8A", "#009E73"
VECTOR_MARKS = (
    ("o", "#0072B2"),
    ("s", "#CC79A7"),
    ("^", "#E69F00"),
    ("D", "#56B4E9"),
    ("v", "#009E73"),
    ("P", "#4D4D4D"),
)


def axis_name(metric: Metric, higher: str, lower: str) -> str:
    """Return what an axis says of the metric: its label, and which way (`higher` or `lower`) is better."""
    label = f"mean {metric.label} per completion" if metric.unit == "tokens" else metric.label
    return f"{label} (better: {higher if metric.better == 'higher' else lower})"


@contextmanager
def plain_text() -> Iterator[None]:
    """Text that is made meanwhile is drawn as it stands: a name may hold `$`, which matplotlib would read as math."""
    from matplotlib import rc_context  # slow to import

    with rc_context({"text.parse_math": False}):
        yield


def new_figure(width: float, height: float) -> Figure:
    """A figure (inches) apart from pyplot and its global state, drawn by Agg whatever the user's backend."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
