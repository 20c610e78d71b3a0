from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.analysis.choosing import choose_cell, nearest_cell, parse_rule
from steerkit.core.errors import MisuseError
from steerkit.scoring.metrics import metrics
from tests.sweeps.rows import cell, row, steering

ROWS = [
    row("unsteered", "unsteered", abstention_recall=1.0),
    row("luck", "random", abstention_recall=1.0, tokens=1.0),
    row("bold", changes={"over_abstention": 0.4, "accuracy": -0.1}, abstention_recall=0.9, tokens=9),
    row("mild", changes={"over_abstention": 0.1, "accuracy": -0.02}, abstention_recall=0.6, tokens=20),
    row("unknown", abstention_recall=0.8),
]


@pytest.mark.parametrize(
    ("rule", "chosen"),
    [
        ("recall", "bold"),
        ("abstention_recall s.t. over_abstention_rise<=0.2", "mild"),
        ("recall s.t. over_abstention_rise <= 0.1", "mild"),
        ("tokens s.t. accuracy_drop<=0.05", "mild"),
        ("tokens", "bold"),
        ("tokens s.t. recall>=0.5, recall<=0.6", "mild"),
        ("accuracy_drop", "mild"),
        ("over_abstention_rise", "mild"),
        ("recall s.t. tokens<=5", None),
        ("perplexity", None),
    ],
)
def test_the_chosen_cell_is_the_best_within_the_bounds(rule, chosen):
    found = choose_cell(ROWS, rule)
    assert (found and found.cell) == chosen


def test_bounds_may_also_come_as_a_mapping_under_their_earlier_names():
    assert choose_cell(ROWS, "abstention_recall", {"over_abstention_increase": 0.2}).cell == "mild"
    assert choose_cell(ROWS, "tokens", {"accuracy_decrease": 0.05}).cell == "mild"
    with pytest.raises(MisuseError, match="no metric 'nonsense_increase'"):
        choose_cell(ROWS, "tokens", {"nonsense_increase": 1.0})


def test_a_tie_goes_to_the_smaller_dose_then_strength_then_the_first():
    rows = [
        row(name, at=cell(name, steering(strength=strength)), accuracy=0.5 + 1e-12 * strength)
        for name, strength in (("far", -3.0), ("near", 1.0), ("also near", -1.0))
    ]
    assert choose_cell(rows, "accuracy").cell == "near"
    assert choose_cell(rows, "accuracy", doses={"far": 0.1, "near": 0.2, "also near": 0.2}).cell == "far"


def test_a_bound_holds_with_its_own_value_whatever_the_last_bit_says():
    cell = row("a", changes={"over_abstention": 0.8 - 0.7}, abstention_recall=0.5)  # 0.10000000000000009
    assert choose_cell([cell], "recall s.t. over_abstention_rise<=0.1") is cell


def test_where_no_cell_meets_the_bounds_the_nearest_is_the_one_least_beyond_them():
    rule = parse_rule("recall s.t. over_abstention_rise<=0.05, accuracy_drop<=0.01")
    assert choose_cell(ROWS, rule) is None
    assert nearest_cell(ROWS, rule).cell == "mild"
    assert nearest_cell(ROWS, parse_rule("recall s.t. perplexity<=3")) is None


quantities = st.builds(
    "".join, st.tuples(st.sampled_from(sorted(metrics())), st.sampled_from(["", "_rise", "_drop"]))
)
bounds = st.tuples(quantities, st.sampled_from(["<=", ">="]), st.floats(-1, 1).map("{:g}".format))
unique = st.lists(bounds, max_size=4, unique_by=lambda bound: bound[:2])


@given(quantities, unique, st.text(" ", max_size=2))
def test_a_rule_reads_back_as_itself(objective, limits, blank):
    text = objective
    if limits:
        text += f" s.t. {blank}" + f"{blank},{blank}".join(blank.join(limit) for limit in limits)
    rule = parse_rule(text)
    assert parse_rule(str(rule)) == rule
    assert len(rule.bounds) == len(limits)


@given(st.text(max_size=40))
def test_any_text_is_a_rule_or_a_misuse(text):
    with contextlib.suppress(MisuseError):
        assert parse_rule(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read"),
        ("recall s.t.", "cannot be read"),
        ("recall over_abstention<=0.1", "cannot be read"),
        ("best", "no metric 'best'"),
        ("recall s.t. accuracy_dorp<=0.1", "no metric 'accuracy_dorp'"),
        ("recall s.t. accuracy<0.1", "is no bound"),
        ("recall s.t. accuracy>=0.1,", "'' is no bound"),
        ("recall s.t. accuracy>=5%", "'5%' is not a number"),
        ("recall s.t. accuracy>=nan", "'nan' is not a number"),
        ("recall s.t. over_abstention<=5", "is a share"),
        ("recall s.t. tokens<=5, tokens<=6", "twice"),
    ],
)
def test_a_rule_that_cannot_be_meant_says_so(text, said):
    with pytest.raises(MisuseError, match=said):
        parse_rule(text)
