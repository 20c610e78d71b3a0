"""The law of texts: an answer is found in whatever sentence, script and markup it stands, and no other word is."""

from __future__ import annotations

import unicodedata

from hypothesis import assume, given
from hypothesis import strategies as st

from steerkit.scoring.answers import is_correct

_SENTENCES = [
    "{}",
    "It is {}.",
    "The answer: {}!",
    "**{}**, of course",
    "_{}_",
    "`{}`",
    "({})",
    "“{}”, I think",
    "1. {}\n2. x",
]
_DECIDING = [
    "{}",
    "{}.",
    "The answer is {}.",
    "No doubt: {}",
    "I have no idea why, but {}.",
    "**{}**",
    "Yes or no? {}!",
]
_SPACED = ["Paris", "Graham Bell", "Søren", "Łódź", "C++", "F#", "C", "J. K. Rowling", "O'Brien", "Москва", "Αθήνα",
           "القاهرة", "ירושלים", "दिल्ली", "Đà Nẵng", "seven", "12", "-5", "👍", "U.S.", "jack-o'-lantern"]  # fmt: skip
_UNSPACED = ["北京", "東京", "กรุงเทพ", "ភ្នំពេញ", "おにぎり", "アメリカ"]
_AROUND = [("首都は", "です。"), ("答案是", "。"), ("คำตอบคือ", "ครับ"), ("", "")]


@given(st.sampled_from(_SPACED + _UNSPACED), st.sampled_from(_SENTENCES))
def test_an_answer_is_found_in_any_sentence(answer: str, sentence: str) -> None:
    assert is_correct(sentence.format(answer), [answer], "text")


@given(st.sampled_from(_UNSPACED), st.sampled_from(_AROUND))
def test_an_answer_is_found_where_no_spaces_are_written(answer: str, around: tuple[str, str]) -> None:
    assert is_correct(answer.join(around), [answer], "text")


@given(
    st.sampled_from(["서울", "부산", "대한민국"]),
    st.sampled_from(["은", "이", "의", "에서", "입니다", "까지도", "이라고"]),
)
def test_a_korean_answer_is_found_with_its_particle(answer: str, particle: str) -> None:
    assert is_correct(f"{answer}{particle} 맞다.", [answer], "text")


@given(
    st.sampled_from(_SPACED + _UNSPACED), st.sampled_from(_SPACED + _UNSPACED), st.sampled_from(_SENTENCES)
)
def test_another_answer_is_not_found(answer: str, other: str, sentence: str) -> None:
    assume(answer != other and not (other == "C" and sentence == "x"))
    assert not is_correct(sentence.format(answer), [other], "text")


@given(
    st.sampled_from(_SPACED),
    st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]),
    st.sampled_from([str, str.upper, str.lower]),
)
def test_case_and_normal_form_do_not_matter(answer: str, form: str, cased: type[str]) -> None:
    assert is_correct(unicodedata.normalize(form, f"It is {cased(answer)}."), [answer], "text")  # type: ignore[arg-type]


@given(st.from_regex(r"[a-z]{3,9}", fullmatch=True), st.from_regex(r"[a-z]{1,5}", fullmatch=True))
def test_a_part_of_a_word_is_not_the_word(word: str, more: str) -> None:
    assert not is_correct(f"It is q{word}{more}.", [word + more], "text")
    assert not is_correct(f"It is {word}{more}q.", [word + more], "text")


@given(st.sampled_from(["yes", "no", "true", "false"]), st.sampled_from(_DECIDING))
def test_what_is_decided_is_found(word: str, sentence: str) -> None:
    for answer in ("yes", "no", "true", "false"):
        assert is_correct(sentence.format(word.capitalize()), [answer], "text") == (answer == word)
