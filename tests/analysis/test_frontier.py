from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.analysis.frontier import actuator, actuator_frontiers, pareto_frontier
from steerkit.core.errors import MisuseError
from tests.sweeps.rows import row


def test_the_frontier_holds_what_nothing_beats():
    rows = [
        row("unsteered", "unsteered", abstention_recall=0.2, over_abstention=0.0),
        row("good", abstention_recall=0.6, over_abstention=0.1),
        row("as good", abstention_recall=0.6, over_abstention=0.1),
        row("tied but worse", abstention_recall=0.6, over_abstention=0.2),
        row("beaten", abstention_recall=0.5, over_abstention=0.1),
        row("extreme", abstention_recall=0.9, over_abstention=0.7),
        row("luck", "random", abstention_recall=1.0, over_abstention=0.0),
        row("unmeasured", abstention_recall=1.0),
    ]
    frontier = pareto_frontier(rows, "abstention_recall", "over_abstention")
    assert [r.cell for r in frontier] == ["extreme", "good", "as good", "unsteered"]


def test_an_unknown_metric_is_a_misuse():
    with pytest.raises(MisuseError, match="no metric 'nonsense'"):
        pareto_frontier([], "nonsense", "tokens")


shares = st.integers(0, 4).map(lambda value: value / 4)


@given(st.lists(st.tuples(shares, shares), min_size=1, max_size=12))
def test_the_frontier_is_what_no_other_cell_dominates(places):
    rows = [row(str(i), abstention_recall=r, over_abstention=o) for i, (r, o) in enumerate(places)]
    undominated = {
        str(i)
        for i, (r, o) in enumerate(places)
        if not any(r2 >= r and o2 <= o and (r2, o2) != (r, o) for r2, o2 in places)
    }
    assert {
        cell.cell for cell in pareto_frontier(rows, "abstention_recall", "over_abstention")
    } == undominated


def test_each_actuator_has_its_own_frontier_from_the_unsteered_model_on():
    rows = [
        row("unsteered", "unsteered", abstention_recall=0.2, over_abstention=0.0),
        replace(row("a1", abstention_recall=0.9, over_abstention=0.1), vector="a"),
        replace(row("a2", abstention_recall=0.5, over_abstention=0.3), vector="a"),
        replace(row("b1", abstention_recall=0.4, over_abstention=0.3), vector="b"),
        replace(row("r", "random", abstention_recall=1.0, over_abstention=0.0), vector="random(a)"),
    ]
    found = actuator_frontiers(rows, "abstention_recall", "over_abstention")
    assert {name: [r.cell for r in cells] for name, cells in found.items()} == {
        "a": ["a1", "unsteered"],
        "b": ["b1", "unsteered"],
    }


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({}, "v"),
        ({"operation": "clamp"}, "v (clamp)"),
        ({"decoration": "prompt@text=idk"}, "v + prompt"),
        ({"vector": None, "layer": None}, "composition"),
        ({"vector": None, "steering": "", "decoration": "bias@amount=2"}, "bias"),
        ({"vector": None, "decoration": "bias@amount=2"}, "composition + bias"),
        (
            {"vector": None, "steering": "a@layer=1,gate=p,threshold=1 ; b@layer=2,gate=q/3,threshold=0"},
            "composition, gated by p and q",
        ),
        ({"steering": "v@layer=1,strength=2,scope=completion,gate=my p/6,threshold=0.5"}, "v, gated by my p"),
        (
            {"vector": None, "steering": "", "decoration": "bias@bias=4,gate=p/6,threshold=0.5"},
            "bias, gated by p",
        ),
    ],
)
def test_an_actuator_is_named_by_what_its_cells_share(changed, name):
    assert actuator(replace(row("v"), **changed)) == name
