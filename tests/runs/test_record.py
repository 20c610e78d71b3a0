from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.engines.base import Decision, GateReading
from steerkit.runs.record import Record

texts = st.text(max_size=20)
numbers = st.floats(allow_nan=False, allow_infinity=False)
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": texts}),
    min_size=1,
    max_size=3,
)
readings = st.builds(
    GateReading, st.integers(0, 3), texts, st.none() | st.floats(0, 1), st.booleans() | st.floats(0, 1)
)
values = st.none() | numbers
records = st.builds(
    Record,
    cell=texts,
    item=texts,
    sample=st.integers(0, 9),
    split=texts,
    group=texts,
    should_abstain=st.none() | st.booleans(),
    answers=st.none() | st.lists(texts, max_size=3).map(tuple),
    kind=texts,
    prompt=texts | messages.map(tuple),
    completion=texts,
    tokens=st.integers(0, 99),
    finish=texts,
    scores=st.dictionaries(texts, st.none() | st.booleans() | st.integers() | numbers, max_size=3),
    gates=st.lists(readings, max_size=2).map(tuple),
    readings=st.lists(values | st.lists(values, max_size=3).map(tuple), max_size=2).map(tuple),
    pieces=st.lists(texts, max_size=3).map(tuple),
    decisions=st.lists(st.builds(Decision, texts, st.integers(0, 99), numbers), max_size=2).map(tuple),
)
ONE = Record("c", "i", 0, "choose", "g", None, None, "text", "Why?", "So.", 2, "stop", {"tokens": 2})


@given(records)
def test_a_record_reads_back_as_itself_from_one_line(record):
    line = record.to_line()
    assert line.count(b"\n") == 1
    assert Record.from_line(line) == record


def test_half_a_character_survives():
    record = replace(ONE, completion="a lone \ud800 surrogate\n and \x00")
    assert Record.from_line(record.to_line()) == record


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"cell": []}, r"cell is \[\]"),
        ({"sample": True}, "sample is True"),
        ({"sample": 1.5}, "sample is 1.5"),
        ({"should_abstain": "yes"}, "should_abstain is 'yes'"),
        ({"answers": [1]}, "answers are texts"),
        ({"scores": {"tokens": "many"}}, "a score is a number"),
        ({"scores": [1]}, "scores is"),
        ({"prompt": [{"role": "me", "content": "?"}]}, "role"),
        ({"prompt": []}, "a prompt is"),
        ({"gates": [{}]}, "a gate's reading: lacks fired, gate, intervention, probability"),
        (
            {"gates": [{"intervention": 0, "gate": "g", "probability": "high", "fired": True}]},
            "probability is 'high'",
        ),
        ({"more": 1}, r"unknown fields more"),
        ({"completion": None}, "completion is None"),
        ({"gates": ["open"]}, "a gate's reading is an object"),
        ({"readings": ["high"]}, "a reading is a number"),
        ({"readings": [[1, [2]]]}, "a reading is a number"),
        ({"pieces": [1]}, "pieces are texts"),
    ],
)
def test_what_is_no_record_is_said_in_one_line(changed, said):
    with pytest.raises(ValueError, match=said) as caught:
        Record.from_line(json.dumps({**json.loads(ONE.to_line()), **changed}).encode())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_are_no_scores(number):
    line = ONE.to_line().replace(b'"tokens": 2}', f'"tokens": {number}}}'.encode())
    with pytest.raises(ValueError, match="no number"):
        Record.from_line(line)


def test_a_second_record_in_the_line_is_an_error():
    with pytest.raises(ValueError, match="not one object"):
        Record.from_line(ONE.to_line().rstrip() * 2)


def test_a_missing_field_is_named():
    form = json.loads(ONE.to_line())
    del form["group"]
    with pytest.raises(ValueError, match=r"lacks group"):
        Record.from_line(json.dumps(form).encode())


@given(st.binary(max_size=60))
def test_any_bytes_are_a_record_or_a_value_error(line):
    with pytest.raises(ValueError, match=r"[^\n]*"):
        Record.from_line(line)
