"""Charts as SVG: a quantity by layer, and one metric against another. Each mark says its numbers on hover."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from steerkit.report.views.parts import text

# Each has a contrast of at least 3 to white and to black, and the shapes differ too.
BLUE, ORANGE, GREEN, GREY = "#2b86c5", "#d9730d", "#22916d", "#8a8a8a"
_SHAPES, _COLOURS = ("circle", "square", "triangle", "diamond"), (BLUE, "#c0609f", "#b8860b", GREEN)
WIDTH, HEIGHT = 280, 170
LEFT, RIGHT, TOP, BOTTOM = 40, 10, 26, 34
WIDE, TALL = 620, 340
MOST_INTERVALS = 40  # points of which all intervals are drawn; of more, those of the line


@dataclass(frozen=True)
class Axis:
    """Values `low` to `high` between the places `first` and `last` of a picture."""

    low: float
    high: float
    first: float
    last: float

    def at(self, value: float) -> float:
        """The place of a value; beyond the ends, the end."""
        share = (min(max(value, self.low), self.high) - self.low) / ((self.high - self.low) or 1.0)
        return self.first + share * (self.last - self.first)

    def ticks(self, about: int = 4) -> list[float]:
        """Round numbers on the axis, about so many."""
        step = _round_step((self.high - self.low) / about or 1.0)
        start = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(start, math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Point:
    """A mark of a scatter plot: value, low and high in x and in y, a shape and colour, and what it says on hover."""

    x: tuple[float, float, float]
    y: tuple[float, float, float]
    shape: str
    colour: str
    said: str


def layer_chart(
    title: str,
    values: Sequence[float],
    *,
    marked: Iterable[int] = (),
    reference: tuple[str, float] | None = None,
    low: float | None = None,
    high: float | None = None,
) -> str:
    """Return a quantity by layer as a line with a dot a layer; `marked` layers are ringed, named and lined.

    `reference` is a level with its name, dashed. `low` and `high` are ends that the axis has at least.
    """
    shown = [value for value in values if math.isfinite(value)]
    ends = [*shown, *([] if reference is None else [reference[1]])]
    bottom = min([*ends, *([] if low is None else [low])], default=0.0)
    top = max([*ends, *([] if high is None else [high])], default=1.0)
    x = Axis(0, max(len(values) - 1, 1), LEFT, WIDTH - RIGHT)
    y = Axis(bottom, top if top > bottom else bottom + 1.0, HEIGHT - BOTTOM, TOP)
    drawn = [
        _grid(x, y, (WIDTH, HEIGHT)),
        _label(LEFT, 12, title),
        _label(x.last, HEIGHT - 4, "layer", "end"),
    ]
    for layer in sorted(set(marked)):
        place = x.at(layer)
        drawn.append(_line(place, y.first, place, y.last, ORANGE, dash="2 3"))
        anchor = "end" if place > WIDTH * 0.8 else "start"
        drawn.append(_label(place + (-4 if anchor == "end" else 4), y.first - 4, str(layer), anchor))
    if reference is not None:
        level = y.at(reference[1])
        drawn.append(_line(x.first, level, x.last, level, GREY, dash="5 4"))
        beside = level + (13 if level < TOP + 20 else -4)  # not on the title
        drawn.append(_label(x.last, beside, f"{reference[0]} {reference[1]:.2f}", "end"))
    places = [(x.at(n), y.at(value)) for n, value in enumerate(values) if math.isfinite(value)]
    drawn.append(_path(places, BLUE))
    for n, value in enumerate(values):
        if math.isfinite(value):
            colour, size = (ORANGE, 4.5) if n in set(marked) else (BLUE, 2.2)
            hover = f"layer {n}: {value:.3g}"
            drawn.append(_mark("circle", x.at(n), y.at(value), size, colour, hover))
    return _svg(WIDTH, HEIGHT, title, drawn)


def scatter(
    x_label: str, y_label: str, points: Sequence[Point], line: Sequence[tuple[float, float]], what: str
) -> str:
    """Return one metric against another: a mark a point with faint intervals, and a `line` through some of them."""
    x = _around([p.x[0] for p in points], 52, WIDE - 14)
    y = _around([p.y[0] for p in points], TALL - 46, 26)
    drawn = [_grid(x, y, (WIDE, TALL)), _label(6, 14, y_label), _label(x.last, TALL - 8, x_label, "end")]
    crowded = len(points) > MOST_INTERVALS
    drawn += [_intervals(p, x, y) for p in points if not crowded or (p.x[0], p.y[0]) in line]
    drawn.append(_path([(x.at(a), y.at(b)) for a, b in line], GREEN))
    drawn += [_mark(p.shape, x.at(p.x[0]), y.at(p.y[0]), 4.5, p.colour, p.said) for p in points]
    return _svg(WIDE, TALL, what, drawn)


def style(number: int) -> tuple[str, str]:
    """Return the shape and the colour of the n-th of several things; sixteen differ."""
    return _SHAPES[number % 4], _COLOURS[(number + number // 4) % 4]


def legend(entries: Iterable[tuple[str, str, str]]) -> str:
    """Return shapes in their colours with their names, in a row."""
    parts = [
        f'<span style="margin-right:1rem;white-space:nowrap"><svg width="12" height="12" '
        f'style="display:inline-block;vertical-align:-1px">{_mark(shape, 6, 6, 4.5, colour, "")}</svg> '
        f"{text(name)}</span>"
        for shape, colour, name in entries
    ]
    return f'<p class="sk-dim">{"".join(parts)}</p>'


def _around(values: Sequence[float], first: float, last: float) -> Axis:
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.05 * (abs(high) or 1.0)
    return Axis(max(low - margin, 0.0) if low >= 0 else low - margin, high + margin, first, last)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)


def _grid(x: Axis, y: Axis, size: tuple[int, int]) -> str:
    """Lines and numbers of both axes."""
    parts = []
    for value in y.ticks():
        parts.append(_line(x.first, y.at(value), x.last, y.at(value), "currentColor", faint=True))
        parts.append(_label(x.first - 6, y.at(value) + 4, f"{value:.3g}", "end"))
    for value in x.ticks(6 if size[0] > WIDTH else 5):
        if size[0] > WIDTH or value == int(value):
            parts.append(_line(x.at(value), y.first, x.at(value), y.first + 4, "currentColor"))
            parts.append(_label(x.at(value), y.first + 16, f"{value:.3g}", "middle"))
    return "".join(parts)


def _intervals(point: Point, x: Axis, y: Axis) -> str:
    across = _line(
        x.at(point.x[1]), y.at(point.y[0]), x.at(point.x[2]), y.at(point.y[0]), point.colour, faint=True
    )
    up = _line(
        x.at(point.x[0]), y.at(point.y[1]), x.at(point.x[0]), y.at(point.y[2]), point.colour, faint=True
    )
    return across + up


def _mark(shape: str, x: float, y: float, size: float, colour: str, said: str) -> str:
    hover = f"<title>{text(said)}</title>" if said else ""
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}" fill="{colour}">{hover}</circle>'
    if shape == "cross":
        lines = f"M{x - size:.1f} {y - size:.1f}l{2 * size:.1f} {2 * size:.1f}m0 {-2 * size:.1f}"
        return f'<path d="{lines}l{-2 * size:.1f} {2 * size:.1f}" stroke="{colour}" stroke-width="2">{hover}</path>'
    corners = [_corner(shape, k, size) for k in range({"triangle": 3, "star": 10}.get(shape, 4))]
    places = " ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in corners)
    return f'<polygon points="{places}" fill="{colour}">{hover}</polygon>'


def _corner(shape: str, k: int, size: float) -> tuple[float, float]:
    """The k-th corner of a shape about the origin."""
    of = {"triangle": (3, 0.0, 1.3), "square": (4, math.pi / 4, 1.35), "star": (10, 0.0, 1.9)}
    corners, turned, factor = of.get(shape, (4, 0.0, 1.4))
    if shape == "star" and k % 2:
        factor = 0.8
    angle = 2 * math.pi * k / corners + turned
    return size * factor * math.sin(angle), -size * factor * math.cos(angle)


def _line(
    x1: float, y1: float, x2: float, y2: float, colour: str, *, dash: str = "", faint: bool = False
) -> str:
    style = f' stroke-dasharray="{dash}"' * bool(dash) + ' stroke-opacity=".22"' * faint
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{style}></line>'


def _path(places: Sequence[tuple[float, float]], colour: str) -> str:
    if len(places) < 2:
        return ""
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6"></polyline>'


def _label(x: float, y: float, said: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text(said)}</text>'


def _svg(width: int, height: int, what: str, drawn: Iterable[str]) -> str:
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg {size} role="img" aria-label="{text(what)}">{"".join(drawn)}</svg>'
