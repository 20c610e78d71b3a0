"""Read the numbers that a text writes, in any usual writing, as exact fractions.

`plain` brings a text into one writing: digits of every script, Unicode and LaTeX fractions, powers and spacing.
`find_numbers` then finds the numbers in digits, `find_number_words` those in English words and Chinese
characters. All unambiguous writings of a number agree:

- groups: `1,200`, `1,00,000`, `1'200`, `1_200`, `1 200` with any space, `1.200.300`, `1.200,50`;
- decimals: `.5`, `0.5`, `12,5`, but `(3,4)` and `1,2,3` are lists;
- fractions `3/4`, mixed numbers `2 1/2` and `2 and a half`, powers `10^6`, `3 × 10^4`, `3e4`, `2.5 million`;
- a sign is any dash, or the word for minus, where nothing stands before it that it could be a range or a
  subtraction of.

One separator before exactly three digits is ambiguous: the comma groups thousands and the point is decimal
(`1,200` is 1200 and `1.200` is 1.2), unless the text itself writes another number the other way round
(`12,50`, `1.200,50`) and none this way. Percent and currency signs and units change no value; an exponent of a
unit (`cm^3`, `m²`, `m2`), a digit in a word (`B12`, `COVID-19`) and what a rate is per (`per 100 km`) are no
numbers. Amounts in parentheses are not taken for negative ones.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

_LONGEST = 1000  # digits; whoever writes more does not answer
_LARGEST_EXPONENT = 1000

_THIN = "\u2009"  # what every space narrower than, or unlike, the plain one is brought to
_CURRENCIES = r"USD|EUR|GBP|JPY|CNY|INR|CHF|CAD|AUD|Rs|RM|US|A|C|R|HK|NT"


@dataclass(frozen=True, slots=True)
class Number:
    """A number in a text: its value, and where it stands, `text[start:stop]`, sign and currency included.

    `count` is the value without the word behind it that multiplies it: 2 of "2 million", where `value` is 2000000.
    """

    value: Fraction
    start: int
    stop: int
    count: Fraction


def read_number(text: str) -> Fraction | None:
    """Return the value of a text that is one number, in digits or words, and nothing but its unit; else None."""
    written = plain(text).strip()
    found = find_numbers(written) or find_number_words(written)
    if len(found) != 1:
        return None
    around = written[: found[0].start] + written[found[0].stop :]
    return None if re.search(r"\w", around.replace("_", "")) else found[0].value


# ---- one plain writing ----

_WRAPPERS = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|color\{\w+\})?|math(?:rm|bf|it|sf|bb|tt)|mbox|operatorname|underline|bm|"
    r"boldsymbol|fbox|boxed|emph|ensuremath|num|unit|si)\s*\{([^{}]*)\}(?=(\d)?)"
)
_LATEX_FRACTION = re.compile(
    r"(?:(\d)\s*)?\\[dtc]?frac\s*(?:\{\s*([^{}]*?)\s*\}|(\d))\s*(?:\{\s*([^{}]*?)\s*\}|(\d))"
)
_PLAIN_AMOUNT = re.compile(rf"[-−]?[\d.,{_THIN}]+")
_COMMANDS = [
    (re.compile(r"\\\\"), "\n"),
    (re.compile(r"\{([,.])\}"), r"\1"),
    (re.compile(r"\\[,;:! ]|\\thinspace(?![A-Za-z])"), _THIN),
    (re.compile(r"\\([$%#&_])"), r"\1"),
    (re.compile(r"\\[()\[\]]|\$\$"), " "),
    (re.compile(r"\\(?:left|right|[bB]igg?[lr]?|displaystyle)(?![A-Za-z])"), ""),
    (re.compile(r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degree(?![A-Za-z])"), "°"),
    (re.compile(r"\\times(?![A-Za-z])"), "×"),
    (re.compile(r"\\cdot(?![A-Za-z])"), "·"),
    (re.compile(r"\\(?:approx|simeq)(?![A-Za-z])"), "≈"),
    (re.compile(r"\\sqrt(?![A-Za-z])"), "√"),
    (re.compile(r"\\(?:SI|qty)\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"\1 \2"),
    (re.compile(r"\^\s*\{\s*([^{}\\]*?)\s*\}"), r"^\1"),
]
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺"
_SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉"
_LOWERED = str.maketrans(_SUPERSCRIPTS + _SUBSCRIPTS, "0123456789-+0123456789")
_SMALL_FRACTION = re.compile(f"(\\d)?([{_SUPERSCRIPTS}]+)[⁄/]([{_SUBSCRIPTS}]+)")
_RAISED = re.compile(f"[{_SUPERSCRIPTS}]+")
_INVISIBLE = {0xFE0E, 0xFE0F, 0x20E3}
_ALIKE = {"⁄": "/", "∕": "/", "‑": "-", "‐": "-", "﹣": "-", "٫": ".", "٬": ",", "٪": "%", "，": ", "}


def plain(text: str) -> str:
    """Return the text with its digits, signs, fractions, powers and LaTeX commands in one plain writing."""
    text = re.sub(r"(?<=[０-９])，(?=[０-９])", ",", text)
    text = _SMALL_FRACTION.sub(lambda m: _small_fraction(m), text)
    text = _RAISED.sub(lambda m: "^" + m[0].translate(_LOWERED), text)
    text = "".join(_plain_character(text, place) for place in range(len(text)))
    if "\\" in text or "{" in text:
        text = _without_latex(text)
    return text


def _small_fraction(match: re.Match[str]) -> str:
    whole, above, below = match[1] or "", match[2].translate(_LOWERED), match[3].translate(_LOWERED)
    return f"{whole} {above}/{below}" if whole else f"{above}/{below}"


def _plain_character(text: str, place: int) -> str:
    character = text[place]
    if character.isascii():
        return character
    if character in _ALIKE:
        return _ALIKE[character]
    code = ord(character)
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.digit(character))
    if category == "Cf" or code in _INVISIBLE:
        return ""
    if 0xFF01 <= code <= 0xFF5E:  # full-width ASCII
        return chr(code - 0xFEE0)
    if category == "Zs":
        return " " if code in (0x1680, 0x3000) else _THIN
    if category == "No" and unicodedata.decomposition(character).startswith("<fraction>"):
        fraction = unicodedata.normalize("NFKC", character).replace("⁄", "/")
        return f" {fraction}" if place and text[place - 1].isdigit() else fraction
    return character


def _without_latex(text: str) -> str:
    for pattern, replacement in _COMMANDS:
        text = pattern.sub(replacement, text)
    for pattern, write in ((_WRAPPERS, _unwrapped), (_LATEX_FRACTION, _fraction), (_WRAPPERS, _unwrapped)):
        for _ in range(4):  # they nest, but no deeper in an answer
            written = pattern.sub(write, text)
            if written == text:
                break
            text = written
    text = re.sub(r"\^\s*\{\s*([^{}]*?)\s*\}", r"^\1", text)
    return re.sub(r"\\[A-Za-z]+\*?|[{}]", " ", text)


def _unwrapped(match: re.Match[str]) -> str:
    before = "" if match[1][:1].isdigit() or match[1][:1] in "-−" else " "
    return f"{before}{match[1]}{' ' if match[2] else ''}"


def _fraction(match: re.Match[str]) -> str:
    whole = match[1] or ""
    above = match[2] if match[2] is not None else match[3]
    below = match[4] if match[4] is not None else match[5]
    if not (_PLAIN_AMOUNT.fullmatch(above) and _PLAIN_AMOUNT.fullmatch(below)):
        return f"{whole} ({above})/({below})"
    if below[0] in "-−":
        below, above = below[1:], above[1:] if above[0] in "-−" else f"-{above}"
    return f"{whole} {above}/{below}" if whole else f"{above}/{below}"


# ---- numbers in digits ----

_RUN = re.compile(rf"\d+(?:[.,'’_]\d+|{_THIN}\d{{3}}(?!\d)| \d{{3}}(?![\d/]|-\w))*|(?<![\w.])\.\d+", re.ASCII)
_BY_POWER = re.compile(r"\s?[×x*·⋅✕]\s?10\s?(?:\^|\*\*)\s?\(?([-−–+]?\d{1,4})\)?")
_E_POWER = re.compile(r"[eE]([-−+]?\d{1,4})(?![A-Za-z\d])")
_POWER = re.compile(r"\s?(?:\^|\*\*)\s?\(?([-−–+]?\d{1,4})\)?")
_MIXED = re.compile(r"(?: |\u2009| and | ?& ?)(\d{1,6})\s?/\s?(\d{1,6})(?![\d/])")
_AND_A_PART = re.compile(r"\s+and\s+(?:a|one)\s+(half|third|quarter)\b", re.IGNORECASE)
_OVER = re.compile(r"\s?/\s?(\d+(?:,\d{3})*)(?!\d)")
_DATE = re.compile(r"\s?/\s?\d+\s?/\s?\d+")

_SCALES = {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12,
    "lakh": 10**5, "crore": 10**7, "millions": 10**6, "millionen": 10**6, "milliarden": 10**9, "mio.": 10**6,
    "mrd.": 10**9, "tausend": 10**3, "mil": 10**3, "millones": 10**6, "millón": 10**6, "milliards": 10**9,
    "milhões": 10**6, "milioni": 10**6, "тысяч": 10**3, "тысячи": 10**3, "млн": 10**6, "миллионов": 10**6,
    "млрд": 10**9, "लाख": 10**5, "करोड़": 10**7, "हज़ार": 10**3,
    "千": 10**3, "천": 10**3, "万": 10**4, "萬": 10**4, "만": 10**4, "亿": 10**8, "億": 10**8, "억": 10**8,
}  # fmt: skip
_WORD_ENDS = r"(?![A-Za-zÀ-ɏͰ-ԯ])"  # another script may follow without a space
_WRITTEN_ON = r"[千천万萬만亿億억]"
_SCALE = re.compile(
    rf"\s?({_WRITTEN_ON}|(?:{'|'.join(re.escape(w) for w in _SCALES if len(w) > 1)}){_WORD_ENDS})",
    re.IGNORECASE,
)
_SMALLER_PART = re.compile(rf"\s?(\d+(?:,\d{{3}})*)({_WRITTEN_ON})?")
_SUFFIXES = {"k": 10**3, "K": 10**3, "m": 10**6, "M": 10**6, "mn": 10**6, "b": 10**9, "B": 10**9, "bn": 10**9}
_SUFFIX = re.compile(r"(bn|mn|[kKmMbB])(?![\w²³^])")

_MONEY = re.compile(
    r"(?:(?<![A-Za-z])(?:US|A|C|R|HK|NT|S)?[$€£¥₹₽₩₪₫₱₺₦฿₴₸₵]|"
    rf"(?<![A-Za-z])(?:{_CURRENCIES})\.?)[ {_THIN}]?$"
)
_MINUS_WORD = re.compile(
    r"(?:^|(?P<link>\b(?:is|be|to|es|ist|est|beträgt|of|at|by|equals?|are|was|reads?|becomes|about|than|or|and)\s+)|[:=(,.!?*\u0590-\uffff]\s*|"
    r"\b(?=negative))(?:minus|negative)\s+$|(?:(?<!\d )(?:menos|moins|meno|минус)\s+|(?<!\d)[负負]|(?<!\d)マイナス)$",
    re.IGNORECASE,
)
_OPENERS = "([{=:<>≈~*/×·+\"'“‘«,;|→^_$€£¥₹"


def find_numbers(text: str, european: bool | None = None) -> list[Number]:
    """Return the numbers in digits of a text in plain writing (`plain`), in order.

    `european` says which separator an ambiguous number has for thousands: the point, not the comma. None: as
    the text's other numbers have it (`writes_european`).
    """
    if european is None:
        european = writes_european(text)
    found: list[Number] = []
    place = 0
    while (run := _RUN.search(text, place)) is not None:
        place = run.end()
        if _is_part_of_a_word(text, run.start()):
            continue
        if date := _DATE.match(text, run.end()):
            place = date.end()
            continue
        pieces = list(_pieces(run[0], european, listed=_is_listed(text, run.start(), run.end())))
        for value, start, stop in pieces:
            start, stop = start + run.start(), stop + run.start()
            if start != run.start():
                found.append(Number(value, start, stop, value))
            elif (whole := _whole(text, value, start, stop, alone=stop == run.end())) is not None:
                found.append(whole)
                place = max(place, whole.stop)
            elif over := _OVER.match(text, run.end()):
                place = over.end()
    return found


def writes_european(text: str) -> bool:
    """Whether a text's unambiguous numbers have the comma for decimals, or the point for thousands, and no other."""
    other = re.search(
        r"(?<![\d.,])\d{1,3}(?:\.\d{3})+,\d|(?<![\d.,(])\d+,\d{1,2}(?![\d.,)]|,\d|\s+(?:and|or)\b)", text
    )
    ours = re.search(r"\d,\d{3}\.\d|(?<![\d.,])\d+\.\d{1,2}(?![\d.,])|\d,\d{3},\d{3}", text)
    return other is not None and ours is None


def _is_part_of_a_word(text: str, start: int) -> bool:
    """Whether the digits at `start` belong to a word, an exponent or a unit: B12, COVID-19, cm^3, per 100."""
    before = text[max(0, start - 12) : start]
    if not before:
        return False
    last, second = before[-1], before[-2:-1]
    if last in "_^√":
        return True
    if _has_case(last):
        return not (_MONEY.search(before) or (last in "xX" and second.isdigit()))
    if last in "-/" and _has_case(second):
        return True
    return re.search(r"\bper\s+$|[A-Za-z]\s/\s$|\^\(?[-−]?$", before) is not None


def _has_case(character: str) -> bool:
    return character.isupper() or character.islower()


def _is_listed(text: str, start: int, stop: int) -> bool:
    return text[start - 1 : start] in ("(", "[", "{") and text[stop : stop + 1] in (")", "]", "}")


def _pieces(run: str, european: bool, *, listed: bool) -> Iterator[tuple[Fraction, int, int]]:
    """Yield the value and place of each number of a run of digits and separators: one, unless it is a list."""
    value = _one_value(run, european, listed)
    if value is not None:
        yield value, 0, len(run)
        return
    parts = list(re.finditer(rf"[^,'’_ {_THIN}]+", run))
    if len(parts) > 1:
        for part in parts:
            for value, start, stop in _pieces(part[0], european, listed=False):
                yield value, part.start() + start, part.start() + stop


def _one_value(run: str, european: bool, listed: bool) -> Fraction | None:
    if len(run) > _LONGEST:
        return None
    run = run.replace(_THIN, " ").replace("’", "'")
    if re.fullmatch(r"\d+|\.\d+", run):
        return Fraction(run)
    if re.fullmatch(r"[1-9]\d{0,2}(?:([ '_])\d{3})(?:\1\d{3})*(?:[.,]\d+)?", run):
        return Fraction(re.sub(r"[ '_]", "", run).replace(",", "."))
    if re.fullmatch(r"[1-9]\d{0,2}(?:,\d{3})+\.\d+|[1-9]\d{0,2}(?:,\d{3}){2,}", run):
        return Fraction(run.replace(",", ""))
    if re.fullmatch(r"[1-9]\d?(?:,\d{2})+,\d{3}(?:\.\d+)?", run):
        return Fraction(run.replace(",", ""))
    if re.fullmatch(r"[1-9]\d{0,2}(?:\.\d{3})+,\d+|[1-9]\d{0,2}(?:\.\d{3}){2,}", run):
        return Fraction(run.replace(".", "").replace(",", "."))
    single = re.fullmatch(r"(\d+)([.,])(\d+)", run)
    if single is None:
        return None
    before, separator, behind = single.groups()
    if len(behind) == 3 and re.fullmatch(r"[1-9]\d{0,2}", before) and (separator == ".") == european:
        return Fraction(before + behind)
    if separator == "," and (listed or min(len(before), len(behind)) > 3):
        return None
    return Fraction(f"{before}.{behind}")


def _whole(text: str, value: Fraction, start: int, stop: int, *, alone: bool) -> Number | None:
    """The number that begins at `start`, with what belongs to it: a sign, a fraction, a power, a scale."""
    count = value
    if alone:
        amount = _amount(text, value, start, stop)
        if amount is None:
            return None
        count, stop = amount
        value, stop = _scaled(text, count, start, stop)
    start, negative = _sign(text, start)
    return Number(-value, start, stop, -count) if negative else Number(value, start, stop, count)


def _amount(text: str, value: Fraction, start: int, stop: int) -> tuple[Fraction, int] | None:
    """The value with the power or fraction behind its digits, and its end; None where that is no number."""
    if power := _BY_POWER.match(text, stop) or _E_POWER.match(text, stop):
        exponent = _exponent(power[1])
        return None if exponent is None else (value * Fraction(10) ** exponent, power.end())
    if power := _POWER.match(text, stop):
        exponent = _exponent(power[1])
        if exponent is None or abs(exponent) * (stop - start) > _LONGEST or (value == 0 and exponent < 0):
            return None
        return value**exponent, power.end()
    mixed = _MIXED.match(text, stop) if text[start:stop].isdigit() else None
    if mixed and 0 < int(mixed[1]) < int(mixed[2]):
        return value + Fraction(int(mixed[1]), int(mixed[2])), mixed.end()
    if part := _AND_A_PART.match(text, stop):
        return value + _PARTS[part[1].casefold()], part.end()
    if over := _OVER.match(text, stop):
        below = over[1].replace(",", "")
        if len(below) > _LONGEST or int(below) == 0:
            return None
        return value / int(below), over.end()
    return value, stop


def _scaled(text: str, value: Fraction, start: int, stop: int) -> tuple[Fraction, int]:
    """The value by the word or letter behind it that multiplies it (million, k, 万), and its end."""
    if suffix := _SUFFIX.match(text, stop):
        if suffix[1] == "k" or _MONEY.search(text[max(0, start - 8) : start]):
            return value * _SUFFIXES[suffix[1]], suffix.end()
        return value, stop
    scale = _SCALE.match(text, stop)
    if scale is None:
        return value, stop
    value, stop = value * _SCALES[scale[1].casefold()], scale.end()
    if len(scale[1]) == 1:
        return _with_smaller_parts(text, value, stop, _SCALES[scale[1]])
    if further := _SCALE.match(text, stop):  # 2 hundred thousand, 3 lakh crore
        value, stop = value * _SCALES[further[1].casefold()], further.end()
    return value, stop


def _with_smaller_parts(text: str, value: Fraction, stop: int, scale: int) -> tuple[Fraction, int]:
    """`3万5千` and `1억 2000만`: each part smaller than the scale before it."""
    while part := _SMALLER_PART.match(text, stop):
        amount = int(part[1].replace(",", "")) * _SCALES.get(part[2] or "", 1)
        if len(part[1]) > 12 or amount >= scale:
            break
        value, stop, scale = value + amount, part.end(), _SCALES.get(part[2] or "", 1)
    return value, stop


def _exponent(written: str) -> int | None:
    exponent = int(re.sub("[−–]", "-", written))
    return exponent if abs(exponent) <= _LARGEST_EXPONENT else None


def _sign(text: str, start: int) -> tuple[int, bool]:
    """Where the number begins with its currency and sign, and whether the sign is a minus."""
    begin = start
    before = text[max(0, start - 24) : start]
    if (dash := re.search(r"[-−–—]$", before)) and _signs(before[: dash.start()], before[dash.start() :]):
        return start - 1, True
    if money := _MONEY.search(before):
        begin = start - len(before) + money.start()
        before = before[: money.start()]
    dash = re.search(r"[-−–—]\s?$", before)
    if dash and _signs(before[: dash.start()], before[dash.start() :]):
        return begin - len(dash[0]), True
    if word := _MINUS_WORD.search(before):
        return begin - len(word[0]), True
    return begin, False


def _signs(before: str, dash: str) -> bool:
    """Whether a dash behind `before` is a sign: not of a range, a subtraction, a compound or a list's item."""
    kept = before.rstrip()
    if len(dash) > 1 and not (dash[0] == "−" or kept[-1:] in ("=", "≈", "(")):
        return False
    if len(kept) < len(before) and kept[-1:] and (kept[-1].isdigit() or kept[-1] in ")%"):
        return "\n" in before[len(kept) :]
    if not before or before[-1].isspace():
        return True
    if before[-1] in _OPENERS:
        return not (before[-1] in "€£¥₹$" and before[-2:-1].isdigit())
    uncased_letter = before[-1].isalpha() and not _has_case(before[-1])
    return (uncased_letter or before[-1] in "。：，、；") and not before[-2:-1].isdigit()


# ---- numbers in words ----

_ONES = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
    "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15,
    "sixteen": 16, "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40,
    "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_POWERS = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_NAMES_OF_PARTS = (
    "half",
    "third",
    "quarter",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
)
_DENOMINATORS = dict(zip(_NAMES_OF_PARTS, (2, 3, 4, 4, 5, 6, 7, 8, 9, 10), strict=True))
_PARTS = {name: Fraction(1, below) for name, below in _DENOMINATORS.items()} | {
    ("halves" if name == "half" else f"{name}s"): Fraction(1, below) for name, below in _DENOMINATORS.items()
}
_WORD = "|".join(sorted([*_ONES, *_POWERS, *_PARTS, "hundred", "dozen", "point"], key=len, reverse=True))
_ARTICLE = r"(?:an?\s+(?=(?:hundred|thousand|million|billion|trillion|dozen|half|third|quarter)\b))"
_BETWEEN_WORDS = (
    r"(?:\s+and\s+(?:an?\s+)?|(?:(?<=thousand)|(?<=million)|(?<=billion)),\s+(?:and\s+)?|-|"
    r"[ \t]+an?[ \t]+(?=million|billion|dozen)|[ \t]+)"
)
_WORDS = re.compile(
    rf"(?<![A-Za-zÀ-ɏ-]){_ARTICLE}?(?:{_WORD}){_WORD_ENDS}(?:{_BETWEEN_WORDS}(?:{_WORD}){_WORD_ENDS})*",
    re.IGNORECASE,
)
# "one" that counts nothing, and "half" of something that is counted elsewhere.
_PRONOUN_BEFORE = re.compile(
    r"\b(?:no|the|this|that|each|every|any|which|some|last|first|next|only|other|another)[ -]$", re.I
)
_PRONOUN_BEHIND = re.compile(
    r"\s+(?:of|that|who|which|should|can|must|could|may|might|by one|another|needs?|has to)\b", re.I
)
_OF_SOMETHING = re.compile(r"\s+(?:of|the|as|his|her|its|their|an?)\b", re.IGNORECASE)
_MOST_WORDS = 60  # of one number
_CHINESE = re.compile(r"[零〇一二三四五六七八九十百千万亿两兩萬億]+")
_CHINESE_IDIOM = re.compile(r"(?:一(?![。．.！!，,\s]|$)|十分|万一|千万不|百分之|一[一定样起些般直旦])")
_CHINESE_DIGIT = {character: value for value, character in enumerate("零一二三四五六七八九")} | {
    "〇": 0,
    "两": 2,
    "兩": 2,
}


def find_number_words(text: str) -> list[Number]:
    """Return the numbers in English words, or in Chinese characters, of a text in plain writing, in order."""
    found = [number for run in _WORDS.finditer(text) for number in _worded(text, run)]
    for run in _CHINESE.finditer(text):
        if not (_CHINESE_IDIOM.match(text, run.start()) and len(run[0]) <= 2):
            value = Fraction(_chinese_value(run[0]))
            found.append(Number(value, run.start(), run.end(), value))
    return sorted(found, key=lambda number: number.start)


def _worded(text: str, run: re.Match[str]) -> Iterator[Number]:
    words = [
        (m[0].casefold(), m.start() + run.start(), m.end() + run.start()) for m in re.finditer(r"\w+", run[0])
    ]
    place = 0
    while place < len(words):
        value, used = _read_words([word for word, _, _ in words[place : place + _MOST_WORDS]])
        if value is None:
            place += 1
            continue
        start, stop = words[place][1], words[place + used - 1][2]
        alone = [word for word, _, _ in words[place : place + used]]
        place += used
        if alone == ["one"] and (
            _PRONOUN_BEFORE.search(text, max(0, start - 12), start) or _PRONOUN_BEHIND.match(text, stop)
        ):
            continue
        if alone == ["half"] and _OF_SOMETHING.match(text, stop):
            continue
        begin, negative = _sign(text, start)
        value = -value if negative else value
        yield Number(value, begin, stop, value)


def _read_words(words: list[str]) -> tuple[Fraction | None, int]:
    """Read the longest number at the start of `words`: its value and how many words it has; None for no number."""
    total, current, place, joined = Fraction(0), None, 0, 0
    best: tuple[Fraction | None, int] = (None, 0)
    while place < len(words):
        word = words[place]
        if word in ("a", "an", "and"):
            joined += word == "and"
            place += 1
            continue
        one = place > 0 and words[place - 1] in ("a", "an")
        if word in _ONES:
            if current is None:
                if joined and not total:
                    break
                current = Fraction(_ONES[word])
            elif _goes_on(current, _ONES[word], joined=joined > 0):
                current += _ONES[word]
            elif joined and (part := _part(words[place:])):  # two and three quarters
                current, place = current + part[0], place + part[1] - 1
            else:
                break
        elif word == "hundred" and (current is None or 0 < current < 100):
            current = (1 if current is None else current) * Fraction(100)
        elif word == "dozen":
            current = (1 if current is None else current) * Fraction(12)
        elif word in _POWERS:
            if joined and current is not None and not one and words[place - 1] == "and":
                break
            total, current = total + (1 if current is None else current) * _POWERS[word], None
        elif word == "point" and place + 1 < len(words) and words[place + 1] in _ONES:
            digits = place + 1
            while digits < len(words) and _ONES.get(words[digits], 10) < 10:
                digits += 1
            behind = "".join(str(_ONES[w]) for w in words[place + 1 : digits])
            if not behind:
                break
            current = (current or 0) + Fraction(f"0.{behind}")
            place = digits - 1
        elif word in _PARTS:
            if joined and current is not None:
                current += _PARTS[word]
            elif current is None:
                if word != "half" and not one:
                    break
                current = _PARTS[word]
            elif (word.endswith("s") or current == 1) and current < 20:
                current *= _PARTS[word]
            else:
                break
        else:
            break
        joined = 0
        place += 1
        best = (total + (current or 0), place)
    return best


def _goes_on(value: Fraction, ones: int, *, joined: bool) -> bool:
    """Whether a word for `ones` continues the value: twenty-one, a hundred (and) five; not five seven."""
    after_tens = not joined and value % 10 == 0 and value % 100 >= 20 and 0 < ones < 10
    return after_tens or (value >= 100 and value % 100 == 0)


def _part(words: list[str]) -> tuple[Fraction, int] | None:
    if len(words) > 1 and words[1] in _PARTS and words[0] in _ONES:
        return _ONES[words[0]] * _PARTS[words[1]], 2
    return None


def _chinese_value(characters: str) -> int:
    if not re.search("[十百千万萬亿億]", characters):
        return int("".join(str(_CHINESE_DIGIT[character]) for character in characters))
    total = section = digit = 0
    for character in characters:
        if character in _CHINESE_DIGIT:
            digit = _CHINESE_DIGIT[character]
        elif character in "十百千":
            section += (digit or 1) * {"十": 10, "百": 100, "千": 1000}[character]
            digit = 0
        else:
            scale = 10**4 if character in "万萬" else 10**8
            total, section, digit = (total + section + digit or 1) * scale, 0, 0
    return total + section + digit
