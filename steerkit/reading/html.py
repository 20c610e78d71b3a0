"""Readings in HTML: coloured tokens with their values on hover, and a table of layers by tokens.

Every text is escaped, and what would act on a page or not be seen in it is shown as an escape. The colours are laid
over the page's own ground, light or dark, so that its ink stays legible. Styles come with each part; nothing is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from steerkit.reading.reduction import Value
from steerkit.reading.scale import Scale, kind_of, scale_of
from steerkit.reading.tokens import shown

if TYPE_CHECKING:
    from steerkit.interventions.readers import Reading
    from steerkit.reading.read import ReadText
    from steerkit.reading.read_map import ReadMap

STYLE = """
.sk-read { font-size: .92rem; line-height: 1.7; }
.sk-read .sk-text { white-space: pre-wrap; overflow-wrap: anywhere; }
.sk-read .sk-t { unicode-bidi: isolate; border-radius: 2px; padding: .1em 0; }
.sk-t.below { background: rgb(0 114 178 / calc(var(--a) * .6)); }
.sk-t.above { background: rgb(230 97 1 / calc(var(--a) * .6)); }
.sk-t.level { background: rgb(0 114 178 / calc(var(--a) * .6)); }
.sk-t.none { text-decoration: underline dotted; }
.sk-read .sk-legend { font-size: .82rem; opacity: .8; }
.sk-read .sk-prompt { border-right: 2px solid; padding-right: 1px; }
.sk-read .sk-scroll { overflow-x: auto; }
.sk-read table { border-collapse: separate; border-spacing: 1px; font-size: .75rem; width: auto; }
.sk-read th, .sk-read td { padding: .05rem .3rem; text-align: center; white-space: pre; font-weight: 400; border: 0; }
.sk-read tbody th { text-align: right; font-variant-numeric: tabular-nums; }
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.55 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }}
{style}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def token_spans(
    tokens: Sequence[str],
    values: Sequence[Value],
    scale: Scale,
    more: Sequence[tuple[str, Sequence[Value]]] = (),
) -> str:
    """Return the tokens as spans coloured by `values`; on hover each says its text and what `more`, by label, read."""
    spans = []
    for place, (token, value) in enumerate(zip(tokens, values, strict=True)):
        read = more or [("", values)]
        said = [f"{label}: {_number(column[place])}".removeprefix(": ") for label, column in read]
        spans.append(_span(token, value, scale, "\n".join([shown(token), *map(shown, said)])))
    return "".join(spans)


def legend(scale: Scale) -> str:
    """Return the two ends of a scale in their colours."""
    return f"{_swatch(scale, scale.low)} to {_swatch(scale, scale.high)}"


def text_html(text: ReadText) -> str:
    """Return a text that was read as a part of a page: for each reader a legend and the tokens in its colours."""
    blocks = [_block(text, reading) for reading in text.readings]
    return f'<div class="sk-read"><style>{STYLE}</style>{"".join(blocks)}</div>'


def map_html(read: ReadMap) -> str:
    """Return a map as a part of a page: a line a layer, the last on top, a column a token."""
    heads = "".join(f"<th>{_text(token, breaks=False)}</th>" for token in read.tokens)
    lines = []
    for place in reversed(range(len(read.layers))):
        scale = read.scale(place)
        cells = "".join(
            _cell(token, value, scale, read.layers[place])
            for token, value in zip(read.tokens, read.values[place], strict=True)
        )
        lines.append(
            f"<tr><th>{read.layers[place]}</th>{cells}<th>{scale.low:.3g} to {scale.high:.3g}</th></tr>"
        )
    return (
        f'<div class="sk-read"><style>{STYLE}</style><p class="sk-legend">{_text(read.label)} by layer and token; '
        f'the colours of a line are those of its range, at the right</p><div class="sk-scroll"><table><thead><tr>'
        f"<th>layer</th>{heads}<th>range</th></tr></thead><tbody>{''.join(lines)}</tbody></table></div></div>"
    )


def readings_page(parts: Sequence[ReadText | ReadMap | str], title: str = "Readings") -> str:
    """Return one self-contained page of texts that were read, maps, and headings."""
    body = [f"<h2>{_text(part)}</h2>" if isinstance(part, str) else part._repr_html_() for part in parts]
    return PAGE.format(title=escape(shown(title)), style=STYLE, body="\n".join(body))


def _block(text: ReadText, reading: Reading) -> str:
    values = reading.prompt + reading.completion
    scale = scale_of(kind_of(reading.reader), values[1:] or values)
    cut = text.prompt_tokens
    prompt, completion = (
        token_spans(text.tokens[part], values[part], scale) for part in (slice(cut), slice(cut, None))
    )
    return (
        f'<p class="sk-legend">{_text(reading.reader.label)}: {legend(scale)}</p>'
        f'<div class="sk-text" dir="auto"><span class="sk-prompt">{prompt}</span>'
        f"{completion}</div>"
    )


def _cell(token: str, value: Value, scale: Scale, layer: int) -> str:
    hover = _attribute(f"{shown(token)}\nlayer {layer}: {_number(value)}")
    return f'<td class="{_class(scale, value)}" style="{_amount(scale, value)}" title="{hover}">&nbsp;</td>'


def _swatch(scale: Scale, value: float) -> str:
    return _span(f" {value:.3g} ", value, scale, "")


def _span(token: str, value: Value, scale: Scale, title: str) -> str:
    amount, hover = _amount(scale, value), f' title="{_attribute(title)}"' if title else ""
    return f'<span class="{_class(scale, value)}" style="{amount}"{hover}>{_text(token)}</span>'


def _class(scale: Scale, value: Value) -> str:
    place = scale.at(value)
    if place is None:
        return "sk-t none"
    return "sk-t level" if not scale.signed else "sk-t above" if place > 0 else "sk-t below"


def _amount(scale: Scale, value: Value) -> str:
    return f"--a:{abs(scale.at(value) or 0.0):.3g}"


def _text(token: str, *, breaks: bool = True) -> str:
    """A token's text; behind a line break that is shown there is one, where `breaks`."""
    return escape(shown(token)) + "<br>" * (token.count("\n") if breaks else 0)


def _attribute(text: str) -> str:
    return escape(text, quote=True).replace("\n", "&#10;")


def _number(value: Value) -> str:
    return "none" if value is None else f"{value:.4g}"
