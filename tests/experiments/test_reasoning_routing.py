"""The router: what it would have recorded, from what the model wrote with and without thinking."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from experiments.reasoning_tax.routing import AT_ONCE, Items, abstention, labels_of_help, routed, section
from experiments.reasoning_tax.setting import by_item
from steerkit.runs.cells import Cell
from steerkit.suites.items import SuiteItem
from steerkit.suites.suite import Suite
from tests.experiments.sums import ITEMS, SUITE, records


def test_a_route_takes_each_items_record_from_the_way_that_it_goes() -> None:
    think, answer = by_item(records(range(20), 50)), by_item(records(range(5), 3, Cell((AT_ONCE,))))
    items = Items(SUITE, think, answer, {}, {}, reply=(1, 2, 3, 4, 5))
    route = {item.id: ("think", "answer", "abstain")[n % 3] for n, item in enumerate(ITEMS)}
    found = by_item(routed(items, route))
    assert len(found) == len(ITEMS)
    for n, item in enumerate(ITEMS):
        scores = found[item.id].scores
        assert scores["tokens"] == (50, 3, 5)[n % 3]
        assert scores["abstained"] == (n % 3 == 2)
        assert scores["correct"] == (n % 3 == 0 or (n % 3 == 1 and n < 5))


def test_an_abstention_is_one_whatever_the_item() -> None:
    twin = SuiteItem("x", "What is some number and 1?", True)
    assert abstention(twin, (1, 2)).scores["abstained"]
    assert abstention(twin, (1, 2)).scores["correct"] is None


def test_thinking_helps_where_it_turns_wrong_into_right() -> None:
    think, answer = by_item(records(range(5, 20), 50)), by_item(records(range(10), 3))
    helped = [prompt.id for prompt in labels_of_help(SUITE, think, answer) if prompt.label]
    assert helped == [item.id for item in ITEMS[10:]]


def test_a_router_that_sees_what_helps_is_right_as_often_as_thinking_for_fewer_tokens() -> None:
    think, answer = by_item(records(range(20), 50)), by_item(records(range(10), 3))
    helps = {item.id: float(n >= 10) for n, item in enumerate(ITEMS)}
    no_answer = {item.id: 0.1 for item in ITEMS}
    twins = tuple(replace(item, id=f"{item.id}u", should_abstain=True, answers=None) for item in ITEMS)
    both = Items(SUITE, think, answer, no_answer, helps, reply=(1,))
    choose = replace(
        both,
        suite=Suite("sums", (*ITEMS, *twins)),
        no_answer=no_answer | {twin.id: 0.9 for twin in twins},
        helps=helps | {twin.id: 0.0 for twin in twins},
    )
    probe = SimpleNamespace(name="p", metadata=SimpleNamespace(auroc=(0.5,), layer=0, baseline_auroc=None))
    probes: Any = {"no_answer": probe, "helps": probe}
    lines = section(choose, both, probes, "Thinking helps").splitlines()
    by_name = {line.split(" (")[0].removeprefix("| "): line for line in lines if line.startswith("| ")}
    assert " 1.00 [1.00, 1.00] " in by_name["always think"]
    assert " 0.50 (-0.50 " in by_name["never think"]
    assert " 1.00 (+0.00 [+0.00, +0.00]) " in by_name["route, thinking for 25%"]
    assert " 26.5 (-23.5 " in by_name["route, thinking for 25%"]
    ends = section(replace(choose, helps={}), replace(both, helps={}), probes, "Thinking helps on 3 of 20")
    assert "Thinking helps on 3 of 20: too few to route by." in ends
    assert "| never think, or abstain (1.00 / 0.00 / 0.00)" in ends
    assert "| always think, or abstain (0.00 / 1.00 / 0.00)" in ends
    assert "| route" not in ends
