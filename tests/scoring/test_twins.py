from __future__ import annotations

from dataclasses import replace

import pytest

from steerkit.engines.base import Completion, Request
from steerkit.runs.record import Record
from steerkit.scoring.metrics import in_order, metrics
from steerkit.scoring.score import score_completion
from steerkit.suites.items import SuiteItem
from steerkit.suites.suite import load_suite
from tests.sweeps.rows import scored

SCORERS = ("twins", "abstention", "answers")
NUMBER = (
    SuiteItem("1a", "1 + 2?", False, ("3",), "number", twin="1n"),
    SuiteItem("1n", "1 + 6?", False, ("7",), "number", twin="1a"),
)
PREMISE = (  # the unanswerable one first by its name
    SuiteItem("2z", "1 + 2?", False, ("3",), "number", twin="2a"),
    SuiteItem("2a", "1 + some?", True, twin="2z"),
)


def record(item: SuiteItem, text: str) -> Record:
    completion = Completion(Request(item.prompt), text, (1, 2), "stop", 1)
    made = scored("c", item.id, item.should_abstain, **score_completion(item, completion, SCORERS))
    return replace(made, answers=item.answers)


def compared(pair: tuple[SuiteItem, SuiteItem], *said: str) -> dict[str, float]:
    twins = in_order(*(record(item, text) for item, text in zip(pair, said, strict=True)))
    values = {
        name: metric.compare(*twins)
        for name, metric in metrics(["twins"]).items()
        if metric.compare is not None
    }
    return {name: value for name, value in values.items() if value is not None}


@pytest.mark.parametrize(
    ("said", "original", "variant", "unmoved"),
    [
        (("It is 3.", "It is 7."), 1, 1, 0),
        (("It is 3.", "It is 3."), 1, 0, 1),  # it fills in a template
        (("It is 4.", "It is 5."), 0, 0, 0),
        (("Who knows?", "Who can say?"), 0, 0, 0),  # no number is not one number
        (("It is 4.", "It is 7."), 0, 1, 0),
    ],
)
def test_number_twins_show_who_fills_in_a_template(
    said: tuple[str, str], original: int, variant: int, unmoved: int
) -> None:
    assert compared(NUMBER, *said) == {
        "number_gap": original - variant,
        "number_original": original,
        "number_variant": variant,
        "number_both": original * variant,
        "number_unmoved": unmoved,
    }


def test_premise_twins_are_right_when_the_second_is_abstained_from() -> None:
    expected = {"premise_gap": 0, "premise_original": 1, "premise_variant": 1, "premise_both": 1}
    assert compared(PREMISE, "It is 3.", "I don't know.") == expected
    assert compared(PREMISE, "It is 3.", "It is 2.") == expected | {
        "premise_gap": 1,
        "premise_variant": 0,
        "premise_both": 0,
    }


def test_the_abstention_suites_own_twins_are_premise_twins() -> None:
    suite = load_suite("abstention")
    first = next(item for item in suite if item.twin and not item.should_abstain)
    second = next(item for item in suite if item.id == first.twin)
    values = compared((first, second), "I don't know.", "I don't know.")
    assert (values["premise_original"], values["premise_variant"]) == (0, 1)
    assert not any(name.startswith("number") for name in values)


def test_twins_that_cannot_be_judged_or_differ_in_neither_way_have_no_gap() -> None:
    asked_twice = SuiteItem("b", "1 + 2, in lower case?", False, ("3",), "number", twin="a")
    plain = SuiteItem("a", "1 + 2?", False, ("3",), "number", twin="b")
    assert compared((plain, asked_twice), "3", "3") == {}
    unsaid = (SuiteItem("c", "Why?", twin="d"), SuiteItem("d", "Why not?", twin="c"))
    assert compared(unsaid, "So.", "Or so.") == {}


def test_a_number_that_no_float_holds_is_none() -> None:
    scores = record(NUMBER[0], f"It is {'9' * 400}.").scores
    assert scores == {"stated_number": None, "abstained": False, "correct": False}
