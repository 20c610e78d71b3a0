"""The law of numbers: every unambiguous writing of a number, in whatever sentence states it, reads as that number."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.scoring.answers import final_number, is_correct
from steerkit.scoring.numbers import find_number_words, find_numbers, plain, read_number

_STATEMENTS = [
    "{}",
    "The answer is {}.",
    "**Answer:** {}",
    "Final answer: {}",
    "First 3 + 4 = 7. So the answer is {}.\n\nLet me know if you have 2 more questions!",
    "We take 3 of the 4.\n#### {}",
    "The answer is {}, and one check is 2 * 7 = 14.",
    "Answer:\n{}\n\nExplanation:\nWe take 3 of the 4.",
    "答案是{}。",
    "La respuesta es {}. Comprobación: 2 + 3 = 5.",
    "Ответ: {}.",
    "정답은 {}입니다.",
    "#### Step 1\nTake 3 of 4.\n\nThere are x = {}",
]
_BOXED = "So the result is \\boxed{{{}}}, which is neither 3 nor 4."
_UNITS = ["{}", "${}", "{} apples", "{} cm^2", "{} m³", "{}%", "{} €"]

_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]
_ONES += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_ARABIC, _DEVANAGARI, _WIDE = "٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "０１２３４５６７８９"


def _grouped(whole: int, separator: str, *, indian: bool = False) -> str:
    digits, size = str(whole), 2 if indian else 3
    head, groups = digits[:-3], [digits[-3:]]
    while head:
        groups.insert(0, head[-size:])
        head = head[:-size]
    return separator.join(groups)


def _in_words(number: int) -> str:
    for value, name in ((10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred")):
        if number >= value:
            rest = _in_words(number % value) if number % value else ""
            return f"{_in_words(number // value)} {name}" + (
                f" and {rest}" if 0 < number % value < 100 else f" {rest}" * bool(rest)
            )
    if number < 20:
        return _ONES[number]
    return _TENS[number // 10] + (f"-{_ONES[number % 10]}" if number % 10 else "")


def _signed(writings: list[str], negative: bool) -> list[str]:
    if not negative:
        return writings
    return [f"{dash}{writing}" for writing in writings for dash in "-−–‑"] + [f"minus {w}" for w in writings]


@st.composite
def _integers(draw: st.DrawFn) -> tuple[Fraction, str]:
    whole = draw(st.integers(0, 10**12))
    separators = [",", "\u00a0", "\u2009", "\u202f", " ", "'", "’", "\\,", "{,}"]
    if not 1000 <= whole < 10**6:
        separators.append(".")  # ambiguous where there is but one
    writings = [
        str(whole),
        *(_grouped(whole, separator) for separator in separators),
        _grouped(whole, ",", indian=True),
    ]
    writings += [str(whole).translate(str.maketrans("0123456789", d)) for d in (_ARABIC, _DEVANAGARI, _WIDE)]
    negative = draw(st.booleans())
    return Fraction(-whole if negative else whole), draw(st.sampled_from(_signed(writings, negative)))


@st.composite
def _decimals(draw: st.DrawFn) -> tuple[Fraction, str]:
    whole, behind = draw(st.integers(0, 10**7)), draw(st.from_regex(r"[0-9]{1,2}|[0-9]{4,6}", fullmatch=True))
    writings = [
        f"{whole}.{behind}",
        f"{_grouped(whole, ',')}.{behind}",
        f"{_grouped(whole, chr(0x202F))},{behind}",
    ]
    writings += [f"{_grouped(whole, '.')},{behind}", f"{_grouped(whole, chr(39))}.{behind}"]
    if whole == 0:
        writings.append(f".{behind}")
    negative = draw(st.booleans())
    value = Fraction(f"{whole}.{behind}")
    return -value if negative else value, draw(st.sampled_from(_signed(writings, negative)))


@st.composite
def _fractions(draw: st.DrawFn) -> tuple[Fraction, str]:
    whole, below = draw(st.integers(0, 50)), draw(st.integers(2, 99))
    above = draw(st.integers(1, below - 1))
    if whole == 0:
        writings = [f"{above}/{below}", f"{above}⁄{below}", f"\\frac{{{above}}}{{{below}}}"]
    else:
        writings = [
            f"{whole} {above}/{below}",
            f"{whole}\\frac{{{above}}}{{{below}}}",
            f"{whole} and {above}/{below}",
        ]
        writings += [f"\\dfrac{{{whole * below + above}}}{{{below}}}", f"{whole * below + above} / {below}"]
    negative = draw(st.booleans())
    value = Fraction(whole * below + above, below)
    return -value if negative else value, draw(st.sampled_from(_signed(writings, negative)))


@st.composite
def _powers(draw: st.DrawFn) -> tuple[Fraction, str]:
    digits, exponent = draw(st.integers(1, 999)), draw(st.integers(-9, 20))
    raised = str(exponent).translate(str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"))
    front = draw(st.sampled_from([str(digits), f"{digits}.5"]))
    writing = draw(
        st.sampled_from(
            [
                "{0} × 10^{1}",
                "{0}e{1}",
                "{0}E{1}",
                "{0}·10{2}",
                "{0} \\times 10^{{{1}}}",
                "{0} x 10^{1}",
                "{0}*10**{1}",
            ]
        )
    )
    return Fraction(front) * Fraction(10) ** exponent, writing.format(front, exponent, raised)


@given(
    st.one_of(_integers(), _decimals(), _fractions()),
    st.sampled_from([*_STATEMENTS, _BOXED]),
    st.sampled_from(_UNITS),
)
def test_every_writing_of_a_number_is_that_number(
    number: tuple[Fraction, str], statement: str, unit: str
) -> None:
    value, writing = number
    if unit == "${}" and ("\\" in writing or "minus" in writing):
        unit = "{}"
    assert final_number(statement.format(unit.format(writing))) == value


@given(_powers(), st.sampled_from([*_STATEMENTS, _BOXED]))
def test_every_power_of_ten_is_that_number(number: tuple[Fraction, str], statement: str) -> None:
    value, writing = number
    assert final_number(statement.format(writing)) == value


@given(
    st.integers(0, 10**11),
    st.booleans(),
    st.sampled_from(["{}", "The answer is {}.", "There are {} of them."]),
)
def test_a_number_in_words_is_that_number(number: int, negative: bool, statement: str) -> None:
    if number == 1:
        return  # "one of them" counts nothing
    words = f"minus {_in_words(number)}" if negative else _in_words(number)
    assert final_number(statement.format(words)) == (-number if negative else number)


@given(st.integers(1, 999), st.integers(0, 999))
def test_one_separator_before_three_digits_follows_one_rule(before: int, behind: int) -> None:
    assert read_number(f"{before},{behind:03}") == before * 1000 + behind
    assert read_number(f"{before}.{behind:03}") == Fraction(before * 1000 + behind, 1000)
    other = f"Erst 12,5 Euro, am Ende {before}.{behind:03} Euro"
    assert final_number(other) == before * 1000 + behind


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6))
def test_another_number_is_not_the_answer(number: int, other: int) -> None:
    assert is_correct(f"The answer is {number}.", [str(other)], "number") == (number == other)


@given(st.text(max_size=120))
def test_numbers_stand_where_they_are_said_to(text: str) -> None:
    written = plain(text)
    for number in [*find_numbers(written), *find_number_words(written)]:
        assert 0 <= number.start < number.stop <= len(written)


@given(st.text(alphabet="0123456789.,'’ /-–^×e½\u2009{}()\\fracx=", max_size=60))
def test_any_heap_of_digits_is_read_or_left(text: str) -> None:
    number = final_number(text)
    assert number is None or isinstance(number, Fraction)


@pytest.mark.parametrize(
    "text", ["B12", "COVID-19", "cm^3", "m²", "per 100 km", "12.03.2024", "3/4/2024", "5/0", "H₂O", "x_1"]
)
def test_what_is_no_number_is_not_read_as_one(text: str) -> None:
    assert find_numbers(plain(text)) == []
