from __future__ import annotations

import csv
import itertools

import pytest

from steerkit.analysis.choosing import choose_cell
from steerkit.analysis.frontier import actuator
from steerkit.analysis.summary import summarise, summary_columns, write_summary
from steerkit.core.bootstrap import Estimate
from steerkit.core.errors import SteerkitError
from steerkit.runs.directory import RunDirectory, RunWriter
from steerkit.sweeps.grid import Cell, build_grid
from steerkit.sweeps.runner import run_sweep
from tests.sweeps.synthetic import SyntheticEngine, environment, items, protocol, vector


def test_rows_are_ordered_with_each_control_after_its_cell(tmp_path):
    with RunWriter(tmp_path, protocol(), environment()) as writer:
        run_sweep(SyntheticEngine(), items(20), build_grid([vector()], [6, 4], [1, -1]), writer)
    rows = summarise(RunDirectory(tmp_path).records(), resamples=100)
    assert [(r.role, r.layer, r.strength) for r in rows] == [
        ("unsteered", None, 0.0),
        *((role, layer, s) for layer in (4, 6) for s in (-1.0, 1.0) for role in ("steered", "random")),
    ]
    assert rows[0].changes["tokens"] == Estimate(0.0, 0.0, 0.0, 20)
    shuffled = sorted(RunDirectory(tmp_path).records(), key=lambda record: record["completion"])
    assert summarise(shuffled, resamples=100) == rows

    written = list(csv.DictReader(write_summary(rows, tmp_path / "summary.csv").open()))
    assert list(written[0]) == summary_columns()
    assert float(written[1]["abstention_recall"]) == pytest.approx(
        rows[1].levels["abstention_recall"].value, abs=1e-6
    )
    assert written[1]["perplexity"] == written[1]["perplexity_change_n"] == ""
    assert written[0]["layer"] == ""


def cells_that_differ_in_when_they_act() -> list[Cell]:
    """One vector at one layer, strength and scope, each with its random control."""
    timings = itertools.product((None, 64.0, 16.0), ("every", "lines", "boundaries"))
    cells = [Cell()]
    for half_life, positions in timings:
        for v, controls in ((vector(), None), (vector().random_control(), "abstain")):
            cells.append(Cell((v.at(6, 1.0, half_life=half_life, positions=positions),), controls=controls))
    return cells


def test_cells_that_differ_in_when_they_act_are_told_apart(tmp_path):
    cells = cells_that_differ_in_when_they_act()
    with RunWriter(tmp_path, protocol(), environment()) as writer:
        run_sweep(SyntheticEngine(), items(8), cells, writer)
    rows = summarise(RunDirectory(tmp_path).records(), resamples=10)[1:]
    assert [row.role for row in rows] == ["steered", "random"] * 9
    steered, controls = rows[::2], rows[1::2]
    assert [row.place for row in controls] == [row.place for row in steered]
    assert len({row.place for row in steered}) == 9
    assert [(row.positions, row.half_life) for row in steered] == [
        (positions, half_life)
        for positions in ("boundaries", "lines", "every")
        for half_life in (16.0, 64.0, None)
    ]
    assert [actuator(row) for row in steered[1::3]] == [
        "abstain (half-life 64, boundaries)", "abstain (half-life 64, lines)", "abstain (half-life 64)"
    ]  # fmt: skip
    written = list(csv.DictReader(write_summary(rows, tmp_path / "summary.csv").open()))
    assert [(row["half_life"], row["positions"]) for row in written[:2]] == [("16.0", "boundaries")] * 2


def test_among_cells_that_tie_the_one_that_pushes_less_is_chosen(tmp_path):
    cells = cells_that_differ_in_when_they_act()
    with RunWriter(tmp_path, protocol(), environment()) as writer:
        run_sweep(SyntheticEngine(), items(8), cells, writer)
    same = [
        {**record, "scores": {**record["scores"], "tokens": 5}} for record in RunDirectory(tmp_path).records()
    ]
    chosen = choose_cell(summarise(same, resamples=10), "tokens")
    assert (chosen.positions, chosen.half_life) == ("boundaries", 16.0)


def test_records_from_before_those_fields_say_the_same(tmp_path):
    with RunWriter(tmp_path, protocol(), environment()) as writer:
        run_sweep(SyntheticEngine(), items(8), cells_that_differ_in_when_they_act(), writer)
    records = list(RunDirectory(tmp_path).records())
    added = ("half_life", "positions")
    older = [{name: value for name, value in record.items() if name not in added} for record in records]
    assert summarise(older, resamples=10) == summarise(records, resamples=10)


def test_without_an_unsteered_cell_there_are_levels_but_no_changes(tmp_path):
    with RunWriter(tmp_path, protocol(), environment()) as writer:
        run_sweep(SyntheticEngine(), items(4), build_grid([vector()], [6], [1])[1:], writer)
    assert all(r.levels and not r.changes for r in summarise(RunDirectory(tmp_path).records(), resamples=10))


def test_no_records_make_no_rows():
    assert summarise([]) == []


def test_a_summary_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SteerkitError, match="cannot write"):
        write_summary([], tmp_path / "file" / "summary.csv")
