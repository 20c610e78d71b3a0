"""The tests of a chain, told apart by a model that reads its chain and one that does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from steerkit.chains.continuation import Continuations
from steerkit.chains.examination import Examination, Settings, Subject
from steerkit.chains.measures import Evidence, chains
from steerkit.core.errors import MisuseError
from steerkit.engines.base import Decoding
from steerkit.models import LanguageModel
from steerkit.models.markers import DEFAULT, ThinkingMarkers
from steerkit.runs.record import Record
from steerkit.suites.items import SuiteItem
from tests.chains import made_runs
from tests.chains.reader import Reader, Stubborn

MARKED = "<think>\n2 + 1 = 3.\nThen 3 + 4 = 7.\n</think>\nThe answer is 7."
PLAIN = "2 + 1 = 3.\nThen 3 + 4 = 7.\nThe answer is 7."


def record(completion: str, **changed: Any) -> Record:
    made = made_runs.record(SuiteItem("i", "?", answers=("7",), kind="number"), completion)
    return replace(made, **changed)


def examined(
    lm: LanguageModel,
    reader: type[Reader],
    *records: Record,
    markers: ThinkingMarkers = DEFAULT,
    **asked: Any,
) -> list[Evidence]:
    continuations = Continuations(reader(lm.renderer), lm.renderer, lm.context_length, None)
    subjects = [Subject.of(r, (), markers) for r in records]
    return Examination(continuations, Settings(**asked), Decoding(64), markers).evidence(subjects)


@pytest.mark.parametrize("text", [MARKED, PLAIN])
def test_a_model_that_reads_its_chain_needs_all_of_it(tiny: LanguageModel, text: str) -> None:
    (finding,) = examined(tiny, Reader, record(text), points=2)
    scores = chains(finding)
    assert [finding.answers[point] for point in finding.points] == ["0", "3", "7"]
    assert (scores["chain_whole"], scores["chain_steps"], scores["chain_as_given"]) == (1, 2, 1)
    assert (scores["chain_aoc"], scores["chain_needed"], scores["chain_dropped_same"]) == (0.75, 1, 0)
    assert (scores["chain_filler_same"], scores["chain_mistake_same"]) == (0, 0)


@pytest.mark.parametrize("text", [MARKED, PLAIN])
def test_a_model_that_knows_beforehand_needs_none_of_it(tiny: LanguageModel, text: str) -> None:
    (finding,) = examined(tiny, Stubborn, record(text), points=2)
    scores = chains(finding)
    assert (scores["chain_aoc"], scores["chain_needed"], scores["chain_dropped_same"]) == (0, 0, 1)
    assert (scores["chain_filler_same"], scores["chain_mistake_same"], scores["chain_paraphrase_same"]) == (
        1,
        1,
        1,
    )
    assert (scores["chain_gain"], scores["chain_gain_along"], scores["chain_gain_published"]) == (0, 0, 0)


def test_the_chain_goes_on_from_the_paraphrase_and_from_the_mistake(tiny: LanguageModel) -> None:
    (finding,) = examined(tiny, Reader, record(MARKED))
    details = finding.notes
    assert details["paraphrase"] == "Put otherwise: 2 + 1 = 3."
    assert details["paraphrase_chain"] == "Put otherwise: 2 + 1 = 3.\nSo it is 3."
    assert finding.answers["paraphrase"] == "3"
    wrong, step = details["mistake"]["wrong"], details["mistake"]["step"]
    assert finding.answers["mistake"] == wrong
    kept = "" if step == 0 else "2 + 1 = 3.\n"
    assert details["mistake_chain"].startswith(kept)
    assert details["mistake_chain"].endswith(f"So it is {wrong}.")
    assert f"= {wrong}." in details["mistake_chain"]
    assert "That's it" not in details["mistake_chain"]


def test_the_answer_line_of_a_regenerated_chain_without_markers_is_not_part_of_it(
    tiny: LanguageModel,
) -> None:
    (finding,) = examined(tiny, Reader, record(PLAIN), tests=("mistakes",))
    assert "99" not in finding.notes["mistake_chain"]
    assert finding.answers["mistake"] == finding.notes["mistake"]["wrong"]


def test_the_log_probability_is_the_answers_alone_and_rises_with_the_chain(tiny: LanguageModel) -> None:
    text = "<think>\nA 1.\nB 2.\nC 3.\n</think>\n7"
    (finding,) = examined(tiny, Reader, record(text), points=3, tests=("logprob",))
    assert finding.log_probabilities == (-3, -2, -1, 0)
    assert finding.answer_tokens == 2  # a space and a digit, in a model of bytes
    assert chains(finding)["chain_gain"] == 1.5
    assert "chain_aoc" not in chains(finding)


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
    scores = [chains(each) for each in found]
    assert [each["chain_whole"] for each in scores] == [0, 0, 0, 0, 1, 1]
    assert [set(each) for each in scores[:4]] == [{"chain_whole"}] * 4
    assert "chain_aoc" in scores[5]
    assert "chain_gain" not in scores[5]


def test_a_paraphrase_that_loses_a_number_is_no_test(tiny: LanguageModel) -> None:
    class Sloppy(Reader):
        def _complete(self, request):  # type: ignore[no-untyped-def]
            done = super()._complete(request)
            return done if request.interventions else type(done)(request, "Something.", (1,), "stop", 1)

    (finding,) = examined(tiny, Sloppy, record(MARKED))
    assert finding.notes["paraphrase"] == "Something."
    assert "chain_paraphrase_same" not in chains(finding)


def test_a_chain_stands_between_the_markers_of_its_own_model(tiny: LanguageModel) -> None:
    markers = ThinkingMarkers("[THINK]", "[/THINK]")
    text = MARKED.replace("<think>", markers.opening).replace("</think>", markers.closing)
    (finding,) = examined(tiny, Reader, record(text), markers=markers, points=2, tests=("early",))
    assert finding.steps == 2
    assert [finding.answers[point] for point in finding.points] == ["0", "3", "7"]


def test_settings_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(MisuseError, match="some of early, filler"):
        Settings(tests=("late",))
    with pytest.raises(MisuseError, match="got none"):
        Settings(tests=())
    with pytest.raises(MisuseError, match="at least 1"):
        Settings(points=0)
    assert Settings(tests=("logprob", "early")) == Settings(tests=("early", "logprob"))
