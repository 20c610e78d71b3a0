from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from steerkit.core.errors import MisuseError
from steerkit.engines.base import Completion, ContinuationScore, Finish, Request, ScoreRequest
from steerkit.models.markers import ThinkingMarkers
from steerkit.scoring.degeneration import is_degenerate, repetition
from steerkit.scoring.lengths import lengths
from steerkit.scoring.perplexity import perplexity
from steerkit.scoring.reply import final_reply
from steerkit.scoring.score import score, score_completion
from steerkit.suites.items import SuiteItem
from steerkit.suites.suite import load_suite

SUM = SuiteItem("sum", "What is 5 + 7?", should_abstain=False, answers=("12",), kind="number")
DREAM = SuiteItem("dream", "What did she dream?", should_abstain=True)


def completion(
    text: str, tokens: Sequence[int] = range(8), finish: Finish = "stop", thinking: int = 0
) -> Completion:
    return Completion(Request("Hello?", system="Be kind."), text, tuple(tokens), finish, 5, thinking)


def test_a_record_of_scores_is_flat_and_complete() -> None:
    scorers = load_suite("abstention").scorers
    assert score_completion(SUM, completion("5 + 7 = 12"), scorers) == {
        "abstained": False,
        "correct": True,
        "tokens": 8,
        "thinking_tokens": 0,
        "truncated": False,
        "forced": False,
        "repetition": 0.0,
        "degenerate": False,
    }


def test_an_abstention_is_never_correct() -> None:
    scores = score_completion(SUM, completion("I don't know if it is 12."))
    assert scores["abstained"] is True
    assert scores["correct"] is False


def test_an_item_without_answers_has_no_correctness() -> None:
    assert score_completion(DREAM, completion("A silver barge."))["correct"] is None


def test_only_the_reply_after_the_thinking_is_judged() -> None:
    wondering = completion("<think>I don't know. Maybe 13?</think>The answer is 12.", thinking=5)
    scores = score_completion(SUM, wondering)
    assert (scores["abstained"], scores["correct"]) == (False, True)
    assert (scores["thinking_tokens"], scores["tokens"]) == (5, 8)


def test_thinking_that_never_closes_leaves_no_reply() -> None:
    scores = score_completion(SUM, completion("<think>I don't know. It is 12", finish="length", thinking=8))
    assert (scores["abstained"], scores["correct"], scores["truncated"]) == (False, False, True)


def test_a_turn_that_the_model_makes_up_is_not_its_reply() -> None:
    assert final_reply(" 12\n\nQuestion: What is 1 + 1?\nAnswer: 2") == "12"
    assert final_reply("The question: what is it?") == "The question: what is it?"


def test_lengths_are_lower_bounds_where_the_token_limit_cut_the_completion_off() -> None:
    measured = lengths(SUM, completion("a", range(10), "length", 4))
    assert measured == {"tokens": 10, "thinking_tokens": 4, "truncated": True, "forced": False}


def test_a_text_is_scored_without_a_model() -> None:
    scores = {"abstained": False, "correct": True, "stated_number": 12.0, "degenerate": False}
    scores["language_kept"] = None  # too short to tell
    assert score(SUM, "5 + 7 = 12") == scores
    fields = {"prompt": "What is 5 + 7?", "answers": ("12",), "kind": "number"}
    unsure = score(fields, "<think>11?</think>I don't know.")
    assert unsure == {"abstained": True, "correct": False, "stated_number": None} | {
        key: scores[key] for key in ("degenerate", "language_kept")
    }
    assert score(SUM, "12", scorers=["answers"]) == {"correct": True}
    with pytest.raises(MisuseError, match="no scorer 'answer'"):
        score(SUM, "12", scorers=["answer"])
    with pytest.raises(MisuseError, match=r"no suite item: .*'answer'"):
        score({"prompt": "What is 5 + 7?", "answer": "12"}, "12")
    with pytest.raises(MisuseError, match="several texts, not one"):
        score({"prompt": "What is 5 + 7?", "answers": "12"}, "12")


def test_a_text_is_read_between_the_markers_of_its_own_model() -> None:
    item = {"prompt": "What is 5 + 7?", "answers": ["12"], "kind": "number"}
    assert score(item, "<think>It is 12", ["answers"]) == {"correct": False}
    markers = ThinkingMarkers("[THINK]", "[/THINK]")
    assert score(item, "[THINK]11?[/THINK]12", ["answers"], markers=markers) == {"correct": True}
    assert score(item, "[THINK]It is 12", ["answers"], markers=markers) == {"correct": False}


@pytest.mark.parametrize(
    ("tokens", "share"),
    [([], 0.0), ([1, 2, 3], 0.0), ([1, 2, 3, 4], 0.0), ([1] * 5, 0.5), ([1] * 11, 7 / 8), (range(50), 0.0)],
)
def test_repetition_is_the_share_of_four_grams_seen_before(tokens: Sequence[int], share: float) -> None:
    assert repetition(tokens) == pytest.approx(share)


@given(st.lists(st.integers(0, 5), max_size=80))
def test_repetition_is_a_share(tokens: list[int]) -> None:
    assert 0 <= repetition(tokens) < 1


STUCK = [
    "  \n",
    "I'm unable to provide specific information. I'm unable to provide specific data. I'm unable to provide specific",
    "It is the same thing as the same thing as the same thing as",
    "so so so so so so so so",
    "Answer:\n\nAnswer:\n\nAnswer:\n\nAnswer:\n\nAnswer:\n\nAns",
    "3.14159265007870078700787007870078700787007870078700787",
    "10000000000000000000000000000",
    "9 * 10 * 11 * 12 * 13 * 14 * 15 * 16 * 17 *",
    "1.\n2.\n3.\n4.\n\n5.\n6.\n7.\n8.\n9.",
    "我不能提供具体的信息。我不能提供具体的信息。我不能提供具体的信息。",
    "ฉันไม่รู้คำตอบนี้ ฉันไม่รู้คำตอบนี้ ฉันไม่รู้คำตอบนี้ ฉันไม่รู้คำตอบนี้",
]
SAYS_SOMETHING_NEW = [
    "Paris.",
    "no no no",
    "Row, row, row your boat, gently down the stream.",
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12",
    "1 + 1 + 1 + 1 + 1 + 1 = 6",
    "One million is 1,000,000 and a billion is 1000000000.",
    "On Monday she sold 4 cups of tea for 3 euros. On Tuesday she sold 7 cups of milk for 2 euros. On Friday she sold "
    "9 cups of juice for 1 euro. In total she took 12 + 14 + 9 = 35 euros.",
    "- apples\n- pears\n- plums\n- cherries\n- figs\n- dates\n- nuts\n- limes",
    "-----------------------------------",
    "================================",
    "1 / 3 is 0.3333333333333333",
    "东京是日本的首都，大阪是日本的第二大城市。",
]


@pytest.mark.parametrize("text", STUCK)
def test_repetition_and_blank_texts_are_degenerate(text: str) -> None:
    assert is_degenerate(text)


@pytest.mark.parametrize("text", SAYS_SOMETHING_NEW)
def test_a_text_that_says_something_new_is_not_degenerate(text: str) -> None:
    assert not is_degenerate(text)


@given(st.text(min_size=1), st.integers(20, 40))
def test_whatever_is_said_twenty_times_in_a_row_is_degenerate(unit: str, times: int) -> None:
    assume(len(unit.strip()) <= 40 and any(map(str.isalnum, unit)))
    assert is_degenerate(unit * times)


class HalfSure:
    """An engine for which every word has the probability one half."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        raise NotImplementedError

    def score(self, requests: Sequence[ScoreRequest]) -> list[ContinuationScore]:
        assert all(not request.interventions for request in requests)
        assert all(request.system == "Be kind." for request in requests)
        half = math.log(0.5)
        return [
            ContinuationScore(request, (half,) * len(request.continuation.split())) for request in requests
        ]


def test_perplexity_is_that_of_the_unsteered_model_and_empty_completions_have_none() -> None:
    values = perplexity(HalfSure(), [completion("one two three"), completion(""), completion("one")])
    assert [value["perplexity"] for value in values] == [pytest.approx(2), None, pytest.approx(2)]
