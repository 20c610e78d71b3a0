from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.chains.chains import find_chain, split_steps

THOUGHT = "<think>\nShe has 3. She gets 4 more.\n3 + 4 = 7.\n</think>\n\nThe answer is 7."


def test_a_marked_chain_is_what_stands_between_the_markers() -> None:
    chain = find_chain(THOUGHT)
    assert chain is not None
    assert chain.steps == ("She has 3. ", "She gets 4 more.\n", "3 + 4 = 7.")
    assert (chain.opening, chain.closing) == ("<think>\n", "\n</think>\n\n")
    assert chain.reply == "The answer is 7."
    assert chain.opening + chain.body + chain.closing + chain.reply == THOUGHT


def test_where_the_template_opened_the_block_the_chain_begins_with_the_completion() -> None:
    chain = find_chain("3 + 4 = 7.\n</think>7")
    assert chain is not None
    assert (chain.opening, chain.steps, chain.closing, chain.reply) == (
        "",
        ("3 + 4 = 7.",),
        "\n</think>",
        "7",
    )
    assert chain.asked("So.") == "So.\n</think>\nThe answer is"


@pytest.mark.parametrize(
    ("text", "steps", "reply"),
    [
        ("3 + 4 = 7. So she has 7 marbles.", ("3 + 4 = 7.",), " So she has 7 marbles."),
        (
            "First 3.\nThen 4.\nThe answer is 7.\nHope 1 tip helps!",
            ("First 3.\n", "Then 4."),
            "\nThe answer is 7.\nH",
        ),
        ("3 + 4 = 7.\n\\boxed{7}\n(see page 12)", ("3 + 4 = 7.",), "\n\\boxed{7}\n(see page 12)"),
        ("3 + 4 = 7.\n#### 7\nThe answer is: 7", ("3 + 4 = 7.",), "\n#### 7\nThe answer is: 7"),
        ("Answer to part 1: 3.\nThe answer is: 7", ("Answer to part 1: 3.",), "\nThe answer is: 7"),
        ("She is tall. She is old. It is Ada.", ("She is tall. ", "She is old."), " It is Ada."),
        ("1. Add 3 and 4.\n2. That is 7.", ("1. Add 3 and 4.",), "\n2. That is 7."),
    ],
)
def test_without_markers_the_answer_line_ends_the_chain(
    text: str, steps: tuple[str, ...], reply: str
) -> None:
    chain = find_chain(text)
    assert chain is not None
    assert chain.steps == steps
    assert chain.reply.startswith(reply)
    assert chain.body + chain.reply == text


@pytest.mark.parametrize(
    "text", ["", "7", "The answer is 7.", "<think>\nNever closed. 3 + 4 = 7.", "<think></think>7"]
)
def test_an_answer_alone_and_an_open_block_have_no_chain(text: str) -> None:
    assert find_chain(text) is None


def test_what_is_given_back_begins_like_the_completion_did() -> None:
    marked, plain = find_chain(THOUGHT), find_chain("3 + 4 = 7. So 7.")
    assert marked is not None
    assert plain is not None
    assert THOUGHT.startswith(marked.begun(marked.first(2)))
    assert marked.asked(marked.body) == THOUGHT.removesuffix(" 7.")
    assert marked.asked("") == "<think>\n\n</think>\n\nThe answer is"
    assert plain.asked("3 + 4 = 7.") == "3 + 4 = 7.\nThe answer is"
    assert plain.asked("") == "The answer is"


@given(st.text(st.sampled_from("ab 1.?!\n-)*"), max_size=60))
def test_steps_joined_are_the_text_and_none_of_them_is_bare(text: str) -> None:
    steps = split_steps(text)
    assert "".join(steps) == text
    assert all(step.strip() not in {"", "-", "*", "1."} for step in steps[:-1])


@given(st.text(st.sampled_from("ab 17.=\n"), max_size=80))
def test_a_chain_and_its_reply_are_the_whole_completion(text: str) -> None:
    chain = find_chain(text)
    if chain is not None:
        assert chain.body + chain.reply == text.strip()
        assert chain.body.strip()
