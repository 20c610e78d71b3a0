"""Readings in a terminal: the tokens of a text on coloured ground, with a legend. Texts are data, never markup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steerkit.reading.reduction import Value
from steerkit.reading.scale import Scale, ink_on
from steerkit.reading.tokens import shown

if TYPE_CHECKING:
    from rich.style import Style
    from rich.text import Text

LEGEND_STEPS = 15


def coloured(tokens: Sequence[str], values: Sequence[Value], scale: Scale) -> Text:
    """Return the tokens as one Rich text, each on the colour of its value; what would not be seen is an escape.

    Ink is black or white, set with the ground, so that both are legible whatever the terminal's own colours are. A line
    break is shown and then made.
    """
    from rich.text import Text  # not for a --help: start-up time

    text = Text()
    for token, value in zip(tokens, values, strict=True):
        text.append(shown(token), _style(scale, value))
        text.append("\n" * token.count("\n"))
    return text


def legend(label: str, scale: Scale) -> Text:
    """Return a reader's name and its scale, from the lowest value to the highest."""
    from rich.text import Text

    text = Text(f"{shown(label)}  {scale.low:.3g} ")
    for step in range(LEGEND_STEPS):
        share = step / (LEGEND_STEPS - 1)
        text.append(" ", _style(scale, scale.low + share * (scale.high - scale.low)))
    text.append(f" {scale.high:.3g}")
    return text


def _style(scale: Scale, value: Value) -> Style | None:
    from rich.color import Color
    from rich.style import Style

    ground = scale.colour(value)
    if ground is None:
        return Style(underline=True)
    return Style(color=Color.from_rgb(*ink_on(ground)), bgcolor=Color.from_rgb(*ground))
