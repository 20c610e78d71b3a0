"""Characters that act instead of being seen, shown as escapes wherever a text is put before a reader.

Control characters steer a terminal, and the marks of the bidirectional algorithm show a text in another order than it
has. Both are written as Python writes them, `\\x1b` or `\\u202e`; so is half of a surrogate pair, which no file holds.
"""

from __future__ import annotations

import re

# Controls, directional marks and isolates, the separators of lines and paragraphs, halves of surrogate pairs.
ACTING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
LAYOUT = "\t\n"


def visible(text: str, keep: str = LAYOUT) -> str:
    """Return the text with each character that acts as an escape, but for those of `keep`; the rest as it is."""
    return ACTING.sub(lambda found: found[0] if found[0] in keep else escaped(found[0]), text)


def escaped(text: str) -> str:
    """Return the text with everything but printable ASCII as Python writes it in a literal."""
    return text.encode("unicode_escape").decode()


def is_unicode(text: str) -> bool:
    """Return whether a text can be written in UTF-8: no half of a surrogate pair is in it, as bad bytes become."""
    return not re.search("[\ud800-\udfff]", text)


def one_line(text: str) -> str:
    """Return the text on one line: line breaks with the blanks around them are a blank, what acts is an escape."""
    return visible(re.sub(r"\s*[\r\n]\s*", " ", text.strip("\r\n")), keep="\t")


def excerpt(text: str, longest: int = 60) -> str:
    """Return the beginning of a text, cut where it is longer than `longest` characters."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
