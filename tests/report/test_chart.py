"""The chart of a trade-off: a button a cell, with its numbers, and nothing that a text could break out of."""

from __future__ import annotations

import re

import pytest

from steerkit.analysis.run import open_run
from steerkit.report.chart import said_of, trade_off_chart


@pytest.fixture
def run(make_run):
    return open_run(make_run())


def test_every_measured_cell_has_a_mark_with_its_numbers(run):
    rows, [question, *_] = run.summary(), run.questions
    chart = trade_off_chart(rows, question)
    assert set(re.findall(r'<button[^>]*data-cell="(\w+)"', chart)) == {row.cell for row in rows}
    assert chart.count('tabindex="0"') == 1  # arrow keys go on from there
    steered = next(row for row in rows if row.role == "steered")
    said = said_of(steered, (question.y, question.x)).split("\n")
    assert said[0] == "abstain"
    assert said[1].startswith("layer ")
    assert re.search(r"abstention recall \d\.\d\d \[\d\.\d\d, \d\.\d\d\], change [+-]", said[2])


def test_marks_stand_inside_the_plot_with_their_intervals(run):
    chart = trade_off_chart(run.summary(), run.questions[0])
    places = [float(place) for place in re.findall(r"(?:left|bottom):(-?[\d.]+)%", chart)]
    ends = [float(end) for end in re.findall(r'[xy][12]="(-?[\d.]+)"', chart)]
    assert all(0 <= place <= 100 for place in [*places, *ends])


def test_a_hostile_name_is_text(make_run, monkeypatch):
    run = open_run(make_run())
    monkeypatch.setattr("steerkit.report.chart.cell_name", lambda _row: '"><script>alert(1)</script>')
    chart = trade_off_chart(run.summary(), run.questions[0])
    assert "<script" not in chart
    assert '"><' not in re.sub(r'">\s*<(svg|/?\w)', "", chart)


def test_without_both_metrics_there_is_no_chart(run):
    bare = [row.only(["mean_tokens"]) for row in run.summary()]
    assert trade_off_chart(bare, run.questions[0]) is None
