from __future__ import annotations

from pathlib import Path

import pytest
import torch
from steerkit.interventions.decoration import built_in_decorations

from steerkit.chains.cells import Cells
from steerkit.core.errors import MisuseError
from steerkit.interventions.probe import Probe, ProbeMetadata
from steerkit.interventions.steering import Gate, ProbeGate
from steerkit.models import LanguageModel
from steerkit.sweeps.grid import Cell, build_grid
from tests.chains.made_runs import made_run, problems, worked_out
from tests.tiny import random_vector


def probe(lm: LanguageModel) -> Probe:
    metadata = ProbeMetadata(name="doubt", model=lm.name, fingerprint=lm.fingerprint, layer=1)
    noise = torch.randn(lm.n_layers, lm.d_model, generator=torch.Generator().manual_seed(3))
    return Probe(noise, torch.zeros(lm.n_layers), metadata)


def test_every_kind_of_cell_is_restored_from_its_record(tiny: LanguageModel, tmp_path: Path) -> None:
    one, other, doubt = random_vector(tiny, 1, name="one"), random_vector(tiny, 2, name="other"), probe(tiny)
    decorations = built_in_decorations()
    gate = ProbeGate(doubt, 2, 0.375)
    cells = [
        *build_grid([one], [1, 2], [-1.5, 0.1], ["completion", "thinking"]),
        *build_grid([other], [3], [2], gates=[None, gate], decorations=list(decorations.values()))[1:],
        Cell((one.at(1, 0.3, scope="prompt"), other.at([0, 2], 1.25, operation="clamp", target=-0.5))),
        Cell((one.at(2, 0.7, gate=Gate(other, 0.25)),)),
    ]
    run = made_run(tmp_path, tiny, problems(1), cells, worked_out)
    restored = Cells(run.protocol, [one, other, doubt])
    records = list(run.records())
    assert len(records) == len(cells) > 20
    for record in records:
        cell = restored.of(record)
        assert cell.fields() == {name: record[name] for name in cell.fields()}


def test_a_probe_is_found_in_the_vector_that_carries_it(tiny: LanguageModel, tmp_path: Path) -> None:
    one, doubt = random_vector(tiny, 1, name="one"), probe(tiny)
    cell = Cell((one.at(1, 1.0, gate=ProbeGate(doubt, 2, 0.5)),))
    run = made_run(tmp_path, tiny, problems(1), [cell], worked_out)
    (record,) = run.records()
    assert Cells(run.protocol, [one.with_probe(doubt)]).of(record).id == cell.id
    with pytest.raises(MisuseError, match="the run uses the probe 'doubt': give it with --gate FILE"):
        Cells(run.protocol, [one]).of(record)


def test_a_missing_vector_and_another_one_of_its_name_are_refused(
    tiny: LanguageModel, tmp_path: Path
) -> None:
    one = random_vector(tiny, 1, name="one")
    run = made_run(tmp_path, tiny, problems(1), build_grid([one], [1], [1]), worked_out)
    records = {record["role"]: record for record in run.records()}
    with pytest.raises(MisuseError, match="the run uses the vector 'one': give it with --vector FILE"):
        Cells(run.protocol).of(records["steered"])
    impostor = Cells(run.protocol, [random_vector(tiny, 2, name="one")])
    for role in ("steered", "random"):
        with pytest.raises(MisuseError, match="other contents than the one used in the run"):
            impostor.of(records[role])
    assert impostor.of(records["unsteered"]).steerings == ()


def test_a_decoration_beside_a_gated_steering_is_refused(tiny: LanguageModel, tmp_path: Path) -> None:
    one, doubt = random_vector(tiny, 1, name="one"), probe(tiny)
    kind = built_in_decorations()["dont-know-system"]
    cell = Cell((one.at(1, 1.0, gate=ProbeGate(doubt, 2, 0.5)),), decoration=kind)
    run = made_run(tmp_path, tiny, problems(1), [cell], worked_out)
    (record,) = run.records()
    with pytest.raises(MisuseError, match="leave it out with --cell"):
        Cells(run.protocol, [one, doubt]).of(record)
