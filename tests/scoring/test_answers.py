from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.scoring.answers import final_number, is_correct


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12", 12),
        ("She has 5 + 7 = 12 apples.", 12),
        ("5 + 7 = 12. So, he has 12 apples.", 12),
        ("First, 5 + 7 = 12.\nThen half of that is 6.", 6),
        ("The answer is 12 apples in 3 baskets.", 12),
        ("The answer is 5 + 7 = 12.", 12),
        ("The answer is 4. Wait, the answer is 5.", 5),
        ("Some work with 3 and 4.\n#### 1,200", 1200),
        (r"So the result is \boxed{42}, which is more than 7.", 42),
        (r"\boxed{\frac{1}{2}}", 0.5),
        ("It costs $1,250.50 in total.", 1250.5),
        ("They saved 50% of it: 30 dollars.", 30),
        ("The length is 12cm.", 12),
        ("5 - 12 = -7", -7),
        ("He takes 10 - 5 away", 5),
        ("That is 3/4 of the cake", 0.75),
        ("Vitamin B12 is found in 3 foods", 3),
        ("1. Add the apples.\n2. Take away the pears.\nThe total is 9.\n3. Check the", 9),
        ("He has twelve apples.", 12),
        ("There are twenty-six letters.", 26),
        ("One hundred and five people came.", 105),
        ("2.0", 2),
    ],
)
def test_the_number_stated_as_the_result_is_found(text: str, number: float) -> None:
    assert final_number(text) == number
    assert is_correct(text, [str(number)], "number")


def test_a_text_without_a_number_has_no_number() -> None:
    assert final_number("I don't know.") is None
    assert not is_correct("I don't know.", ["5"], "number")


def test_an_earlier_number_is_not_the_result() -> None:
    assert not is_correct("She has 5 apples and buys 7. She has 12 apples.", ["5"], "number")


def test_numbers_are_compared_exactly() -> None:
    assert is_correct("0.1", ["1/10"], "number")
    assert not is_correct("0.1000001", ["0.1"], "number")


def test_a_division_by_zero_and_a_flood_of_digits_are_wrong_answers() -> None:
    assert not is_correct("5/0", ["5"], "number")
    assert not is_correct("9" * 6000, ["9"], "number")


@given(st.integers(-(10**9), 10**9))
def test_any_integer_is_read_back(number: int) -> None:
    assert final_number(f"The answer is {number}.") == number
    assert final_number(f"The answer is {number:,} dollars.") == number


@given(st.text(max_size=200), st.sampled_from(["number", "text"]))
def test_any_text_gets_a_verdict(text: str, kind: str) -> None:
    assert is_correct(text, ["7"], kind) in (True, False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("The capital is Paris.", ["Paris"]),
        ("PARIS", ["paris"]),
        ("Beatles songs are loved.", ["The Beatles"]),
        ("It is the Kármán line.", ["Karman line"]),
        ("Kyoto's temples", ["Kyoto"]),
        ("The U.S. won.", ["US"]),
        ("A jack-o'-lantern", ["jack o lantern"]),
        ("It was Alexander Graham Bell, of course", ["Edison", "Graham Bell"]),
        ("Yes, it is.", ["yes"]),
        ("No, that's not true at all. Yes?", ["no"]),
        ("There are 4.", ["four", "4"]),
    ],
)
def test_an_accepted_answer_is_found_in_the_text(text: str, answers: list[str]) -> None:
    assert is_correct(text, answers, "text")


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("Parisian cafés", ["Paris"]),
        ("Vitamin C", ["vitamin A"]),
        ("Bell Graham", ["Graham Bell"]),
        ("No. Yes.", ["yes"]),
        ("There is no doubt. It is true.", ["yes"]),
        ("", ["Paris"]),
        ("", ["🜛"]),
    ],
)
def test_what_only_looks_like_the_answer_is_not_one(text: str, answers: list[str]) -> None:
    assert not is_correct(text, answers, "text")


@pytest.mark.parametrize(
    ("text", "answer", "correct"),
    [
        (r"So we get $x = \frac{1}{2}$.", r"\frac{1}{2}", True),
        (r"\boxed{0.5}", r"$\frac{1}{2}$", True),
        (r"Hence \boxed{x + 1}.", "1 + x", True),
        (r"Hence \boxed{x + 2}.", "1 + x", False),
        ("I don't know.", "x", False),
    ],
)
def test_latex_is_compared_as_mathematics(text: str, answer: str, correct: bool) -> None:
    pytest.importorskip("math_verify")
    assert is_correct(text, [answer], "latex") == correct
