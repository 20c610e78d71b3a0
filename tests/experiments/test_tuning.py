"""The replay study: its orders, its regret, and its page, on a grid of the synthetic engine."""

from __future__ import annotations

import pytest

from experiments.tuning import run
from steerkit.analysis.choosing import parse_rule
from tests.sweeps.synthetic import grid, items, write_run

RULE = parse_rule("recall s.t. over_abstention_rise<=0.35")
STRENGTHS = [0.25 * step for step in range(1, 9)]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> run.Stored:
    """Sixteen cells with their controls, on 60 items."""
    folder = tmp_path_factory.mktemp("grid")
    suite = items(60)
    written = write_run(folder / "run", grid((4, 6), STRENGTHS), suite)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run.sk, "load_suite", lambda _name: suite)
        return run.stored(f"abstention={written.path}")


def test_controls_are_no_candidates_and_half_pairs_no_items(stored: run.Stored) -> None:
    assert len(stored.candidates) == 16
    assert len(stored.items) == 60


def test_an_order_has_every_item_once_and_twins_together(stored: run.Stored) -> None:
    order = run.order_of(stored, 3)
    assert sorted(order) == list(range(60))
    groups = stored.outcomes.groups[order]
    assert all(groups[place] == groups[place + 1] for place in range(0, 60, 2))
    assert order == run.order_of(stored, 3) != run.order_of(stored, 4)


def test_the_full_grids_pick_has_no_regret_and_equal_rows_cost_once(stored: run.Stored) -> None:
    whole = run.scored(stored, RULE, range(60))
    best = whole.pick(stored.candidates)
    assert whole.regret(best, best) == 0
    assert all(whole.regret(cell, best) >= 0 for cell in stored.candidates)
    cell = stored.candidates[0]
    assert stored.cost([cell, cell], [0, 1]) == stored.cost([cell], [0, 1])


def test_a_race_spends_its_share_and_loses_less_than_a_cell_drawn_at_random(stored: run.Stored) -> None:
    found = [run.replay(stored, RULE, seed) for seed in range(10)]
    assert all(each.spent <= run.SHARE + 0.1 for each in found)
    whole = run.scored(stored, RULE, range(60))
    best = whole.pick(stored.candidates)
    drawn = [whole.regret(cell, best) for cell in stored.candidates]
    assert sum(each.raced for each in found) / len(found) < sum(drawn) / len(drawn)


def test_the_page_has_a_row_a_rule(stored: run.Stored) -> None:
    page = run.page([stored], range(2))
    assert page.count("| abstention |") == len(run.RULES["abstention"])
