"""Draw the pictures of the concepts, as SVG with a ground of their own: legible on light and on dark pages.

    python -m docs.generate.pictures

A picture is a list of shapes; texts are the reader's own sans-serif font, so nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from docs.generate.shared import ROOT

FOLDER = ROOT / "docs" / "pictures"
GROUND, INK, LINE = "#f7f8fb", "#1c2333", "#8a93a8"
PLAIN, BLUE, ORANGE, GREEN, GREY = "#ffffff", "#cfdcfb", "#fbdcc0", "#cfeeda", "#e4e7ee"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def box(
    x: float, y: float, width: float, height: float, text: str, fill: str = PLAIN, size: float = 14
) -> str:
    """Return a box with one or several lines of text in its middle."""
    lines = text.split("\n")
    first = y + height / 2 - (len(lines) - 1) * size * 0.6
    words = "".join(
        label(x + width / 2, first + number * size * 1.2, line, size, "middle")
        for number, line in enumerate(lines)
    )
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{fill}" stroke="{LINE}"/>'
        + words
    )


def label(x: float, y: float, text: str, size: float = 13, anchor: str = "start", weight: int = 400) -> str:
    """Return a line of text whose middle is at height `y`."""
    return (
        f'<text x="{x}" y="{round(y + size * 0.35, 1)}" font-size="{size}" text-anchor="{anchor}" '
        f'font-weight="{weight}" fill="{INK}">{escape(text)}</text>'
    )


def arrow(*points: tuple[float, float], dashed: bool = False) -> str:
    """Return a line through points with a head at its end."""
    path = " ".join(f"{x},{y}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{INK}" stroke-width="1.5"{dash} marker-end="url(#head)"/>'


def picture(width: int, height: int, title: str, *shapes: str) -> str:
    """Return a whole SVG."""
    head = (
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        f'orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z" fill="{INK}"/></marker></defs>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" font-family="{FONT}"><title>{escape(title)}</title>{head}'
        f'<rect width="{width}" height="{height}" rx="10" fill="{GROUND}"/>' + "".join(shapes) + "</svg>\n"
    )


def flow() -> str:
    """From pairs to a report."""
    y = 62
    return picture(
        860,
        210,
        "Pairs become a vector; a vector, a gate and a prompt become cells; many cells share one batch; records "
        "become a report",
        box(20, y, 90, 46, "pairs", BLUE),
        arrow((110, y + 23), (146, y + 23)),
        box(148, y, 90, 46, "vector", BLUE),
        arrow((238, y + 23), (274, y + 23)),
        box(276, y - 8, 140, 62, "steering: layer,\nstrength, scope", PLAIN, 13),
        box(276, y + 76, 140, 46, "gate: a probe of\nthe plain prompt", ORANGE, 13),
        arrow((346, y + 76), (346, y + 56)),
        arrow((416, y + 23), (452, y + 23)),
        box(454, y - 8, 92, 62, "cells\nof a grid", GREEN, 13),
        arrow((546, y + 23), (582, y + 23)),
        box(584, y - 8, 110, 62, "one batch,\nmany cells", GREEN, 13),
        arrow((694, y + 23), (730, y + 23)),
        box(732, y - 8, 108, 62, "records,\nreport", PLAIN, 13),
        box(454, y + 76, 92, 46, "questions", BLUE, 13),
        arrow((546, y + 99), (639, y + 99), (639, y + 56)),
        label(20, 26, "a steering is data, a run is data", 15, weight=600),
    )


def place() -> str:
    """Where in a model a vector acts."""
    shapes = [label(20, 26, "the residual stream through one decoder block", 15, weight=600)]
    shapes += [
        arrow((40, 170), (820, 170)),
        label(40, 150, "state h"),
        box(150, 84, 110, 40, "attention", GREY),
        box(390, 84, 110, 40, "MLP", GREY),
        arrow((128, 170), (128, 104), (150, 104)),
        arrow((260, 104), (300, 104), (300, 160)),
        arrow((360, 170), (360, 104), (390, 104)),
        arrow((500, 104), (540, 104), (540, 160)),
        *(
            f'<circle cx="{x}" cy="170" r="10" fill="{PLAIN}" stroke="{INK}"/>'
            + label(x, 170, "+", 15, "middle")
            for x in (300, 540)
        ),
        f'<rect x="138" y="68" width="376" height="126" rx="8" fill="none" stroke="{LINE}" stroke-dasharray="5 4"/>',
        label(326, 58, "block l", 13, "middle"),
        label(92, 194, "resid_pre", 12, "middle"),
        label(306, 90, "attn_out", 12),
        label(546, 90, "mlp_out", 12),
        label(590, 194, "resid_post", 12, "middle"),
        label(205, 136, "heads: z", 12, "middle"),
        f'<circle cx="680" cy="170" r="10" fill="{ORANGE}" stroke="{INK}"/>'
        + label(680, 170, "+", 15, "middle"),
        box(604, 224, 152, 44, "strength × vector", ORANGE),
        arrow((680, 224), (680, 182)),
        label(706, 150, "h + s · v"),
        label(40, 250, "Layer l is the output of block l, counted from 0: the default site, resid_post."),
    ]
    return picture(860, 290, "A vector is added to the residual stream at the output of a block", *shapes)


def phases() -> str:
    """Which positions a scope steers."""
    left, width, step = 148, 44, 46
    kinds = [("pad", GREY)] * 2 + [("prompt", BLUE)] * 4 + [("think", ORANGE)] * 4 + [("answer", GREEN)] * 5
    shapes = [label(20, 26, "one row, and what each scope steers in it", 15, weight=600)]
    shapes += [
        box(left + step * place, 52, width, 36, kind, fill, 10.5) for place, (kind, fill) in enumerate(kinds)
    ]
    spans = {
        "prompt": (2, 4),
        "completion": (5, 14),
        "thinking": (5, 8),
        "answer": (9, 14),
        "all": (2, 14),
    }
    for number, (scope, (first, last)) in enumerate(spans.items()):
        y = 112 + 30 * number
        shapes.append(label(134, y, f"scope={scope}", 13, "end"))
        shapes.append(
            f'<rect x="{left + step * first}" y="{y - 8}" width="{step * (last - first) + width}" height="16" rx="8" '
            f'fill="{INK}" opacity="0.75"/>'
        )
    shapes.append(
        label(
            20,
            278,
            "The last prompt token is the first completion position: its output chooses the first token. "
            "Padding is never steered.",
            12.5,
        )
    )
    return picture(860, 300, "Scopes are sets of phases: prompt, thinking, answer", *shapes)


def batch() -> str:
    """Many cells in one batch."""
    rows = [
        ("unsteered", "Who wrote Hamlet?", PLAIN, 9),
        ("layer 14, strength 0.5", "Who wrote Hamlet?", BLUE, 6),
        ("layer 14, strength 1, gated", "Who won in 2086?", GREEN, 11),
        ("layer 12, strength −1", "Who won in 2086?", ORANGE, 8),
        ("a system prompt", "What is 12 + 30?", GREY, 7),
    ]
    shapes = [
        label(20, 26, "one batch, one forward pass: every row carries its own steering", 15, weight=600),
        label(40, 58, "row's steering", 12.5),
        label(262, 58, "prompt", 12.5),
        label(420, 58, "tokens as they come", 12.5),
    ]
    for number, (cell, prompt, fill, tokens) in enumerate(rows):
        y = 72 + 38 * number
        shapes.append(box(20, y, 220, 30, cell, fill, 13))
        shapes.append(box(252, y, 150, 30, prompt, PLAIN, 12.5))
        shapes += [
            f'<rect x="{414 + 30 * place}" y="{y}" width="26" height="30" rx="4" fill="{fill}" stroke="{LINE}"/>'
            for place in range(tokens)
        ]
        if tokens < 9:
            shapes.append(
                f'<rect x="{414 + 30 * tokens}" y="{y}" width="{30 * (11 - tokens) - 4}" height="30" rx="4" '
                f'fill="none" stroke="{LINE}" stroke-dasharray="4 4"/>'
            )
            shapes.append(label(414 + 15 * (tokens + 11) - 2, y + 15, "next row", 11, "middle"))
    shapes.append(
        label(
            20,
            284,
            "A finished row's place goes to the next. Any packing gives, row by row, what one at a time gives.",
            12.5,
        )
    )
    return picture(860, 304, "Rows of several cells in one batch, each with its own steering", *shapes)


def gate() -> str:
    """A gate decides once a row."""
    return picture(
        860,
        240,
        "A probe reads the unsteered prompt; where it fires the row is steered, elsewhere the model writes as it is",
        label(20, 26, "a gate decides from the plain prompt, before the first token", 15, weight=600),
        box(20, 94, 130, 50, "prompt,\nunsteered", BLUE, 13),
        arrow((150, 119), (196, 119)),
        box(198, 94, 130, 50, "state at its\nlast token", GREY, 13),
        arrow((328, 119), (374, 119)),
        box(376, 94, 150, 50, "probe:\nprobability p", ORANGE, 13),
        arrow((526, 108), (590, 72)),
        arrow((526, 130), (590, 172)),
        label(540, 72, "p ≥ threshold", 12, "end"),
        label(546, 168, "below", 12, "end"),
        box(592, 46, 248, 52, "steered row", GREEN, 13),
        box(592, 146, 248, 52, "the model as it is:\nthe same row for all cells, run once", PLAIN, 12.5),
        label(20, 216, "It is read once a question. What it read is in every record.", 12.5),
    )


def splits() -> str:
    """Fit, choose, report."""
    return picture(
        860,
        220,
        "Vectors are fitted on one split, cells chosen on another, results measured once on a third",
        label(20, 26, "three splits, disjoint; twins never part", 15, weight=600),
        box(20, 60, 250, 66, "fit\nvectors, probes", BLUE, 14),
        box(305, 60, 250, 66, "choose\nthe grid; a rule picks a cell", ORANGE, 14),
        box(590, 60, 250, 66, "report\nthe pick, once, and its controls", GREEN, 14),
        arrow((270, 93), (303, 93)),
        arrow((555, 93), (588, 93)),
        label(
            20,
            158,
            "The best of many cells on choose is partly luck. What report says of the one that was picked",
            13,
        ),
        label(20, 178, "is not: none of its items took part in picking.", 13),
    )


PICTURES: dict[str, Callable[[], str]] = {
    each.__name__: each for each in (flow, place, phases, batch, gate, splits)
}


def main() -> None:
    """Write every picture."""
    FOLDER.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        (FOLDER / f"{name}.svg").write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
