from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from steerkit.analysis.judging import Judged, JudgedRow
from steerkit.analysis.summary import Row, summarise
from steerkit.core.bootstrap import Estimate
from steerkit.report.tables import cell_name, format_change, format_estimate, judged_table, trade_off_table
from steerkit.runs.directory import RunDirectory
from steerkit.scoring.agreement import agreement


def row(vector: str, **levels: float) -> Row:
    """A steered cell by its metrics, without width."""
    estimates = {name: Estimate(value, value, value, 4) for name, value in levels.items()}
    return Row(vector, "steered", None, vector, None, vector, 1, 1.0, "completion", "add", 4, estimates, {})


def render(rows, width: int = 100) -> list[str]:
    return printed(trade_off_table(rows), width)


def printed(table, width: int = 100) -> list[str]:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_cells_that_fade_or_act_at_boundaries_are_told_apart():
    plain = row("brief", accuracy=0.5, tokens=40.0)
    rows = [plain, replace(plain, half_life=64.0), replace(plain, half_life=16.0, positions="boundaries")]
    lines = render(rows)
    assert lines[0].split()[:2] == ["vector", "when"]
    for line, when in zip(lines[1:], ("–", "½ 64", "½ 16 boundaries"), strict=True):
        assert f" {when} " in line
    assert "when" not in render([plain])[0]
    assert len({cell_name(row) for row in rows}) == 3


def test_an_estimate_reads_with_its_interval():
    share = Estimate(0.734, 0.611, 0.838, 40)
    assert format_estimate("accuracy", share) == "0.73 [0.61, 0.84]"
    assert format_change("accuracy", share) == "+0.73 [+0.61, +0.84]"
    assert format_estimate("tokens", Estimate(41.27, 38.0, 44.44, 40)) == "41.3 [38.0, 44.4]"
    assert format_estimate("accuracy", None) == "–"


def test_the_unsteered_row_leads_and_a_control_follows_its_cell(make_run):
    lines = render(summarise(RunDirectory(make_run()).records()))
    assert [line.split()[0] for line in lines] == ["vector", "unsteered", *["abstain", "random"] * 4]


@pytest.mark.parametrize("abstention", [True, False])
def test_a_hundred_columns_hold_every_number_whatever_the_vector_is_called(make_run, abstention):
    rows = summarise(RunDirectory(make_run(abstention)).records())
    rows = [replace(row, vector=row.vector and "a-rather-long-name-of-a-vector") for row in rows]
    lines = render(rows)
    assert max(map(len, lines)) <= 100
    for row, line in zip(rows, lines[1:], strict=True):
        assert format_estimate("accuracy", row.levels["accuracy"]) in line
        assert line.endswith(f"{row.levels['degenerate'].value:.2f}")


def test_a_suite_without_items_to_abstain_from_shows_accuracy_and_length(make_run):
    header = render(summarise(RunDirectory(make_run(abstention=False)).records()))[0]
    assert header.split() == ["vector", "layer", "str.", "accuracy", "tokens", "cut", "degen."]


def test_two_opinions_stand_in_a_hundred_columns():
    rules = row("a-rather-long-name-of-a-vector" * 2, abstention_recall=0.5, over_abstention=0.25)
    judge = row("a", abstention_recall=0.75, over_abstention=0.0)
    counts = agreement([(True, True), (True, False), (False, False), (False, False)])
    judged = Judged("http://host/v1", "critic", [JudgedRow(rules, judge, counts)], counts, missing=0)
    *_, header, line, last = printed(judged_table(judged))
    assert max(map(len, (header, line, last))) <= 100
    assert line.split()[-8:] == ["1", "1", "0.50", "0.75", "0.25", "0.00", "0.75", "0.50"]
    assert last.split() == ["all", "cells", "0.75", "0.50"]


def test_cells_under_different_thresholds_of_a_gate_are_told_apart():
    spec = "v@layer=1,strength=2,scope=completion,gate=my p/6,threshold="
    cells = [
        replace(row("v", accuracy=0.5), steering=spec + threshold)
        for threshold in ("0.5461600130206604", "0.714")
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
    ("spec", "name"),
    [
        ("bias@bias=4,gate=p/6,threshold=0.25", "bias@bias=4, gated by p ≥ 0.25"),
        ("idk@gate=p/6,threshold=0.5", "idk, gated by p ≥ 0.5"),
        ("idk", "idk"),
    ],
)
def test_a_decoration_is_named_by_its_spec(spec, name):
    cell = replace(row("v"), vector=None, layer=None, steering="", decoration=spec)
    assert cell_name(cell) == name
