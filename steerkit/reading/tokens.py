"""The texts of tokens as a reader sees them."""

from __future__ import annotations

import unicodedata

from steerkit.core.characters import escaped, visible

PART = "▯"  # a token whose character ends with a later one


def shown(piece: str) -> str:
    """Return a token's text with all that would not be seen, or would act on what shows it, as escapes."""
    if not piece:
        return PART
    return "".join(
        escaped(char) if unicodedata.category(char) in ("Cf", "Zl", "Zp") else visible(char, keep="")
        for char in piece
    )
