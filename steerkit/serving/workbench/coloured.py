"""Completions in HTML: plain while they are written, coloured by what a reader read once they are there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from steerkit.core.characters import one_line, visible
from steerkit.core.prompts import Renderer
from steerkit.engines.base import Completion
from steerkit.interventions.readers import Reader
from steerkit.reading.html import token_spans
from steerkit.reading.scale import Scale, kind_of, scale_of
from steerkit.reading.tokens import pieces


def plain_html(text: str) -> str:
    """Return a text as HTML, line breaks kept and what acts on a page as escapes."""
    return escape(visible(text))


def common_scale(completions: Iterable[Completion]) -> Scale | None:
    """Return the scale of the first reader over all that it read of these completions; None where nothing was read."""
    read = [completion.readings[0] for completion in completions if completion.readings]
    if not read:
        return None
    return scale_of(kind_of(read[0].reader), (value for reading in read for value in reading.completion))


def completion_html(completion: Completion, renderer: Renderer, scale: Scale | None) -> str:
    """Return a completion's tokens coloured by its first reading on a scale, its plain text without one.

    On hover a token says what each reader read.
    """
    if scale is None or not completion.readings or not completion.token_ids:
        return plain_html(completion.text)
    tokens = pieces(renderer, completion.token_ids)
    columns = [(reading.reader.label, reading.completion) for reading in completion.readings]
    return token_spans(tokens, columns[0][1], scale, columns)


def legend_html(reader: Reader, scale: Scale) -> str:
    """Return which reading the colours are of, and its two ends."""
    ends = "".join(
        token_spans([f" {value:.3g} "], [value], scale, [("", [value])]) for value in (scale.low, scale.high)
    )
    return f'<p class="sk-legend">colour: {escape(one_line(reader.label))}, {ends.replace("</span><span", "</span> to <span")}</p>'


def notes_of(completion: Completion) -> list[str]:
    """Return what happened while it was written: its length, how it ended, what gates read and policies decided."""
    notes = [f"{completion.tokens} tokens" + (", cut off" if completion.finish == "length" else "")]
    if completion.thinking_tokens:
        notes.append(f"{completion.thinking_tokens} of them thinking")
    for gate in completion.gates:
        if gate.probability is None:
            notes.append(f"gate {gate.gate}: open at {float(gate.fired):.0%} of the positions")
        else:
            notes.append(f"gate {gate.gate} read {gate.probability:.2f}: {'open' if gate.fired else 'shut, nothing steered'}")
    for decision in completion.decisions:
        notes.append(f"policy {decision.policy} acted behind token {decision.tokens}, at {decision.reading:.3g}")
    if completion.forced:
        notes.append("the thinking budget closed its thinking")
    return notes


def notes_html(notes: Sequence[str]) -> str:
    """Return notes as a line of small print."""
    return f'<p class="sk-notes">{"; ".join(escape(one_line(note)) for note in notes)}</p>'
