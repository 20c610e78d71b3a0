"""Cells: their ids and fields, and that a run gives them back from its own files alone."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from steerkit.core.errors import InputError, MisuseError
from steerkit.interventions.following import StrengthRamp
from steerkit.interventions.gate import DetectorGate, PositionGate, ProbeGate
from steerkit.interventions.logit_rules import OpenerBias, ThinkingBudget
from steerkit.interventions.policies import StopAndSay, Trigger
from steerkit.interventions.probe import Probe, ProbeMetadata
from steerkit.interventions.prompt_edit import PromptEdit
from steerkit.interventions.readers import NamedReader
from steerkit.runs.cells import Cell, RunCell
from steerkit.runs.directory import RunDirectory, RunWriter
from steerkit.runs.references import interventions, read_interventions
from tests.sweeps.synthetic import environment, protocol, vector

STEERING = vector().at(6, 1.5, half_life=64, positions="lines")


def probe(name: str = "asks") -> Probe:
    metadata = ProbeMetadata(name=name, model="synthetic", fingerprint="synthetic:0", layer=2)
    return Probe(torch.ones(12, 4), torch.zeros(12), metadata)


CELLS = [
    Cell(),
    Cell((STEERING,)),
    Cell((vector().random_control().at(6, 1.5, half_life=64, positions="lines"),), "abstain"),
    Cell((replace(STEERING, gate=ProbeGate(probe())),)),
    Cell((replace(STEERING, gate=PositionGate(vector("axis", seed=3), 0.25)),)),
    Cell((PromptEdit(system='Say "so";\nnaïve ☂', name="tone"),)),
    Cell((OpenerBias(bias=2.0, gate=DetectorGate("entropy", 0.4)),)),
    Cell(
        (
            PromptEdit(instruction="Be brief."),
            ThinkingBudget(128),
            STEERING,
            vector("other", seed=2).at((1, 3), -2),
        )
    ),
]


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    with RunWriter(tmp_path / "run", protocol(), environment(), CELLS):
        return RunDirectory(tmp_path / "run")


def test_a_run_gives_every_cell_back_from_its_own_files(run):
    assert list(run.cells) == [cell.id for cell in CELLS]
    for cell in CELLS:
        found = run.cell(cell.id)
        assert found.interventions == cell.interventions
        assert (found.role, found.controls) == (cell.role, cell.controls)


def test_two_directions_of_one_name_are_two_cells(tmp_path):
    cells = [Cell((vector(seed=seed).at(6),)) for seed in (1, 2)]
    with RunWriter(tmp_path, protocol(), environment(), cells):
        run = RunDirectory(tmp_path)
    for cell in cells:
        assert run.cell(cell.id).interventions == cell.interventions
    assert all("sha256:" in found.spec for found in run.cells.values())


def test_a_cell_is_named_by_its_id_or_how_that_begins(run):
    assert run.cell(CELLS[1].id[:5]).id == CELLS[1].id
    with pytest.raises(MisuseError, match="no cell 'nonsense'"):
        run.cell("nonsense")
    with pytest.raises(MisuseError, match="8 cells that begin with ''"):
        run.cell("")


def test_a_vector_that_is_gone_or_changed_is_named(run):
    path = run.path / "vectors" / f"{vector().digest}.safetensors"
    vector("abstain", seed=9).save(path)
    with pytest.raises(InputError, match="other contents than its name says"):
        run.cell(CELLS[1].id).interventions  # noqa: B018
    path.unlink()
    with pytest.raises(InputError, match="which is not there"):
        run.cell(CELLS[1].id).interventions  # noqa: B018


def test_a_cell_whose_interventions_were_edited_is_refused(run):
    path = run.path / "cells.jsonl"
    path.write_text(path.read_text().replace('"strength": 1.5', '"strength": 2.5'))
    with pytest.raises(InputError, match="is damaged"):
        run.cell(CELLS[1].id).interventions  # noqa: B018


def test_run_and_cell_stand_for_interventions_wherever_a_spec_does(run, tmp_path):
    reference = f"{run.path}#{CELLS[7].id[:6]}"
    assert interventions(reference) == CELLS[7].interventions
    assert interventions("concise-system") is None
    composed = read_interventions([f"{reference} ; dont-know-system", "concise-system"])
    assert composed[:-2] == CELLS[7].interventions
    assert [each.label for each in composed[-2:]] == ["dont-know-system", "concise-system"]
    with pytest.raises(MisuseError, match="holds no run"):
        interventions(f"{tmp_path}#abc")


def test_a_text_in_quotes_that_looks_like_a_reference_is_a_text():
    (edit,) = read_interventions(['prompt@system="runs/first#abc"'])
    assert edit == PromptEdit(system="runs/first#abc")


def test_a_spec_of_a_run_can_be_given_again(run):
    for cell in CELLS:
        parts = [part for each in cell.interventions for part in each.tensors]
        found = run.cell(cell.id)
        assert read_interventions([found.spec] if found.spec else [], parts) == cell.interventions


def test_what_does_nothing_is_not_there():
    assert Cell((vector().at(6, 0.0),), "abstain").id == Cell().id
    assert Cell((vector().at(6, 0.0),), "abstain").controls is None
    assert Cell((vector().at(6, 0.0), PromptEdit(system="So."))).role == "edited"


@pytest.mark.parametrize(
    ("cell", "fields"),
    [
        (
            CELLS[0],
            {"role": "unsteered", "strength": 0.0, "spec": "", "vector": None, "gates": "", "edits": ""},
        ),
        (
            CELLS[1],
            {"role": "steered", "vector": "abstain", "layer": 6, "half_life": 64.0, "positions": "lines"},
        ),
        (CELLS[2], {"role": "random", "controls": "abstain", "vector": "random(abstain)"}),
        (CELLS[3], {"gates": "asks ≥ 0.5", "layer": 6, "strength": 1.5}),
        (CELLS[4], {"gates": "axis ≥ 0.25"}),
        (CELLS[5], {"role": "edited", "edits": "tone", "strength": None, "layer": None}),
        (CELLS[6], {"role": "edited", "edits": "opener-bias@bias=2", "gates": "entropy ≥ 0.4"}),
        (
            CELLS[7],
            {
                "role": "steered",
                "edits": 'instruction "Be brief." ; thinking-budget@tokens=128',
                "vector": None,
            },
        ),
    ],
)
def test_the_fields_of_a_cell_are_read_from_its_json(cell, fields):
    form = RunCell.of(cell).to_json()
    assert {name: form[name] for name in fields} == fields


def test_a_control_has_the_place_of_its_cell_and_only_of_that():
    places = [RunCell.of(cell).place for cell in CELLS]
    assert places[1] == places[2]
    assert all(a != b for i, a in enumerate(places) for b in places[:i] if (a, b) != (places[2], places[1]))


def test_cells_are_read_without_torch(run):
    code = (
        "import sys; from steerkit.analysis.run import open_run; "
        f"print(len(open_run({str(run.path)!r}).cells), 'torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["8", "False"]


def test_cells_that_differ_in_a_threshold_differ_in_name_and_not_in_what_moves_the_model():
    entropy = NamedReader("entropy")
    ramp, steep = (StrengthRamp(entropy, 1, high, least=-1, renewed="lines") for high in (3, 2))
    cells = [
        *(Cell((replace(STEERING, positions="every", half_life=None, follows=f),)) for f in (ramp, steep)),
        *(Cell((StopAndSay(when=Trigger(entropy, on, on - 0.5)),)) for on in (1.5, 2.5)),
        Cell((StopAndSay(when=Trigger(entropy, 0.1, 0.2)),)),
    ]
    names = [RunCell.of(cell).name for cell in cells]
    assert names == [
        "abstain (ramp of entropy, 1 to 3, from -1 to 1 times, at lines)",
        "abstain (ramp of entropy, 1 to 2, from -1 to 1 times, at lines)",
        "stop-and-say when entropy ≥ 1.5",
        "stop-and-say when entropy ≥ 2.5",
        "stop-and-say when entropy ≤ 0.1",
    ]
    assert len({RunCell.of(cell).mover for cell in cells}) == 2
