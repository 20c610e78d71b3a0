from __future__ import annotations

import csv

import pytest
from synthetic import SyntheticEngine, environment, items, protocol, vector

from steerkit.errors import SteerkitError
from steerkit.sweeps.grid import build_grid
from steerkit.sweeps.runner import run_sweep
from steerkit.sweeps.statistics import Estimate
from steerkit.sweeps.store import RunDirectory, RunWriter
from steerkit.sweeps.summary import summarise, summary_columns, write_summary


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
