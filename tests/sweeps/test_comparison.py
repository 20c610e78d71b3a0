"""Cells put together are those that are measured, and the choices of a comparison stand before its report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import steerkit as sk
from steerkit.analysis.gating import composed, gate_of, without_gates
from steerkit.core.errors import MisuseError
from steerkit.interventions.gate import PositionGate
from steerkit.interventions.probe import ProbeMetadata
from steerkit.models import LanguageModel
from steerkit.report.comparison import cell_spec, chosen_table, kinds_table, limits_table, reach_table
from steerkit.runs.cells import Cell
from steerkit.suites.suite import Suite
from steerkit.sweeps.comparison import under
from tests.sweeps.synthetic import items
from tests.tiny import random_vector

BOATS = Suite("boats", tuple(items(60)))
ON_BOATS = sk.Measurement(BOATS, decoding=sk.Decoding(4))
RULES = {"free": "recall", "bounded": "recall s.t. over_abstention_rise<=0.2"}


@pytest.fixture(scope="module")
def probe(tiny: LanguageModel) -> sk.Probe:
    metadata = ProbeMetadata(name="p", model=tiny.name, fingerprint=tiny.fingerprint, layer=1)
    weight = torch.randn(tiny.n_layers, tiny.d_model, generator=torch.Generator().manual_seed(0))
    return sk.Probe(weight, torch.zeros(tiny.n_layers), metadata)


def spread(probe: sk.Probe, lm: LanguageModel, tmp_path: Path) -> list[sk.ProbeGate]:
    """Gates that open for a quarter and for three quarters of the questions."""
    cell = Cell((random_vector(lm, 5).at(1, gate=sk.ProbeGate(probe, 1, 0.5)),))
    run = sk.sweep(lm, [Cell(), cell], ON_BOATS, out=tmp_path / "reading")
    read = sorted(record.gates[0].probability for record in run.records({cell.id}))
    assert read[0] < read[-1]
    return [sk.ProbeGate(probe, 1, read[len(read) * part // 4]) for part in (3, 1)]


def test_cells_put_together_are_those_that_are_measured(
    tiny: LanguageModel, probe: sk.Probe, tmp_path: Path
) -> None:
    gates = spread(probe, tiny, tmp_path)
    vector = random_vector(tiny, 1, name="v")
    several = [Cell((vector.at(1, 2.0),)), Cell((vector.at(2, 1.0), vector.at(3, 1.0)))]
    gated = [under(cell, gate) for cell in several for gate in gates]
    run = sk.sweep(tiny, [Cell(), *several, *gated], ON_BOATS, out=tmp_path / "all")
    records = list(run.records())
    made = composed(records, gated, [Cell(), *several, gated[0]])
    measured = {(r.cell, r.item): r for r in records if r.cell in {cell.id for cell in gated[1:]}}
    assert len(made) == len(measured) > 0
    assert {fired.fired for record in made for fired in record.gates} == {True, False}
    for record in made:
        assert record == measured[record.cell, record.item]


def test_what_cannot_be_put_together_is_named(tiny: LanguageModel, probe: sk.Probe) -> None:
    vector, gate = random_vector(tiny, 1, name="v"), sk.ProbeGate(probe, 1, 0.5)
    cell = Cell((vector.at(1),))
    gated = under(cell, gate)
    assert gate_of(gated) == gate
    assert without_gates(gated).id == cell.id
    with pytest.raises(MisuseError, match="was not measured"):
        composed([], [gated], [cell])
    with pytest.raises(MisuseError, match="no cell under its gate"):
        composed([], [gated], [Cell(), cell])
    for mixed in (
        Cell((*gated.interventions, vector.at(2))),
        Cell((vector.at(1, gate=PositionGate(vector, 0.0)),)),
    ):
        with pytest.raises(MisuseError, match="can only be measured"):
            gate_of(mixed)


def test_a_comparison_chooses_reports_and_resumes(
    tiny: LanguageModel, probe: sk.Probe, tmp_path: Path
) -> None:
    gates = spread(probe, tiny, tmp_path)
    vectors = [random_vector(tiny, seed, name=name) for seed, name in ((1, "one"), (2, "two"))]
    cells = [Cell((v.at(layer, 2.0),)) for v in vectors for layer in (1, 2)]
    cells.append(Cell(sk.parse_all(["dont-know-system"])))

    def go(rules: dict[str, str] = RULES) -> sk.Comparison:
        return sk.compare(
            tiny, cells, rules, ON_BOATS, out=tmp_path / "out", gates=gates, seeds={"one": 2}, whole=["two"]
        )

    found = go()
    assert found.picks["free"].keys() == {
        name + gated for name in ("dont-know-system", "one", "two") for gated in ("", ", gated by p")
    }
    assert {record.split for record in found.report.run.records()} == {"report"}
    measured = {cell.id for cell in found.choose.run.cells.values() if cell.gates}
    assert len(measured) == 1  # of ten gated cells
    assert {row.cell for row in found.choose.rows} >= {
        under(cell, gate).id for cell in cells for gate in gates
    }
    for picks in found.picks.values():
        for actuator, cell in picks.items():
            if cell is not None:
                row = found.report.row(cell)
                assert row.n_items == len(BOATS.split("report").items)
                controls = found.controls[cell.id]
                assert len(controls) == {"o": 2, "t": 1, "d": 0}[actuator[0]]
                assert all(found.report.row(each).role == "random" for each in controls)
    assert {cell.id for cell in cells[2:4]} <= {row.cell for row in found.report.rows}
    choices = json.loads((tmp_path / "out" / "choices.json").read_text())
    assert choices["free"]["one"]["cell"] == found.picks["free"]["one"].id

    again = go()
    assert [(row.cell, row.levels) for row in again.report.rows] == [
        (row.cell, row.levels) for row in found.report.rows
    ]
    with pytest.raises(MisuseError, match="other choices on report"):
        go({"other": "accuracy"})

    metrics = ("abstention_recall", "over_abstention")
    table = chosen_table(found, metrics)
    assert table.count("random directions of its norm: 2") >= 1
    assert "| one, gated by p | 1 |" not in reach_table(found.choose)
    assert "| one, gated by p | 4 |" in reach_table(found.choose)
    assert "perfect actuator, gate from" in limits_table(found.report, "two")
    assert "| item | " in kinds_table(found.report, lambda item: item.split("-")[0], 0.5)


def test_cells_come_without_their_gates(tiny: LanguageModel, probe: sk.Probe, tmp_path: Path) -> None:
    cell = under(Cell((random_vector(tiny, 1).at(1),)), sk.ProbeGate(probe, 1, 0.5))
    with pytest.raises(MisuseError, match="gates apart"):
        sk.compare(tiny, [cell], RULES, ON_BOATS, out=tmp_path / "out")
    with pytest.raises(MisuseError, match="leave split out"):
        sk.compare(tiny, [], RULES, replace(ON_BOATS, split="report"), out=tmp_path / "out")


def test_a_table_shows_a_spec_shortly(tiny: LanguageModel, probe: sk.Probe) -> None:
    cell = Cell(
        (random_vector(tiny, 1, name="v").at(1, 1.25, gate=sk.ProbeGate(probe, 1, 0.6468599206918023)),)
    )
    assert cell_spec(cell) == "`v@layer=1,strength=1.25,gate=p,gate_layer=1,threshold=0.647`"
    assert cell_spec(Cell()) == "unsteered"


def test_a_strength_of_a_dose_has_it(tiny: LanguageModel) -> None:
    vector = replace(random_vector(tiny, 1), activation_norm=torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert vector.relative_dose(2, vector.strength_of(2, 0.3)) == pytest.approx(0.3)
    with pytest.raises(MisuseError, match="no relative dose"):
        random_vector(tiny, 1).strength_of(2, 0.3)
