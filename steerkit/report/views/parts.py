"""The parts of a view: a frame with its styles, facts, tables. All text is escaped; colours hold on light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from steerkit.core.characters import visible

# Ink and ground are the notebook's own. What is coloured has a contrast of at least 3 on white and on black. The class
# is doubled where Jupyter styles tables too.
STYLE = """
.sk-view { font-size: .875rem; line-height: 1.45; max-width: 64rem; color: inherit; }
.sk-view .sk-head { margin: 0 0 .4rem; }
.sk-view .sk-head b { font-size: 1rem; }
.sk-view .sk-dim { opacity: .72; }
.sk-view .sk-scroll { overflow: auto; max-height: 26rem; }
.sk-view.sk-view table { border-collapse: collapse; margin: .3rem 0; font-size: .8125rem; width: auto; color: inherit; }
.sk-view.sk-view tr, .sk-view.sk-view tbody tr:nth-child(odd), .sk-view.sk-view tbody tr:hover { background: none; }
.sk-view.sk-view th, .sk-view.sk-view td { padding: .2rem .6rem .2rem 0; text-align: left; vertical-align: top;
  border: 0; white-space: pre-wrap; overflow-wrap: break-word; max-width: 26rem; }
.sk-view.sk-view thead th { border-bottom: 1px solid; font-weight: 600; white-space: nowrap; }
.sk-view.sk-view tbody tr + tr td, .sk-view.sk-view tbody tr + tr th { border-top: 1px solid rgb(128 128 128 / .3); }
.sk-view.sk-view .sk-facts th { font-weight: 400; opacity: .72; white-space: nowrap; }
.sk-view.sk-view td:first-child { min-width: 6rem; }
.sk-view.sk-view .sk-facts td { max-width: 48rem; overflow-wrap: anywhere; }
.sk-view.sk-view .sk-n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.sk-view.sk-view .sk-best td { font-weight: 600; }
.sk-view.sk-view .sk-faint td { opacity: .72; }
.sk-view .sk-charts { display: flex; flex-wrap: wrap; gap: .5rem 1rem; }
.sk-view svg { max-width: 100%; height: auto; display: block; color: inherit; }
.sk-view svg text { fill: currentColor; font: 11px system-ui, sans-serif; }
.sk-view .sk-text { white-space: pre-wrap; overflow-wrap: anywhere; margin: .4rem 0; }
.sk-view .sk-think { border-left: 3px solid rgb(128 128 128 / .6); padding-left: .7rem; opacity: .8; }
.sk-view .sk-label { font-size: .75rem; letter-spacing: .02em; opacity: .72; display: block; }
"""

LONGEST_TEXT = 400  # characters of a text in a table


def frame(title: str, subtitle: str, *parts: str) -> str:
    """Return a view: its title, what it is in a few words, and its parts, which are HTML already."""
    head = f'<p class="sk-head"><b>{text(title)}</b> <span class="sk-dim">{text(subtitle)}</span></p>'
    return f'<div class="sk-view"><style>{STYLE}</style>{head}{"".join(parts)}</div>'


def facts(said: Mapping[str, object]) -> str:
    """Return a table of names and values; what is None or empty is left out."""
    rows = [
        f"<tr><th>{text(name)}</th><td>{text(str(value))}</td></tr>"
        for name, value in said.items()
        if value is not None and value != ""
    ]
    return f'<table class="sk-facts"><tbody>{"".join(rows)}</tbody></table>'


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: int = 0,
    classes: Sequence[str] = (),
) -> str:
    """Return a table that scrolls where it is large; its last `numbers` columns hold numbers.

    `classes` are the rows' style classes, in order; without any, all are plain.
    """
    first = len(headings) - numbers

    def cells(tag: str, row: Sequence[str]) -> str:
        style = ["", ' class="sk-n"']
        return "".join(
            f"<{tag}{style[place >= first]}>{text(cell)}</{tag}>" for place, cell in enumerate(row)
        )

    lines = []
    for number, row in enumerate(rows):
        style = f' class="{classes[number]}"' if classes and classes[number] else ""
        lines.append(f"<tr{style}>{cells('td', row)}</tr>")
    head = f"<thead><tr>{cells('th', headings)}</tr></thead>"
    return f'<div class="sk-scroll"><table>{head}<tbody>{"".join(lines)}</tbody></table></div>'


def note(said: str) -> str:
    """Return a line in small print."""
    return f'<p class="sk-dim">{text(said)}</p>'


def text(given: str) -> str:
    """Return a text as HTML: escaped, with what would act or not be seen written out."""
    return escape(visible(given))


def cut(given: str) -> str:
    """Return a text no longer than a table shows of one."""
    return given if len(given) <= LONGEST_TEXT else f"{given[:LONGEST_TEXT].rstrip()} …"
