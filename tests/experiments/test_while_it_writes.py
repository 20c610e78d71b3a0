"""The study's cells: each way acts by itself, is loaded back from what a run keeps, and shows in the table."""

from __future__ import annotations

from pathlib import Path

import pytest

import steerkit as sk
from experiments.while_it_writes import run as study
from steerkit.models import LanguageModel
from tests.engines.test_readings import probe_of
from tests.tiny import random_vector


@pytest.mark.parametrize("name", ["instruct", "reasoner"])
def test_every_way_runs_and_has_its_line(
    tiny: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(study, "LAYER", 2)
    monkeypatch.setattr(study, "READ", 1)
    cells = study.ways(name, random_vector(tiny), probe_of(tiny))
    assert set(cells) == {way for way in study.WAYS if name == "reasoner" or way != "reply forced, steered"}
    every = [sk.Cell(), *(cell for some in cells.values() for cell in some)]
    assert len({cell.id for cell in every}) == len(every)
    asked = sk.Measurement("abstention", "choose", 4, sk.Decoding(6))
    found = sk.sweep(tiny, every, asked, out=tmp_path / name)
    for cell in every:
        assert found.cell(cell.id).interventions == cell.interventions
    rows = {row.cell: row for row in found.summary()}
    shown = {"unsteered": rows[every[0].id], "system prompt": rows[cells["system prompt"][0].id]}
    lines = list(study.table(shown, list(cells)))
    assert len(lines) == 2 + 1 + len(cells)
    assert lines[2].startswith("| unsteered | 4 |")
    assert "no threshold meets the rule" in lines[4]
