"""What all plots share: colours that colour-blind readers can tell apart (Okabe–Ito), shapes, and the canvas.

Names in a plot may be in any script: each character is drawn in the first installed font that has it, and one that
none has, or that acts instead of being seen, as an escape such as `\\u4f60`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from steerkit.core.characters import escaped, visible
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


def legible(text: str) -> str:
    """Return the text with what no installed font can draw as escapes, line breaks left as they are."""
    return "".join(
        char if char == "\n" or _font_of(char) is not None else escaped(char) for char in visible(text, "\n")
    )


def fonts_for(text: str) -> list[str]:
    """Return the names of the fonts that draw a legible text, the default one first."""
    return list(dict.fromkeys([_DEFAULT, *(font for char in text if (font := _font_of(char)) is not None)]))


_DEFAULT = "DejaVu Sans"  # comes with matplotlib


@functools.cache
def _font_of(char: str) -> str | None:
    """The first font that has the character, the default one before all others; None where none has."""
    if char == "\n":
        return _DEFAULT
    return next((name for name, path in _fonts() if ord(char) in _characters(path)), None)


@functools.cache
def _fonts() -> tuple[tuple[str, str], ...]:
    """(name, file) of the upright fonts of ordinary weight that are installed, the default one first."""
    from matplotlib.font_manager import fontManager

    plain = [font for font in fontManager.ttflist if font.style == "normal" and font.weight == 400]
    plain = [font for font in plain if not font.name.startswith("Last Resort")]  # which draws boxes
    return tuple((font.name, font.fname) for font in sorted(plain, key=lambda font: font.name != _DEFAULT))


@functools.cache
def _characters(path: str) -> frozenset[int]:
    """The code points that a font file has; none of one that cannot be read."""
    from matplotlib.font_manager import get_font

    try:
        return frozenset(get_font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


@functools.cache
def _figure_class() -> type[Figure]:
    """A figure that makes its texts legible before they are first measured."""
    from matplotlib.figure import Figure  # slow to import
    from matplotlib.text import Text

    class LegibleFigure(Figure):
        def draw(self, renderer):  # type: ignore[no-untyped-def]  # matplotlib's own signature
            for artist in self.findobj(Text):
                if not artist.get_text().isascii() or not artist.get_text().isprintable():
                    artist.set_text(legible(artist.get_text()))
                    artist.set_fontfamily(fonts_for(artist.get_text()))
            super().draw(renderer)

    return LegibleFigure


def new_figure(width: float, height: float) -> Figure:
    """A figure (inches) apart from pyplot and its global state, drawn by Agg whatever the user's backend."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import

    figure = _figure_class()(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
