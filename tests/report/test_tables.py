from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from steerkit.analysis.judging import Judged
from steerkit.analysis.run import open_run
from steerkit.core.bootstrap import Estimate
from steerkit.core.registry import SCORERS
from steerkit.report.tables import (
    cell_name,
    format_change,
    format_estimate,
    id_width,
    judged_table,
    main_metrics,
    trade_off_table,
)
from steerkit.scoring.agreement import agreement
from steerkit.scoring.metrics import Metric, scorer
from tests.sweeps.rows import cell, edit, gate, row, rule, steering


def render(rows, width: int = 100) -> list[str]:
    return printed(trade_off_table(rows, width=width), width)


def printed(table, width: int = 100) -> list[str]:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_cells_that_fade_or_act_at_boundaries_are_told_apart():
    timings = [{}, {"half_life": 64.0}, {"half_life": 16.0, "positions": "boundaries"}]
    rows = [
        row("brief", at=cell(f"cell{i}", steering(**timing)), accuracy=0.5, tokens=40.0)
        for i, timing in enumerate(timings)
    ]
    lines = render(rows)
    assert lines[0].split()[:3] == ["cell", "id", "when"]
    for line, when in zip(lines[1:], ("–", "½ 64", "½ 16 boundaries"), strict=True):
        assert f" {when} " in line
    assert "when" not in render(rows[:1])[0]
    assert len({cell_name(row) for row in rows}) == 3


def test_an_estimate_reads_with_its_interval():
    share = Estimate(0.734, 0.611, 0.838, 40)
    assert format_estimate(share) == "0.73 [0.61, 0.84]"
    assert format_change(share) == "+0.73 [+0.61, +0.84]"
    assert format_estimate(Estimate(41.27, 38.0, 44.44, 40), "tokens") == "41.3 [38.0, 44.4]"
    assert format_estimate(None) == "–"


def test_the_unsteered_row_leads_and_a_control_follows_its_cell(make_run):
    lines = render(open_run(make_run()).summary())
    assert [line.split()[0] for line in lines] == ["cell", "unsteered", *["abstain", "random"] * 4]


@pytest.mark.parametrize("abstention", [True, False])
def test_a_hundred_columns_hold_every_number_whatever_the_vector_is_called(make_run, abstention):
    rows = open_run(make_run(abstention)).summary()
    long = [steering("a-rather-long-name-of-a-vector", strength=row.at.strength) for row in rows]
    rows = [replace(row, at=replace(row.at, forms=[form])) for row, form in zip(rows, long, strict=True)]
    lines = render(rows)
    assert max(map(len, lines)) <= 100
    for each, line in zip(rows, lines[1:], strict=True):
        assert format_estimate(each.levels["accuracy"]) in line
        assert f" {each.levels['truncated'].value:.2f}" in line
    assert render(rows, width=200)[0].split()[-1] == "degen."


def test_a_suite_without_items_to_abstain_from_shows_accuracy_and_length(make_run):
    header = render(open_run(make_run(abstention=False)).summary())[0]
    assert header.split() == ["cell", "id", "layer", "str.", "accuracy", "tokens", "cut", "degen."]


def test_the_metrics_of_somebody_elses_scorer_have_their_columns():
    metrics = [
        Metric("sweetness", "sweetness", "higher", "sweet", show="main"),
        Metric("crumbs", "crumbs", "lower", unit="tokens"),
        Metric("dust", "dust", "lower", show="hidden"),
    ]
    scorer("taste", metrics=metrics)(lambda _item, _completion: {})
    try:
        rows = [row("a", sweetness=0.5, crumbs=3.0, dust=0.1)]
        assert [metric.name for metric in main_metrics(rows)] == ["sweetness"]
        header, line = render(rows)
        assert header.split() == ["cell", "id", "layer", "str.", "sweet", "crumbs"]
        assert line.endswith("0.50 [0.50, 0.50]    3.0")
        assert "crumbs" not in render([row("a", sweetness=0.5, crumbs=0.0)])[0]
    finally:
        SCORERS._things.pop("taste")


def test_an_id_is_as_long_as_it_takes_to_tell_cells_apart():
    rows = [row(name) for name in ("abcdef01", "abcdef02", "12345678")]
    assert id_width(rows) == 8
    assert id_width(rows[1:]) == 4
    assert [line.split()[1] for line in render(rows[1:])[1:]] == ["abcd", "1234"]


def test_two_opinions_stand_in_a_hundred_columns():
    levels = {"abstention_recall": 0.5, "over_abstention": 0.25}
    opinions = {"judged_abstention_recall": 0.75, "judged_over_abstention": 0.0}
    name = "a-rather-long-name-of-a-vector" * 2
    rows = [row("c", at=cell("c", steering(name)), **levels, **opinions)]
    counts = agreement([(True, True), (True, False), (False, False), (False, False)])
    judged = Judged("critic", {"c": counts}, counts, missing=0)
    *_, header, line, last = printed(judged_table(judged, rows))
    assert max(map(len, (header, line, last))) <= 100
    assert line.split()[-8:] == ["1", "1", "0.50", "0.75", "0.25", "0.00", "0.75", "0.50"]
    assert last.split() == ["all", "cells", "0.75", "0.50"]


def test_cells_under_different_thresholds_of_a_gate_are_told_apart():
    cells = [
        row("v", at=cell(name, steering(gate=gate("my p", threshold))), accuracy=0.5)
        for name, threshold in (("a", 0.5461600130206604), ("b", 0.714))
    ]
    assert [cell_name(cell) for cell in cells] == [
        "v, gated by my p ≥ 0.546",
        "v, gated by my p ≥ 0.714",
    ]
    lines = render(cells)
    assert "gate" in lines[0]
    assert "0.546" in lines[1]
    assert "0.714" in lines[2]
    assert "gate" not in render([row("v", accuracy=0.5)])[0]


@pytest.mark.parametrize(
    ("form", "name"),
    [
        (rule(name="bias", gate=gate("p", 0.25)), "bias@bias=4, gated by p ≥ 0.25"),
        (edit("idk", gate("p")), "idk, gated by p ≥ 0.5"),
        (edit("idk"), "idk"),
        (rule(), "opener-bias@bias=4"),
    ],
)
def test_an_edit_is_named_with_its_amounts(form, name):
    assert cell_name(row("c", at=cell("c", form))) == name


def test_a_steering_beside_an_edit_is_named_with_it():
    assert cell_name(row("c", at=cell("c", edit("idk"), steering()))) == "v + idk"
    composed = cell("c", steering("a", (1, 2), 0.5), steering("b"), rule())
    assert cell_name(row("c", at=composed)) == "a@1+2,0.5 + b@1,1 + opener-bias@bias=4"
