"""What Inspect hands over as `steer`, as whole spec strings. Apart from `inspect_model`, which needs Inspect itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from steerkit.core.errors import MisuseError
from steerkit.interventions.spec import split


def specs(steer: str | Sequence[str]) -> list[str]:
    """Return whole spec strings. Inspect's command line splits a value at its commas: a key and its value go on.

    What stands in quotes is left whole, or made whole again. Raises MisuseError for a quote that is never closed.
    """
    whole: list[str] = []
    for piece in split(steer, ",") if isinstance(steer, str) else _with_quotes_closed(steer):
        if whole and len(split(piece, "=")) > 1 and len(split(piece, "@")) == 1:
            whole[-1] += f",{piece}"
        elif piece:
            whole.append(piece)
    return whole


def _with_quotes_closed(pieces: Sequence[str]) -> Iterator[str]:
    """The pieces, those between whose commas a quote is open put together."""
    begun: list[str] = []
    for piece in pieces:
        begun.append(piece)
        try:
            split(",".join(begun), ",")
        except MisuseError:
            continue
        yield ",".join(begun)
        begun.clear()
    if begun:
        yield ",".join(begun)
