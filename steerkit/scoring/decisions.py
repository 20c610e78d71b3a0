"""Find whether a text says yes or no, true or false.

What it states as its answer counts ("the answer is yes"); else the first of the words that stands by itself, at the
start of a sentence or between punctuation; else the first at all. A word that decides nothing is passed over: "no
doubt", "no one", "yes or no", a question ("Is it true?"). "Yes and no" is neither. "Not true" is false, "not false"
true, and a yes or no that is denied ("I would not say yes") does not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

PAIRS = (frozenset({"yes", "no"}), frozenset({"true", "false"}))

_OPPOSITE = {"true": "false", "false": "true"}
_SPELLINGS = {
    "yeah": "yes", "yep": "yes", "yup": "yes", "nope": "no", "nah": "no", "untrue": "false"
}  # fmt: skip
_WORD = re.compile(r"\b(?:yes|no|true|false|yeah|yep|yup|nope|nah|untrue)\b", re.IGNORECASE)
_BOTH = re.compile(
    r"\b(?:(?:both|neither)\W+)?(?:(yes)\W*(?:and|or|nor|/)\W*(no)|(no)\W*(?:and|or|nor|/)\W*(yes)|"
    r"(true)\W*(?:and|or|nor|/)\W*(false)|(false)\W*(?:and|or|nor|/)\W*(true))\b",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"[*_`\"“”‘(){}\[\]]|\\[a-z]+")
_QUESTION = re.compile(r"[^.!?\n]*\?")
# "no" before a noun or adverb with which it answers nothing.
_DETERMINED = re.compile(
    r"\s+(?:doubts?|questions?|problems?|wonder|matter|one|body|longer|worries|worry|idea|clue|need|surprise|mistake|"
    r"secret|denying|less|more|fewer|later|sooner|other|exceptions?|offen[cs]e|means|particular|comment|thanks)\b|"
    r"\.\s*\d",
    re.IGNORECASE,
)
_DENIED = re.compile(r"(?:\bnot|n['’]t|\bnever|\bcannot|\bnor)\s+(?:\w+\s+){0,2}?$", re.IGNORECASE)
_STATED = re.compile(
    r"(?:\b(?:answer|verdict|conclusion|reply)(?: to [^.!?\n]{1,60}?)?"
    r"(?:\s+(?:is|would be|must be|should be|was)\b|\s*[:=])|"
    r"####)\W*(?:(?:that|a|an|simply|definitely|clearly|therefore|just|still|probably)\W+)*$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Said:
    word: str
    stated: bool
    by_itself: bool


def decision(text: str, among: frozenset[str]) -> str | None:
    """Return which of the words `among` (yes, no, true, false) the text decides on; None for neither."""
    text = _MARKUP.sub(" ", text)
    answered = _QUESTION.sub(lambda m: " " * len(m[0]), text)
    said = [one for one in _said(answered) or _said(text) if one.word in among]
    for wanted in ([s for s in said if s.stated][-1:], [s for s in said if s.by_itself], said):
        if wanted:
            return wanted[0].word
    return None


def _said(text: str) -> list[_Said]:
    return list(_each_said(_BOTH.sub(lambda m: " " * len(m[0]), text)))


def _each_said(text: str) -> Iterator[_Said]:
    for match in _WORD.finditer(text):
        word = match[0].casefold()
        word = _SPELLINGS.get(word, word)
        before = text[max(0, match.start() - 120) : match.start()]
        behind = text[match.end() : match.end() + 40]
        if word == "no" and _DETERMINED.match(behind):
            continue
        if _DENIED.search(before[-40:]):
            if word not in _OPPOSITE:
                continue
            word = _OPPOSITE[word]
        opens = re.search(r"(?:\A|[.!?\n])\s*$", before) is not None
        bounded = re.search(r"[,;:—–-]\s*$|\b(?:is|so|therefore|hence|thus)\s+$", before) is not None
        ends = re.match(r"\s*(?:$|[.,;:!?\n—–-])", behind) is not None
        yield _Said(word, _STATED.search(before[-100:]) is not None, opens or (bounded and ends))
