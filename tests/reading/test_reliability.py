"""Does a reading still tell what to abstain from, once the model is steered? The numbers, against slow ones by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import steerkit as sk
from steerkit.analysis.reliability import read_cells, weighted_auroc
from steerkit.core.errors import MisuseError
from steerkit.runs.cells import Cell, RunCell
from steerkit.runs.directory import RunWriter
from steerkit.runs.record import Record
from tests.command_line import steerkit
from tests.report.conftest import record
from tests.sweeps.synthetic import environment, protocol, vector

STEERED = Cell((vector().at(6),))
CELLS = {cell.id: RunCell.of(cell) for cell in (Cell(), STEERED)}


def test_a_weighted_auroc_is_that_of_the_items_repeated() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, 30).astype(np.float64)  # many ties
    positive = (rng.random(30) < 0.4).astype(np.float64)
    weights = rng.integers(0, 3, (20, 30)).astype(np.float64)
    found = weighted_auroc(scores, positive, weights)
    for row, auroc in zip(weights.astype(int), found, strict=True):
        expected = roc_auc_score(np.repeat(positive, row), np.repeat(scores, row))
        assert auroc == pytest.approx(expected)
    assert np.isnan(weighted_auroc(scores, np.zeros(30), weights)).all()


def made(cell: Cell, number: int, value: object) -> Record:
    return replace(record(cell, number, abstention=True), readings=(value,))  # type: ignore[arg-type]


def test_a_steering_that_spoils_a_reading_is_seen_to() -> None:
    told = [made(Cell(), i, 1.0 if i % 2 == 0 else 0.0) for i in range(20)]
    blind = [made(STEERED, i, 0.5) for i in range(20)]
    plain, steered = read_cells([*told, *blind], CELLS, 1)
    assert plain.at.role == "unsteered"
    assert (plain.auroc.value, steered.auroc.value) == (1.0, 0.5)  # type: ignore[union-attr]
    change = steered.auroc_change
    assert change is not None
    assert (change.value, change.low, change.high, change.n) == (-0.5, -0.5, -0.5, 20)
    assert (plain.positive.value, plain.negative.value) == (1.0, 0.0)  # type: ignore[union-attr]
    assert steered.mean.value == 0.5
    assert steered.to_json()["cell"] == STEERED.id


def test_per_token_readings_count_as_the_number_that_is_named() -> None:
    records = [made(Cell(), i, (0.0, None, 2.0)) for i in range(4)]
    for reduction, value in (("mean", 1.0), ("max", 2.0), ("last", 2.0)):
        (only,) = read_cells(records, CELLS, 1, reduction)
        assert only.mean.value == value
        assert only.auroc_change is not None
    with pytest.raises(MisuseError, match="mean, max or last"):
        read_cells(records, CELLS, 1)
    with pytest.raises(MisuseError, match="mean, max or last"):
        read_cells(records, CELLS, 1, "first-answer")


def test_items_without_a_reading_and_suites_without_both_kinds_have_no_auroc() -> None:
    assert read_cells([], CELLS, 1) == []
    assert read_cells([made(Cell(), i, None) for i in range(4)], CELLS, 1) == []
    (only,) = read_cells([made(Cell(), i, float(i)) for i in range(0, 8, 2)], CELLS, 1)
    assert only.auroc is None
    assert only.negative is None
    assert only.mean.value == 3.0


HOSTILE = ("[red]", "<script>alert(1)</script>", "\n", "\u202e", ":smile:")


@pytest.fixture
def read_run(tmp_path: Path) -> Callable[[str], Path]:
    """A run of records that were read, per token or as one number."""

    def write(reading: str) -> Path:
        readers = ({"kind": "registered", "reader": "entropy", "layer": None, "site": "resid_post"},)
        asked = protocol(
            split="report", readers=readers, reading=reading, scorers=("abstention", "answers", "lengths")
        )
        with RunWriter(tmp_path / "run", asked, environment(), [Cell(), STEERED]) as writer:
            for number in range(20):
                for cell in (Cell(), STEERED):
                    kept = (1.0, 2.0, None, 0.5, float(number)) if reading == "per-token" else float(number)
                    read = made(cell, number, kept)
                    writer.append(replace(read, pieces=HOSTILE if reading == "per-token" else ()))
        return tmp_path / "run"

    return write


def test_the_page_and_the_command_line_show_what_was_read(read_run: Callable[[str], Path]) -> None:
    run = read_run("per-token")
    outcome = steerkit("report", run)
    assert outcome.code == 0, outcome.err
    assert "what was read (per-token)" in outcome.out
    assert "entropy" in outcome.out
    page = (run / "report.html").read_text()
    assert "What was read" in page
    assert "Tokens are coloured by" in page
    assert 'class="sk-t level"' in page
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "\u202e" not in page
    shown = steerkit("report", run, "--json")
    assert '"readings"' in shown.out
    opened = sk.open_run(run)
    assert [cell.mean.n for cell in opened.read_cells("max")] == [20, 20]
    assert [str(reader) for reader in opened.readers] == ["entropy"]


def test_a_run_of_one_number_a_completion_shows_no_coloured_tokens(read_run: Callable[[str], Path]) -> None:
    run = read_run("last")
    sk.open_run(run).report()
    page = (run / "report.html").read_text()
    assert "Of each completion this counts: last." in page
    assert "sk-t" not in page
