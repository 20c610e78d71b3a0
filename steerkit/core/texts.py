"""What a text is to a reader: whether there is anything to see in it."""

from __future__ import annotations

import unicodedata

# Categories of characters that show nothing: controls, formats (zero-width ones among them) and separators.
INVISIBLE_CATEGORIES = ("Cc", "Cf", "Zs", "Zl", "Zp")
# Further characters that are drawn as nothing or as a blank: Unicode's default ignorable ones of other categories
# (joiners, Hangul and Khmer fillers, variation selectors, unassigned tags), the Braille blank, the null notehead.
INVISIBLE = (
    (0x034F, 0x034F),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x2065, 0x2065),
    (0x2800, 0x2800),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFF8),
    (0x1D159, 0x1D159),
    (0xE0000, 0xE0FFF),
)


def is_blank(text: str) -> bool:
    """Return whether nothing of a text can be seen: it is empty, or holds only blanks and invisible characters."""
    return not any(map(_is_seen, text))


def _is_seen(character: str) -> bool:
    if unicodedata.category(character) in INVISIBLE_CATEGORIES:
        return False
    return not any(first <= ord(character) <= last for first, last in INVISIBLE)
