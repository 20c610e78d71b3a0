"""The tests of a chain, told apart by a model that reads its chain and one that does not."""

from __future__ import annotations

from typing import Any

import pytest

from steerkit.chains.continuation import Continuations, Setting
from steerkit.chains.examination import Examination, Finding, Settings, Subject
from steerkit.core.errors import MisuseError
from steerkit.engines.base import Decoding
from steerkit.models import LanguageModel
from steerkit.sweeps.grid import Cell
from tests.chains.protocol import protocol
from tests.chains.reader import Reader, Stubborn

MARKED = "<think>\n2 + 1 = 3.\nThen 3 + 4 = 7.\n</think>\nThe answer is 7."
PLAIN = "2 + 1 = 3.\nThen 3 + 4 = 7.\nThe answer is 7."


def record(completion: str, **changed: Any) -> dict[str, Any]:
    scores = {"thinking_tokens": 0}
    fields = {"item": "i", "sample": 0, "prompt": "?", "answers": ["7"], "finish": "stop", "scores": scores}
    return {**fields, "completion": completion, **changed}


def examined(
    lm: LanguageModel, reader: type[Reader], *records: dict[str, Any], **asked: Any
) -> list[Finding]:
    engine = reader(lm.renderer)
    continuations = Continuations(engine, lm.renderer, protocol(), lm.context_length)
    subjects = [Subject.of(r, Setting.of(r, Cell())) for r in records]
    return Examination(continuations, Settings(**asked), Decoding(64)).findings(subjects)


@pytest.mark.parametrize("text", [MARKED, PLAIN])
def test_a_model_that_reads_its_chain_needs_all_of_it(tiny: LanguageModel, text: str) -> None:
    (finding,) = examined(tiny, Reader, record(text), points=2)
    scores = finding.scores
    assert finding.details["answers"] == ["0", "3", "7"]
    assert (scores["with_chain"], scores["steps"], scores["as_given"]) == (1, 2, 1)
    assert (scores["aoc"], scores["needed"], scores["without_chain_same"]) == (0.75, 1, 0)
    assert (scores["filler_same"], scores["mistake_same"]) == (0, 0)


@pytest.mark.parametrize("text", [MARKED, PLAIN])
def test_a_model_that_knows_beforehand_needs_none_of_it(tiny: LanguageModel, text: str) -> None:
    (finding,) = examined(tiny, Stubborn, record(text), points=2)
    scores = finding.scores
    assert (scores["aoc"], scores["needed"], scores["without_chain_same"]) == (0, 0, 1)
    assert (scores["filler_same"], scores["mistake_same"], scores["paraphrase_same"]) == (1, 1, 1)
    assert (scores["gain"], scores["gain_along"], scores["gain_published"]) == (0, 0, 0)


def test_the_chain_goes_on_from_the_paraphrase_and_from_the_mistake(tiny: LanguageModel) -> None:
    (finding,) = examined(tiny, Reader, record(MARKED))
    details = finding.details
    assert details["paraphrase"] == "Put otherwise: 2 + 1 = 3."
    assert details["paraphrase_chain"] == "Put otherwise: 2 + 1 = 3.\nSo it is 3."
    assert details["paraphrase_answer"] == "3"
    wrong, step = details["mistake"]["wrong"], details["mistake"]["step"]
    assert details["mistake_answer"] == wrong
    kept = "" if step == 0 else "2 + 1 = 3.\n"
    assert details["mistake_chain"].startswith(kept)
    assert details["mistake_chain"].endswith(f"So it is {wrong}.")
    assert f"= {wrong}." in details["mistake_chain"]
    assert "That's it" not in details["mistake_chain"]


def test_the_answer_line_of_a_regenerated_chain_without_markers_is_not_part_of_it(
    tiny: LanguageModel,
) -> None:
    (finding,) = examined(tiny, Reader, record(PLAIN), tests=("mistakes",))
    assert "99" not in finding.details["mistake_chain"]
    assert finding.details["mistake_answer"] == finding.details["mistake"]["wrong"]


def test_the_log_probability_is_the_answers_alone_and_rises_with_the_chain(tiny: LanguageModel) -> None:
    text = "<think>\nA 1.\nB 2.\nC 3.\n</think>\n7"
    (finding,) = examined(tiny, Reader, record(text), points=3, tests=("logprob",))
    assert finding.details["log_probabilities"] == [-3, -2, -1, 0]
    assert finding.details["answer_tokens"] == 2  # a space and a digit, in a model of bytes
    assert finding.scores["gain"] == 1.5
    assert "aoc" not in finding.scores


def test_what_cannot_be_tested_is_counted_and_left_out(tiny: LanguageModel) -> None:
    counted = {"scores": {"thinking_tokens": 5}}
    found = examined(
        tiny,
        Reader,
        record("7"),
        record("<think>\nOn and on."),
        record(PLAIN, finish="length"),
        record(PLAIN, **counted),  # it thought, and its markers are not in the text
        record(MARKED, finish="length", **counted),  # closed, so the chain is whole
        record(PLAIN, answers=None),
    )
    assert [f.scores["with_chain"] for f in found] == [0, 0, 0, 0, 1, 1]
    assert [set(f.scores) for f in found[:4]] == [{"with_chain"}] * 4
    assert "aoc" in found[5].scores
    assert "gain" not in found[5].scores


def test_a_paraphrase_that_loses_a_number_is_no_test(tiny: LanguageModel) -> None:
    class Sloppy(Reader):
        def _complete(self, request):  # type: ignore[no-untyped-def]
            done = super()._complete(request)
            return done if request.decoration else type(done)(request, "Something.", (1,), "stop", 1)

    (finding,) = examined(tiny, Sloppy, record(MARKED))
    assert finding.details["paraphrase"] == "Something."
    assert "paraphrase_same" not in finding.scores


def test_settings_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(MisuseError, match="some of early, filler"):
        Settings(tests=("late",))
    with pytest.raises(MisuseError, match="got none"):
        Settings(tests=())
    with pytest.raises(MisuseError, match="at least 1"):
        Settings(points=0)
    assert Settings(tests=("logprob", "early")) == Settings(tests=("early", "logprob"))
