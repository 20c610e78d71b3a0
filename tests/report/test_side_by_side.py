"""A cell's completions beside the unsteered ones: which changed, and which are shown."""

from __future__ import annotations

from dataclasses import replace

from steerkit.report.side_by_side import beside_unsteered, filtered
from steerkit.runs.cells import Cell
from tests.report.conftest import BEST, record


def records():
    """Ten items, unsteered and steered, and one that was measured under the steered cell alone."""
    plain = [record(Cell(), number, True) for number in range(10)]
    steered = [record(BEST, number, True) for number in (*range(10), 40)]
    return [*plain, *steered]


def rows():
    return beside_unsteered(records(), BEST.id, Cell().id)


def test_each_completion_stands_beside_the_unsteered_one_of_its_item():
    assert [row.record.item for row in rows()] == sorted({each.item for each in records()})
    assert all(row.unsteered.item == row.record.item for row in rows()[:-1])
    assert rows()[-1].unsteered is None
    assert not rows()[-1].new_verdict


def test_filters_keep_what_changed_and_what_is_asked_about():
    changed = filtered(rows(), "verdict")
    assert changed
    assert all(row.record.scores["abstained"] != row.unsteered.scores["abstained"] for row in changed)
    assert {row.record.should_abstain for row in filtered(rows(), kind="to abstain from")} == {True}
    assert len(filtered(rows(), containing="HARBOUR 4?")) == 1
    assert filtered(rows(), "wording") == [row for row in rows() if row.new_wording]


def test_another_wording_is_no_other_verdict():
    other = [
        replace(each, completion=each.completion + " Indeed.") if each.cell == BEST.id else each
        for each in records()
    ]
    found = beside_unsteered(other, BEST.id, Cell().id)
    assert len(filtered(found, "wording")) == 10 > len(filtered(found, "verdict"))
