from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.analysis.frontier import actuator, actuator_frontiers, pareto_frontier
from steerkit.core.errors import MisuseError
from tests.sweeps.rows import cell, edit, gate, row, rule, steering


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
        row("a1", at=cell("a1", steering("a")), abstention_recall=0.9, over_abstention=0.1),
        row("a2", at=cell("a2", steering("a", strength=2.0)), abstention_recall=0.5, over_abstention=0.3),
        row("b1", at=cell("b1", steering("b")), abstention_recall=0.4, over_abstention=0.3),
        row("r", "random", abstention_recall=1.0, over_abstention=0.0),
    ]
    found = actuator_frontiers(rows, "abstention_recall", "over_abstention")
    assert {name: [r.cell for r in cells] for name, cells in found.items()} == {
        "a": ["a1", "unsteered"],
        "b": ["b1", "unsteered"],
    }


@pytest.mark.parametrize(
    ("forms", "name"),
    [
        ([steering()], "v"),
        ([steering(operation="clamp", target=2.0)], "v (clamp)"),
        ([steering(half_life=64.0, positions="lines")], "v (half-life 64, lines)"),
        ([steering(), edit("idk")], "v + idk"),
        ([steering("a"), steering("b")], "composition"),
        ([rule(bias=2.0)], "opener-bias"),
        ([rule(bias=2.0, name="refusal-bias")], "refusal-bias"),
        ([edit("")], 'system "Be sure."'),
        ([steering("a"), steering("b"), rule()], "composition + opener-bias"),
        (
            [steering("a", gate=gate("p")), steering("b", gate=gate("q", 0.1))],
            "composition, gated by p and q",
        ),
        ([steering(gate=gate("my p"))], "v, gated by my p"),
        ([rule(gate=gate("p"))], "opener-bias, gated by p"),
    ],
)
def test_an_actuator_is_named_by_what_its_cells_share(forms, name):
    assert actuator(row("c", at=cell("c", *forms))) == name


def test_cells_that_differ_in_amount_alone_are_of_one_actuator():
    weak, strong = (row("c", at=cell("c", rule(bias=bias, gate=gate("p", bias / 10)))) for bias in (1.0, 4.0))
    assert actuator(weak) == actuator(strong)
    assert weak.at.name != strong.at.name
