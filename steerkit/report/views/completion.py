"""A completion: its prompt, its text with thinking set apart, or its tokens in the colours of what read them."""

from __future__ import annotations

from steerkit.core.registry import VIEWS
from steerkit.engines.base import Completion
from steerkit.extraction.pairs import prompt_text
from steerkit.models.thinking import Span
from steerkit.reading import html as colours
from steerkit.reading.scale import kind_of, scale_of
from steerkit.report.views.parts import cut, frame, text


def completion_html(completion: Completion) -> str:
    """Return a completion for readers; where it was read, once for each reader, on that one's colours."""
    request = completion.request
    acting = " ; ".join(str(each) for each in request.interventions if each.acts) or "unsteered"
    ended = "cut off" if completion.finish == "length" else "ended"
    prompt = f'<div class="sk-text sk-dim">{text(cut(prompt_text(request.prompt)))}</div>'
    body = _read(completion) if completion.readings and completion.pieces else _spans(completion)
    return frame(acting, f"{completion.tokens} tokens, {ended}", prompt, body, _decided(completion))


def _spans(completion: Completion) -> str:
    spans = completion.spans or (Span("answer", 0, len(completion.text)),)
    return "".join(_span(span, completion.text[span.start : span.stop]) for span in spans)


def _span(span: Span, said: str) -> str:
    """A part of a completion; markers only separate, and blank parts are left out."""
    if span.kind == "marker" or not said.strip():
        return ""
    label = {"thinking": "thinking", "tool": "call of a tool"}.get(span.kind)
    if label is None:
        return f'<div class="sk-text">{text(said.strip())}</div>'
    return f'<div class="sk-text sk-think"><span class="sk-label">{label}</span>{text(said.strip())}</div>'


def _read(completion: Completion) -> str:
    """The tokens, once for each reader, in its colours; behind a rule where thinking ended."""
    thought = sum(span.tokens for span in completion.spans if "thinking" in (span.kind, span.of))
    blocks = []
    for reading in completion.readings:
        values = reading.completion
        scale = scale_of(kind_of(reading.reader), values)
        parts = [
            colours.token_spans(completion.pieces[part], values[part], scale)
            for part in (slice(thought), slice(thought, None))
        ]
        thinking = f'<div class="sk-text sk-think"><span class="sk-label">thinking</span>{parts[0]}</div>'
        blocks.append(
            f'<p class="sk-legend">{text(reading.reader.label)}: {colours.legend(scale)}</p>'
            f'{thinking if thought else ""}<div class="sk-text" dir="auto">{parts[1]}</div>'
        )
    return f'<div class="sk-read"><style>{colours.STYLE}</style>{"".join(blocks)}</div>'


def _decided(completion: Completion) -> str:
    """What gates read, and what policies did."""
    said = []
    for gate in completion.gates:
        read = "" if gate.probability is None else f" read {gate.probability:.3f},"
        fired = (
            f"fired at {gate.fired:.0%} of positions"
            if not isinstance(gate.fired, bool)
            else "opened"
            if gate.fired
            else "stayed shut"
        )
        said.append(f"gate {gate.gate}:{read} {fired}")
    said += [
        f"{each.policy} acted behind {each.tokens} tokens, at {each.reading:.3g}"
        for each in completion.decisions
    ]
    return "".join(f'<p class="sk-dim">{text(line)}</p>' for line in said)


VIEWS.add("completion", completion_html)
