"""The texts of tokens, as they join to a text and as a reader sees them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import pairwise

from steerkit.core.characters import escaped, visible
from steerkit.core.prompts import Renderer

PART = "▯"  # a token whose character ends with a later one


def pieces(renderer: Renderer, ids: Sequence[int]) -> tuple[str, ...]:
    """Return what each token adds to the text: parts of one character stand with the token that ends it."""
    text = renderer.decode_raw(ids)
    return tuple(text[a:b] for a, b in pairwise(renderer.offsets(ids, text)))


def shown(piece: str) -> str:
    """Return a token's text with all that would not be seen, or would act on what shows it, as escapes."""
    if not piece:
        return PART
    return "".join(
        escaped(char) if unicodedata.category(char) in ("Cf", "Zl", "Zp") else visible(char, keep="")
        for char in piece
    )
