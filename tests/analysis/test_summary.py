from __future__ import annotations

import csv
import itertools
from dataclasses import replace

import pytest

from steerkit.analysis.choosing import choose_cell
from steerkit.analysis.frontier import actuator
from steerkit.analysis.summary import summarise, write_summary
from steerkit.core.bootstrap import Estimate
from steerkit.core.errors import InputError, SteerkitError
from steerkit.interventions.logit_rules import OpenerBias
from steerkit.interventions.prompt_edit import PromptEdit
from steerkit.runs.cells import Cell
from tests.sweeps.rows import cell, scored
from tests.sweeps.synthetic import grid, items, vector, write_run


def test_rows_are_ordered_with_each_control_after_its_cell(tmp_path):
    run = write_run(tmp_path, grid([6, 4], [1, -1]), items(20))
    rows = summarise(run.records(), run.cells, resamples=100)
    assert [(row.role, row.at.layer, row.at.strength) for row in rows] == [
        ("unsteered", None, 0.0),
        *((role, layer, s) for layer in (4, 6) for s in (-1.0, 1.0) for role in ("steered", "random")),
    ]
    assert rows[0].changes["tokens"] == Estimate(0.0, 0.0, 0.0, 20)
    shuffled = sorted(run.records(), key=lambda record: record.completion)
    assert [row.to_json() for row in summarise(shuffled, run.cells, resamples=100)] == [
        row.to_json() for row in rows
    ]


def test_the_csv_has_the_cell_its_spec_and_the_metrics_that_were_measured(tmp_path):
    edits = (PromptEdit(system='Say, "so".'), OpenerBias())
    run = write_run(tmp_path, [*grid(), Cell((*edits, vector().at((2, 3), 2)))], items(8))
    rows = summarise(run.records(), run.cells, resamples=100)
    written = list(csv.DictReader(write_summary(rows, tmp_path / "summary.csv").open()))
    assert [row["cell"] for row in written] == [row.cell for row in rows]
    assert [row["spec"] for row in written] == [row.at.spec for row in rows]
    for line, row in zip(written, rows, strict=True):
        assert float(line["abstention_recall"]) == pytest.approx(
            row.levels["abstention_recall"].value, abs=1e-6
        )
        assert float(line["accuracy_change_n"]) == row.changes["accuracy"].n
    assert written[0]["layer"] == written[0]["vector"] == ""
    assert written[-1]["edits"] == 'system "Say, \\"so\\"." ; opener-bias@bias=4'
    assert not {name for name in written[0] if name.startswith(("perplexity", "judged"))}


def cells_that_differ_in_when_they_act() -> list[Cell]:
    """One vector at one layer, strength and scope, each with its random control."""
    timings = itertools.product((None, 64.0, 16.0), ("every", "lines", "boundaries"))
    cells = [Cell()]
    for half_life, positions in timings:
        for v, controls in ((vector(), None), (vector().random_control(), "abstain")):
            cells.append(Cell((v.at(6, 1.0, half_life=half_life, positions=positions),), controls=controls))
    return cells


def test_cells_that_differ_in_when_they_act_are_told_apart(tmp_path):
    run = write_run(tmp_path, cells_that_differ_in_when_they_act(), items(8))
    rows = summarise(run.records(), run.cells, resamples=10)[1:]
    assert [row.role for row in rows] == ["steered", "random"] * 9
    steered, controls = rows[::2], rows[1::2]
    assert [row.at.place for row in controls] == [row.at.place for row in steered]
    assert [(row.at.positions, row.at.half_life) for row in steered] == [
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
    run = write_run(tmp_path, cells_that_differ_in_when_they_act(), items(8))
    same = [replace(record, scores={**record.scores, "tokens": 5}) for record in run.records()]
    chosen = choose_cell(summarise(same, run.cells, resamples=10), "tokens")
    assert (chosen.at.positions, chosen.at.half_life) == ("boundaries", 16.0)


def test_without_an_unsteered_cell_there_are_levels_but_no_changes(tmp_path):
    run = write_run(tmp_path, grid()[1:], items(4))
    assert all(row.levels and not row.changes for row in summarise(run.records(), run.cells, resamples=10))


def test_no_records_make_no_rows():
    assert summarise([], {}) == []


def test_a_record_of_a_cell_that_is_not_there_is_an_input_error():
    with pytest.raises(InputError, match="cell 'b'"):
        summarise([scored("a", "i"), scored("b", "i")], {"a": cell("a")})


def test_a_summary_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SteerkitError, match="cannot write"):
        write_summary([], tmp_path / "file" / "summary.csv")
