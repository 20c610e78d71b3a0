"""What readers read of completions, on the command line: coloured tokens on a terminal, else a table; and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from steerkit.cli import console

if TYPE_CHECKING:
    from steerkit.engines.base import Completion, Engine
    from steerkit.reading.read import ReadText
    from steerkit.reading.scale import Scale


def texts_of(completions: Sequence[Completion], engine: Engine) -> list[ReadText]:
    """Return each completion as a text that was read, its prompt's tokens first."""
    from steerkit.reading.read import ReadText

    return [ReadText.of(completion, engine.model) for completion in completions]


def scales(texts: Sequence[ReadText], *, prompts: bool) -> list[Scale]:
    """Return a scale for each reader, the same for all texts, so that their colours compare.

    The first token of a prompt is left out: in most models its state is far from all others.
    """
    from steerkit.reading.scale import kind_of, scale_of

    readers = [reading.reader for reading in texts[0].readings]
    return [
        scale_of(
            kind_of(reader),
            [value for text in texts for value in text.values(i)[1 if prompts else text.prompt_tokens :]],
        )
        for i, reader in enumerate(readers)
    ]


def show(text: ReadText, scales: Sequence[Scale], *, prompt: bool) -> None:
    """Print what was read of a text, of its prompt too if that is asked for."""
    from steerkit.reading.terminal import coloured, legend

    start = 0 if prompt else text.prompt_tokens
    if not console.has_colours():
        _show_table(text, start)
        return
    for place, (reading, scale) in enumerate(zip(text.readings, scales, strict=True)):
        console.show_made_text(legend(reading.reader.label, scale))
        console.show_made_text(coloured(text.tokens[start:], text.values(place)[start:], scale))


def to_json(text: ReadText, *, prompt: bool) -> dict[str, Any]:
    """Return the texts of the tokens and each reader's values, None for one that is not finite."""
    from steerkit.reading.reduction import rounded

    cut = text.prompt_tokens
    read = [
        {"reader": str(reading.reader), "values": list(map(rounded, reading.completion))}
        | ({"prompt_values": list(map(rounded, reading.prompt))} if prompt else {})
        for reading in text.readings
    ]
    pieces = {"pieces": list(text.tokens[cut:])}
    return pieces | ({"prompt_pieces": list(text.tokens[:cut])} if prompt else {}) | {"readings": read}


def _show_table(text: ReadText, start: int) -> None:
    from steerkit.reading.tokens import shown

    columns = ["token", *(reading.reader.label for reading in text.readings)]
    rows = [
        [shown(token), *(console.number(text.values(i)[place], ".4g") for i in range(len(text.readings)))]
        for place, token in enumerate(text.tokens)
        if place >= start
    ]
    if start == 0:
        columns.append("of")
        for place, row in enumerate(rows):
            row.append("prompt" if place < text.prompt_tokens else "completion")
    console.print_table(columns, rows)
