"""Completions in HTML: plain while they are written, coloured by what a reader read once they are there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from steerkit.core.characters import one_line, visible
from steerkit.core.prompts import Renderer
from steerkit.engines.base import Completion, GateReading
from steerkit.interventions.readers import Reader
from steerkit.reading.html import legend, token_spans
from steerkit.reading.reduction import Value
from steerkit.reading.scale import Scale, kind_of, scale_of
from steerkit.serving.workbench.streams import Written

CURSOR = '<span class="sk-cursor" aria-hidden="true"></span>'


def plain_html(text: str) -> str:
    """Return a text as HTML, line breaks kept and what acts on a page as escapes."""
    return escape(visible(text))


def common_scale(several: Iterable[Written]) -> tuple[Reader, Scale] | None:
    """Return the first reader and the scale of all that it has read of these; None where nothing was read."""
    read: dict[Reader, list[Value]] = {}
    for each in several:
        for reader, values in columns_of(each)[:1]:
            read.setdefault(reader, []).extend(values)
    for reader, values in read.items():
        return reader, scale_of(kind_of(reader), values)
    return None


def columns_of(written: Written) -> list[tuple[Reader, Sequence[Value]]]:
    """Return what each reader has read of the tokens so far."""
    if written.completion is not None:
        return [(reading.reader, reading.completion) for reading in written.completion.readings]
    return list(written.readings.items())


def written_html(written: Written, renderer: Renderer, scale: Scale | None) -> str:
    """Return what is written so far, tokens coloured by the first reader as far as it has read; plain without a scale.

    On hover a token says what each reader read.
    """
    completion = written.completion
    ids = written.token_ids if completion is None else completion.token_ids
    cursor = "" if completion is not None else CURSOR
    columns = columns_of(written)
    if scale is None or not columns or not ids:
        return plain_html(written.text if completion is None else completion.text) + cursor
    tokens = renderer.pieces(ids)
    several = [(reader.label, [*values, *[None] * (len(tokens) - len(values))]) for reader, values in columns]
    return token_spans(tokens, several[0][1][: len(tokens)], scale, several) + cursor


def legend_html(reader: Reader, scale: Scale) -> str:
    """Return which reading the colours are of, and its two ends."""
    return f'<p class="sk-legend">colour: {escape(one_line(reader.label))}, {legend(scale)}</p>'


def notes_of(completion: Completion) -> list[str]:
    """Return what happened while it was written: its length, how it ended, what gates read and policies decided."""
    notes = [f"{completion.tokens} tokens" + (", cut off" if completion.finish == "length" else "")]
    if completion.thinking_tokens:
        notes.append(f"{completion.thinking_tokens} of them thinking")
    notes += map(_gate_note, completion.gates)
    notes += [
        f"policy {decision.policy} acted behind token {decision.tokens}, at {decision.reading:.3g}"
        for decision in completion.decisions
    ]
    return [*notes, "the thinking budget closed its thinking"] if completion.forced else notes


def _gate_note(gate: GateReading) -> str:
    if gate.probability is None:
        return f"gate {gate.gate}: open at {float(gate.fired):.0%} of the positions"
    state = "open" if gate.fired else "shut, nothing steered"
    return f"gate {gate.gate} read {gate.probability:.2f}: {state}"


def notes_html(notes: Sequence[str]) -> str:
    """Return notes as a line of small print."""
    return f'<p class="sk-notes">{"; ".join(escape(one_line(note)) for note in notes)}</p>'
