"""Does a text mention an answer? Whole words in the same order, in whatever script and spelling they are written.

Case, accents, letters like ø and ß, emphasis, apostrophes, hyphens, the spacing of initials and an article at the
answer's start do not matter; a number counts by its value (`mentions`). What a word is depends on the script:

- Chinese, hiragana, Thai, Lao, Khmer, Burmese and Tibetan have no spaces: a character is a word. A run of
  katakana is one word.
- Korean writes particles onto a word, Arabic and Hebrew prefixes: the word may carry them.
- Symbols glued to a word are part of it (`C++`, `F#`, `A-`, `.NET`); punctuation at its end is not.

An answer without any word, such as an emoji, is looked for as it is.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from steerkit.scoring.numbers import Number, find_number_words, find_numbers, plain, read_number

# How a text is read; an answer and a text agree where they do in one of these.
_Reading = Literal["plain", "spaced", "stems", "joined", "transcribed", "valued"]
_READINGS: tuple[_Reading, ...] = ("plain", "spaced", "stems", "joined", "transcribed", "valued")


def mentions(text: str, answer: str) -> bool:
    """Whether the answer occurs in the text, as whole words in the same order."""
    value = read_number(answer)
    if value is not None and not re.search(r"half|third|quarter", answer, re.IGNORECASE):
        return any(number.value == value for number in _numbers(plain(_without_markup(text))))
    if answer.strip(" .()*").casefold() in ("a", "i"):
        return _chooses(_without_markup(text).strip(), answer.strip(" .()*"))
    dotted = answer.lstrip().startswith(".")
    letter = re.fullmatch(r"\W*[^\W\d_]\W*", answer) is not None
    for reading in _READINGS:
        wanted = _without_article(_words(answer, reading, dotted, letter))
        if not wanted:
            return _occurs(_signs(text), _signs(answer))
        if _occurs(_words(text, reading, dotted, letter), wanted):
            return True
    return False


def _chooses(text: str, letter: str) -> bool:
    """Whether a text gives the letter A or I, which are words as well: alone, marked as a choice, or as a capital."""
    choice = rf"\({letter}\)|(?<!\w){letter}\)|\b(?:option|choice|answer|letter|answer is)[\s:]+{letter}(?![\w'’+#-])"
    capital = rf"(?<![\w'’-]){letter.upper()}(?![\w'’+#-]|\s+(?!is\b|was\b|because\b|and\b|or\b)[a-z])"
    alone = text.strip(" .!*()").casefold() == letter.casefold()
    return alone or bool(re.search(choice, text, re.IGNORECASE) or re.search(capital, text))


def _without_article(words: list[str]) -> list[str]:
    return words[1:] if len(words) > 1 and words[0] in {"a", "an", "the"} else words


def _occurs(words: Sequence[str], wanted: Sequence[str]) -> bool:
    return bool(wanted) and any(
        all(map(_is_form_of, words[start : start + len(wanted)], wanted))
        for start in range(len(words) - len(wanted) + 1)
    )


# ---- words ----

_CHARACTER = (
    "\u3005-\u3007\u3041-\u3096\u309d\u309e\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # 漢字かな
    "\u0e00-\u0e7f\u0e80-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Tibetan, Burmese, Khmer
)
_KATAKANA = "\u30a1-\u30fa\u30fc"
_HANGUL = "\uac00-\ud7a3"
_MARKS = "\u0300-\u036f\u0483-\u0487\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed"
_LETTER = rf"(?:(?![{_CHARACTER}{_KATAKANA}{_HANGUL}])[\w{_MARKS}\u0900-\u0963\u0966-\u0dff])"
_GLUED = r"(?:\+\+|#|(?<=[^\W\d_])\++(?!\w)|(?<=\b[^\W\d_])[♭*](?!\w)|(?:(?<=\b[^\W\d_])|(?<=\b[^\W\d_]{2}))-(?![\w-]))"
_TOKEN = re.compile(
    rf"[{_KATAKANA}]+|[{_HANGUL}]+|(?![๐-๙])[{_CHARACTER}]|"
    rf"(?:(?<![\w)-])-(?=\d))?\d+(?:[.,]\d+)*{_LETTER}*|(?:(?<![\w.])\.(?=[^\W\d_]))?{_LETTER}+{_GLUED}?"
)

_TAG = re.compile(r"</?(?:b|i|u|em|strong|code|mark|sub|sup|span|br)\b[^<>]*>", re.IGNORECASE)
_DOUBLED_MARKUP = re.compile(r"\*\*|(?<![^\W_])__|__(?![^\W_])|~~|`(?!\w\b['’])")
_STARRED = re.compile(r"(?<![\w*])\*(?=[^\s*])([^*\n]*[^\s*])\*(?![\w*])")
_UNDERLINED = re.compile(r"(?<![^\W_])_+|_+(?![^\W_])")
_COMMAND = re.compile(r"\\(?:[A-Za-z]+\b|(?=[#&%_$*]))")
_APOSTROPHES = re.compile("[’‘ʼʻʾʿʹ′＇]|(?<=\\w)´(?=\\w)")
_ELIDED = re.compile(
    r"(?<![^\W_])(?:l|d|c|j|m|n|s|t|qu|jusqu|lorsqu|puisqu|dell|dall|nell|sull|all|un|quest|gl)'(?=\w\w)",
    re.I,
)
_ENDING = re.compile(r"(?<=\w\w)(?<!n)'[^\W\d_]{1,6}\b|(?<=n)'(?!t\b)[^\W\d_]{1,6}\b")
_POINTED = re.compile(
    r"(?<![\w.])(?:(?:[^\W\d_]\.[ \u00a0]?)+[^\W\d_](?!\w)\.?|(?:[^\W\d_]{1,2}\.)+[^\W\d_]{1,2}(?!\w))"
)
_SPACED_INITIALS = re.compile(r"(?<!\w)[A-Z](?: [A-Z])+(?= [A-Z][a-z])")
_TRANSCRIBED = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue",
                              "Å": "Aa", "Ø": "Oe"})  # fmt: skip
_NOT_DECOMPOSED = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i", "ħ": "h", "ŧ": "t",
                                 "ŋ": "n", "æ": "ae", "œ": "oe", "ɓ": "b", "ɗ": "d", "ƙ": "k", "ə": "e",
                                 "♯": "#", "ى": "ي", "ة": "ه", "־": "-"})  # fmt: skip


def _words(text: str, reading: _Reading, dotted: bool, letter: bool) -> list[str]:
    """The words of a text, folded. `dotted` keeps a point before a word, `letter` keeps what a hyphen joins as one."""
    return list(_words_of(text, reading, dotted, letter))


@lru_cache(maxsize=64)  # several answers are looked for in one text
def _words_of(text: str, reading: _Reading, dotted: bool, letter: bool) -> tuple[str, ...]:
    text = _without_markup(text)
    text = re.sub(r"(?i)(?<=\w)'s(?!\w)", "", _APOSTROPHES.sub("'", text))
    if reading == "stems":
        text = _ENDING.sub("", _ELIDED.sub("", text))
    text = text.replace("'", "")
    if reading == "valued":
        text = _with_values(text)
    if reading != "spaced":
        text = _SPACED_INITIALS.sub(_joined_letters, _POINTED.sub(_joined_letters, text))
    if reading == "transcribed":
        text = unicodedata.normalize("NFC", text).translate(_TRANSCRIBED)
    text = re.sub("[‐‑﹣－−]", "-", text)
    text = re.sub(r"[–—](?=\d)(?<![\w)].)", "-", text)
    glue = "" if reading == "joined" else "_" if letter else " "
    text = re.sub(r"(?<=[^\W_])-(?=[^\W_])", glue, text)
    if reading == "joined":
        text = text.replace("・", "")
    words = _TOKEN.findall(_folded(text.replace("&", " and ")))
    return tuple(word if dotted else word.lstrip(".") for word in words)


def _without_markup(text: str) -> str:
    text = html.unescape(text) if "&" in text else text
    text = _DOUBLED_MARKUP.sub("", _TAG.sub("", text))
    return _COMMAND.sub(" ", _UNDERLINED.sub(" ", _STARRED.sub(r"\1", text))).replace("\\", "")


def _joined_letters(match: re.Match[str]) -> str:
    return re.sub(r"[. \u00a0]", "", match[0])


def _folded(text: str) -> str:
    """The text in lower case, without accents, in one form of each letter and digit."""
    kept: list[str] = []
    base = ""
    for character in unicodedata.normalize("NFKD", text):
        if unicodedata.category(character) in ("Cf", "Mn", "Me"):
            if unicodedata.category(character) != "Cf" and not _drops_mark(base, character):
                kept.append(character)
            continue
        base = character
        kept.append(str(unicodedata.digit(character)) if character.isdecimal() else character)
    return unicodedata.normalize("NFC", "".join(kept).casefold().translate(_NOT_DECOMPOSED))


@lru_cache(maxsize=4096)
def _drops_mark(base: str, mark: str) -> bool:
    """Whether a mark only modifies its letter: an accent, a vowel point. In other scripts it makes another letter."""
    script = unicodedata.name(base, "").split(" ")[0] if base else ""
    if script == "CYRILLIC":
        return mark in "\u0300\u0301" or base in "еЕ"
    return script in ("LATIN", "GREEK", "HEBREW", "ARABIC", "DOTLESS")


def _numbers(written: str) -> list[Number]:
    digits = find_numbers(written)
    words = [
        w
        for w in find_number_words(written)
        if not any(w.start < d.stop and d.start < w.stop for d in digits)
    ]
    return sorted([*digits, *words], key=lambda number: number.start)


def _with_values(text: str) -> str:
    """The text with each number as one word that says its value."""
    written, place, parts = plain(text), 0, []
    for number in _numbers(written):
        if number.start >= place:
            value = str(number.value).replace("/", "over").replace("-", "minus")
            parts += [written[place : number.start], f" {value} "]
            place = number.stop
    return "".join([*parts, written[place:]])


# ---- words with something written onto them ----

_PARTICLES = re.compile(
    "(?:은|는|이|가|을|를|의|에|께|께서|에서|에게|한테|으로|로|와|과|랑|이랑|도|만|까지|부터|보다|처럼|마다|조차|라고|"
    "이라고|라는|이라는|이란|란|입니다|입니까|이다|다|이에요|예요|이었다|였다|이었습니다|였습니다|인데|이며|며|이고|고|"
    "이지만|지만|요|이죠|죠|씨|님|들)+"
)
_ARABIC_PREFIX = re.compile("[وف]?(?:[بكل]?ال|لل|[بكلس])?")
_HEBREW_PREFIX = re.compile("(?:[וש]?(?:כש|מה|[הבלמכש])?)")


def _is_form_of(word: str, wanted: str) -> bool:
    if word == wanted:
        return True
    if word.startswith(wanted) and "\uac00" <= wanted[-1] <= "\ud7a3":
        return len(wanted) > 1 and _PARTICLES.fullmatch(word, len(wanted)) is not None
    if "\u0590" <= wanted[0] <= "\u06ff" and len(wanted) > 2:
        stem = wanted.removeprefix("ال")
        prefix = _HEBREW_PREFIX if wanted[0] < "\u0600" else _ARABIC_PREFIX
        return len(stem) > 2 and word.endswith(stem) and prefix.fullmatch(word[: -len(stem)]) is not None
    return False


# ---- signs ----

_SIGN = re.compile("[\U0001f1e6-\U0001f1ff]{2}|\\S(?:\u200d\\S)*")
_STYLE = re.compile(
    "[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff\u200b\u2060\ufeff]"
)  # how an emoji looks, not which it is


def _signs(text: str) -> list[str]:
    return _SIGN.findall(_STYLE.sub("", text))
