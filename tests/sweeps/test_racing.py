"""Racing: what is dropped, what it costs, and that nothing but the records decides."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from steerkit.analysis.choosing import parse_rule
from steerkit.sweeps.racing import FIRST_ITEMS, expected_losses, next_rung, race, survivors

RULE = parse_rule("recall s.t. over_abstention_rise<=0.1")


def outcomes(recall, over, n=40, seed=0):
    """Cells `c0`, `c1`, … and the unsteered `u`, with these rates on `n` twins each."""
    rng = np.random.default_rng(seed)
    names = ["u", *(f"c{i}" for i in range(len(recall)))]
    luck = rng.random((2, n))
    values = {
        "abstention_recall": np.full((len(names), 2 * n), np.nan),
        "over_abstention": np.full((len(names), 2 * n), np.nan),
    }
    for metric, rates, half in (
        ("abstention_recall", [0.05, *recall], 0),
        ("over_abstention", [0.02, *over], 1),
    ):
        for row, rate in enumerate(rates):
            values[metric][row, half::2] = luck[half] < rate
    return SimpleNamespace(cells=names, groups=np.repeat(np.arange(n), 2), values=values)


def test_the_best_cell_within_the_bounds_loses_least():
    found = outcomes([0.2, 0.9, 0.6], [0.02, 0.8, 0.04])
    losses = expected_losses(found, ["c0", "c1", "c2"], "u", RULE)
    assert min(losses, key=losses.get) == "c2"
    assert losses["c1"] > losses["c0"]


def test_equal_seeds_give_equal_losses_whatever_the_order_of_cells():
    found = outcomes([0.2, 0.5], [0.02, 0.1])
    one, other = (expected_losses(found, cells, "u", RULE, seed=3) for cells in (["c0", "c1"], ["c1", "c0"]))
    assert one == pytest.approx(other)


def test_a_cell_that_was_not_measured_loses_infinitely():
    found = outcomes([0.2, 0.5], [0.02, 0.1])
    found.values["abstention_recall"][1] = np.nan
    assert expected_losses(found, ["c0", "c1"], "u", RULE)["c0"] == np.inf


def test_tokens_are_taken_in_parts_of_the_unsteered_mean():
    found = outcomes([0.2, 0.5], [0.02, 0.1])
    found.values["tokens"] = np.tile([[100.0], [80.0], [50.0]], (1, 80))
    losses = expected_losses(found, ["c0", "c1"], "u", parse_rule("tokens"))
    assert losses == pytest.approx({"c0": 0.3, "c1": 0.0})


def test_of_equals_those_of_the_smaller_dose_go_on():
    assert survivors({"a": 0.1, "b": 0.1, "c": 0.0}, 2, {"a": 2.0, "b": 1.0, "c": 9.0}) == ["b", "c"]


@pytest.mark.parametrize("cells", [6, 12, 60, 200])
@pytest.mark.parametrize("share", [0.1, 0.25, 2.0])
def test_a_race_keeps_to_its_budget_and_ends_on_all_items_where_that_is_paid_for(cells, share):
    items = 120
    rates = [number / 400 for number in range(cells)]

    def measure(names, n):
        measure.spent += len(names) * (n - measure.items)
        measure.items = n
        return outcomes(rates, [0.0] * cells), measure.spent

    measure.spent, measure.items = 0.0, 0
    budget = max(share * cells * items, 2 * cells)
    raced = race([f"c{i}" for i in range(cells)], "u", RULE, items, budget, measure)
    assert raced.heats[-1].spent <= budget + cells  # a rung has at least one item
    if share >= 0.25 and cells >= 12:
        assert raced.heats[-1].items == items
    sizes = [len(heat.cells) for heat in raced.heats]
    assert sizes == sorted(sizes, reverse=True)


def test_the_first_rung_has_enough_items_where_they_are_paid_for():
    assert next_rung(100, 0, 200, left=5000, cost=1.0).items >= FIRST_ITEMS
    assert next_rung(100, 0, 200, left=1000, cost=1.0).items == 5
    assert next_rung(100, 0, 200, left=10, cost=1.0).items == 2
    assert next_rung(100, 0, 200, left=1e9, cost=1.0).keep is None
