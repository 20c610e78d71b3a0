"""Phrase files: what one language says when it admits, states or concludes, as regular expressions.

`data/scoring/abstention/<code>.txt` holds one language. Sections are `[words NAME]` (alternatives, parted by blanks,
`_` for a blank), `[phrase NAME]` (one expression), `[rules NAME]` (one expression a line, in which `<NAME>` stands for
words or a phrase) and `[seen_in]`: where a text must hold one of the words, or one letter of the range, for the file
to be tried at all. Which language a text is in is not guessed: every file that may apply is tried. Lines that begin
with `#` are remarks. Expressions meet folded text (see `folded`) and are folded alike, so accents may be written.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from dataclasses import dataclass
from importlib import resources

# Written without blanks between words, or with endings that no boundary parts: matched anywhere.
_UNSPACED = frozenset({"hi", "ja", "ko", "th", "zh"})
# Accents of Latin, Greek and Cyrillic, points of Hebrew and Arabic, joiners: left out alike in text and phrase.
_MARKS = re.compile("[\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u0640\u00ad\u200b-\u200f\u2060\ufeff]")
# One letter in two forms: of Arabic and Persian keyboards, at the end of a Greek word, and sharp s.
_ALIKE = str.maketrans({"ى": "ي", "ی": "ي", "ک": "ك", "ة": "ه", "ۀ": "ه", "ς": "σ", "ß": "ss"})
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Phrases:
    """The phrases of one language; a section that its file lacks matches nothing."""

    code: str
    words: frozenset[str]
    letters: re.Pattern[str] | None
    sections: dict[tuple[str, str], str]

    def may_apply(self, plain: str, words: frozenset[str]) -> bool:
        """Whether a folded text of these words can hold one of the phrases."""
        if self.letters is not None:
            return self.letters.search(plain) is not None
        return not self.words or not self.words.isdisjoint(words)

    def rules(self, name: str) -> re.Pattern[str]:
        """One pattern for a section of rules."""
        return _compiled(self.code, name)


def folded(text: str) -> str:
    """The text in lower case and compatible forms, without accents and joiners; line breaks are kept."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text).casefold())
    return unicodedata.normalize("NFC", _MARKS.sub("", decomposed)).translate(_ALIKE)


def applying(plain: str) -> list[Phrases]:
    """The phrases of every language that may apply to a folded text."""
    words = frozenset(_WORD.findall(plain))
    return [phrases for phrases in _languages().values() if phrases.may_apply(plain, words)]


@functools.cache
def _languages() -> dict[str, Phrases]:
    folder = resources.files("steerkit") / "data" / "scoring" / "abstention"
    files = sorted(
        (file for file in folder.iterdir() if file.name.endswith(".txt")), key=lambda file: file.name
    )
    return {file.name[:-4]: _read(file.name[:-4], file.read_text(encoding="utf-8")) for file in files}


def _read(code: str, text: str) -> Phrases:
    """One language's phrases from the text of its file."""
    text = _MARKS.sub("", unicodedata.normalize("NFD", text))
    text = unicodedata.normalize("NFC", text).translate(_ALIKE)
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    parts = re.split(r"^\[(words|phrase|rules|seen_in) ?(\w*)\]\n", lines, flags=re.MULTILINE)[1:]
    sections = {(kind, name): body.strip("\n") for kind, name, body in zip(*[iter(parts)] * 3, strict=True)}
    seen_in = sections.get(("seen_in", ""), "")
    by_letter = seen_in.startswith("[")
    return Phrases(
        code,
        words=frozenset() if by_letter else frozenset(seen_in.split()),
        letters=re.compile(seen_in) if by_letter else None,
        sections=sections,
    )


@functools.cache
def _compiled(code: str, name: str) -> re.Pattern[str]:
    sections = _languages()[code].sections
    named = {
        title: f"(?:{'|'.join(body.split()).replace('_', ' ')})" if kind == "words" else body
        for (kind, title), body in sections.items()
        if kind in {"words", "phrase"}
    }
    rules = "|".join(filter(None, sections.get(("rules", name), "").splitlines()))
    if not rules:
        return re.compile(r"(?!)")
    while "<" in (filled := re.sub(r"<([a-z_]+)>", lambda found: named[found[1]], rules)) and filled != rules:
        rules = filled
    return re.compile(filled if code in _UNSPACED else rf"(?<!\w)(?:{filled})(?!\w)")
