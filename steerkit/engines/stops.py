"""Stop texts: where a completion's text first holds one, and what is left of it.

1. The text is that of the completion's tokens, decoded together, special tokens read as text and nothing stripped. The
   prompt is no part of it. A completion ends at the first token behind which its text holds a stop text, wherever in
   the token that text ends.
2. It is cut where the earliest stop text begins. Kept are the fewest first tokens whose text holds all that stands
   before; the last of them may hold the beginning of the stop text too, of which the completion's text has nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steerkit.core.prompts import Renderer


@dataclass(frozen=True, slots=True)
class Cut:
    """What a stop text leaves of a completion: so many first `tokens`, and the `text`, special tokens in it."""

    tokens: int
    text: str


def cut_by_newest(renderer: Renderer, ids: Sequence[int], stop: Sequence[str]) -> Cut | None:
    """Return what is left where the newest of the tokens `ids` brings about a stop text; None where it does not.

    Decodes all of `ids` only where the newest token may end a stop text.
    """
    own = renderer.own_text(ids[-1])
    if own is not None and not any(text[-1] in own for text in stop):
        return None
    whole = renderer.decode_raw(ids)
    found = [at for text in stop if (at := whole.find(text)) >= 0]
    return _cut(renderer, ids, whole[: min(found)]) if found else None


def first_cut(renderer: Renderer, ids: Sequence[int], stop: Sequence[str]) -> Cut | None:
    """Return what the first stop text that comes about leaves of a whole completion; None where there is none."""
    if not stop:
        return None
    cuts = (cut_by_newest(renderer, ids[:n], stop) for n in range(1, len(ids) + 1))
    return next((cut for cut in cuts if cut is not None), None)


def _cut(renderer: Renderer, ids: Sequence[int], kept: str) -> Cut:
    """The fewest first tokens that hold the text `kept`, and that text."""
    n = len(ids)
    while n and renderer.decode_raw(ids[: n - 1]).startswith(kept):
        n -= 1
    return Cut(n, kept)
