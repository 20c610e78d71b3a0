"""Is a completion's answer correct? One rule for each kind of answer, stated here in full.

`number`: the number that the text *states as its result*, compared exactly. It stands in the first of these
that the text has: its last `\\boxed{}`; what follows its last `####`; what follows its last "answer is" or
"answer:" in that sentence; its last sentence with a number. There it is the number after the last `=`, if
any; else the first number after `####` or "answer is", and otherwise the last. Thousands commas, currency and
percent signs, units and trailing zeros do not matter; fractions count; numbers written as words, up to
hundreds, are read where the text has no digits.

`text`: one of the answers occurs in the text, as whole words in the same order. Case, accents, punctuation,
possessive endings and an article at the answer's start do not matter. Where all answers are among yes, no,
true and false, the first of these words in the text decides. A text that mentions the answer beside wrong
ones counts as correct.

`latex`: mathematical equality, by `math_verify`, of what the text states and any of the answers.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from steerkit.core.errors import SteerkitError
from steerkit.scoring.abstention import abstains
from steerkit.scoring.metrics import Metric, Scores, scorer
from steerkit.scoring.reply import reply_of

if TYPE_CHECKING:
    from steerkit.engines.base import Completion
    from steerkit.suites.items import Kind, SuiteItem

_YES_OR_NO = {"yes", "no", "true", "false"}

_WORD_VALUE = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
    "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15,
    "sixteen": 16, "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40,
    "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_ONE_WORD = rf"\b(?:{'|'.join(_WORD_VALUE)}|hundred)\b"
_NUMBER_WORDS = re.compile(rf"{_ONE_WORD}(?:(?: and |[- ]){_ONE_WORD})*")

# 1,200 or 12 or 2.5 or 3/4, with a sign where nothing stands before it; no part of a word such as B12.
_NUMBER = re.compile(
    r"(?<![\w.])(?:(?<![\d)] )[-−])?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+|\s?/\s?\d+)?(?![\d])"
)
_SENTENCE_END = re.compile(r"(?<!\d)[.!?]+\s|(?<=\d)[.!?]+\s(?!\d)|\n+")
_LIST_MARKER = re.compile(r"^\s*\d{1,2}[.)] +(?=\S)", re.MULTILINE)
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}")
_STATED = re.compile(
    r"\banswer(?: to [^.!?\n]{1,60}?)?(?: is|:| would be| should be| must be|\s*=)", re.IGNORECASE
)


@scorer("answers", metrics=[Metric("accuracy", "accuracy", "higher", score="correct", show="main")])
def answers(item: SuiteItem, completion: Completion) -> Scores:
    """Say whether the reply gives an accepted answer and does not abstain; None for an item without answers."""
    if item.answers is None:
        return {"correct": None}
    reply = reply_of(completion)
    return {"correct": not abstains(reply) and is_correct(reply, item.answers, item.kind)}


def is_correct(text: str, answers: Sequence[str], kind: Kind) -> bool:
    """Whether the text gives one of the accepted answers, by the rule for its kind.

    Raises SteerkitError where `latex` is asked for and math-verify is not installed. `latex` works on the
    main thread alone: math-verify's time limit is a signal.
    """
    match kind:
        case "number":
            stated = final_number(text)
            accepted = {_to_number(answer) for answer in answers}
            return stated is not None and stated in accepted
        case "text":
            return _mentions_any(text, answers)
        case "latex":
            return _equal_latex(text, answers)


def final_number(text: str) -> Fraction | None:
    """The number that a text states as its result, or None where it has no number."""
    text = _LIST_MARKER.sub("", _LATEX_FRACTION.sub(r"\1/\2", text.replace("{,}", ",")))
    boxed = _last_boxed(text)
    if boxed is not None:
        return _number_in(boxed, last=True)
    _, marker, after_marker = text.rpartition("####")
    if marker:
        return _number_in(after_marker, last=False)
    for stated in reversed(list(_STATED.finditer(text))):
        number = _number_in(_SENTENCE_END.split(text[stated.end() :], maxsplit=1)[0], last=False)
        if number is not None:
            return number
    for sentence in reversed(_SENTENCE_END.split(text)):
        number = _number_in(sentence, last=True)
        if number is not None:
            return number
    return _last_number_in_words(text)


def _number_in(sentence: str, *, last: bool) -> Fraction | None:
    """The number after the last `=`; without one, the first or the last number of the sentence."""
    _, equals, after_equals = sentence.rpartition("=")
    if equals and (number := _number_in(after_equals, last=False)) is not None:
        return number
    numbers = [_to_number(match[0]) for match in _NUMBER.finditer(sentence)]
    if not numbers:
        return None
    return numbers[-1] if last else numbers[0]


def _to_number(digits: str) -> Fraction | None:
    """`$1,200.50`, `-3` or `3/4` as a fraction; None for anything else, and for absurdly many digits."""
    try:
        return Fraction(re.sub(r"[$,\s]", "", digits).replace("−", "-"))
    except (ValueError, ZeroDivisionError):
        return None


def _last_number_in_words(text: str) -> Fraction | None:
    runs = _NUMBER_WORDS.findall(text.casefold())
    if not runs:
        return None
    value = 0
    for word in re.findall(r"[a-z]+", runs[-1]):
        if word == "hundred":
            value = max(value, 1) * 100
        else:
            value += _WORD_VALUE.get(word, 0)  # 0 for "and"
    return Fraction(value)


def _last_boxed(text: str) -> str | None:
    """What stands between the braces of the last `\\boxed{`; braces may nest, and the last may be cut off."""
    _, marker, rest = text.rpartition(r"\boxed{")
    if not marker:
        return None
    depth = 1
    for place, character in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return rest[:place]
    return rest


def _mentions_any(text: str, answers: Sequence[str]) -> bool:
    words = _plain_words(text)
    if {answer.casefold() for answer in answers} <= _YES_OR_NO:
        decisive = next((word for word in words if word in _YES_OR_NO), None)
        return decisive in {answer.casefold() for answer in answers}
    haystack = f" {' '.join(words)} "
    wanted = [" ".join(_without_article(_plain_words(answer))) for answer in answers]
    return any(f" {phrase} " in haystack for phrase in wanted if phrase)


def _plain_words(text: str) -> list[str]:
    decomposed = unicodedata.normalize("NFKD", text)
    plain = "".join(character for character in decomposed if not unicodedata.combining(character)).casefold()
    plain = re.sub(r"['’]s\b|(?<=\b\w)\.(?=\w\b)|['’]", "", plain)  # Kyoto's, U.S., d'Arc
    return re.findall(r"\w+", plain)


def _without_article(words: list[str]) -> list[str]:
    return words[1:] if len(words) > 1 and words[0] in {"a", "an", "the"} else words


def _equal_latex(text: str, answers: Sequence[str]) -> bool:
    try:
        from math_verify import parse, verify  # an optional dependency, and slow to import
    except ImportError:
        raise SteerkitError(
            "judging LaTeX answers takes math-verify: install it with pip install math-verify"
        ) from None
    stated = parse(text)
    return any(verify(parse(answer if "$" in answer else f"${answer}$"), stated) for answer in answers)
