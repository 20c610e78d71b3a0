from __future__ import annotations

import csv

import pytest
from synthetic import SyntheticEngine, environment, items, protocol, vector

from steerkit.errors import MisuseError, SteerkitError
from steerkit.sweeps.frontier import choose_cell, pareto_frontier
from steerkit.sweeps.grid import build_grid
from steerkit.sweeps.runner import run_sweep
from steerkit.sweeps.statistics import METRICS, Estimate
from steerkit.sweeps.store import RunDirectory, RunWriter
from steerkit.sweeps.summary import Row, summarise, summary_columns, write_summary


def row(cell: str, role: str = "steered", changes: dict | None = None, **levels: float) -> Row:
    def estimates(values):
        return {name: Estimate(value, value, value, 10) for name, value in values.items()}

    where = (cell, role, None, cell, None, cell, 1, 1.0, "completion", "add", 10)
    return Row(*where, levels=estimates(levels), changes=estimates(changes or {}))


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


def test_the_chosen_cell_is_the_best_within_the_bounds():
    rows = [
        row("unsteered", "unsteered", abstention_recall=1.0),
        row("bold", changes={"over_abstention": 0.4, "accuracy": -0.1}, abstention_recall=0.9, tokens=9),
        row("mild", changes={"over_abstention": 0.1, "accuracy": -0.02}, abstention_recall=0.6, tokens=20),
        row("unknown", abstention_recall=0.8),
    ]
    assert choose_cell(rows, "abstention_recall").cell == "bold"
    assert choose_cell(rows, "abstention_recall", {"over_abstention_increase": 0.2}).cell == "mild"
    assert choose_cell(rows, "tokens", {"accuracy_decrease": 0.05}).cell == "mild"
    assert choose_cell(rows, "tokens").cell == "bold"
    assert choose_cell(rows, "abstention_recall", {"tokens": 5}) is None


@pytest.mark.parametrize("bounds", [{"nonsense": 1.0}, {"nonsense_increase": 1.0}])
def test_an_unknown_metric_is_a_misuse(bounds):
    with pytest.raises(MisuseError, match="no metric 'nonsense'"):
        choose_cell([row("a", tokens=1.0)], "tokens", bounds)
    with pytest.raises(MisuseError, match="no metric"):
        pareto_frontier([], "nonsense", "tokens")
    assert "tokens" in METRICS
