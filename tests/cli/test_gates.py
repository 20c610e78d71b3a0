"""From labelled questions to a gated sweep, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steerkit.interventions.probe import load_probe
from steerkit.interventions.vector import load_vector
from steerkit.runs.directory import RunDirectory
from tests.command_line import steerkit


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A probe that the command line fitted on the suite's split `fit`."""
    out = tmp_path_factory.mktemp("probes") / "gate.safetensors"
    done = steerkit(
        "extract",
        "--as",
        "probe",
        "--pairs",
        "suite:abstention",
        "--model",
        tiny_folder,
        "--budget",
        0.2,
        "--out",
        out,
    )
    assert done.code == 0, done.err
    assert "words alone" in done.err
    assert "allowed: 20%" in done.err
    return out


def test_a_probe_states_what_it_was_fitted_and_chosen_on(probe: Path) -> None:
    metadata = load_probe(probe).metadata
    assert metadata.data_count == 162
    (threshold,) = metadata.thresholds
    assert threshold.budget == 0.2
    assert threshold.choose_false_positive_rate <= 0.2


def test_a_probe_travels_with_a_vector(
    probe: Path, tiny_folder: Path, tiny_vector: Path, tmp_path: Path
) -> None:
    out = tmp_path / "gated.safetensors"
    asked = (
        "extract",
        "--as",
        "probe",
        "--pairs",
        "suite:abstention",
        "--model",
        tiny_folder,
        "--into",
        tiny_vector,
    )
    assert steerkit(*asked, "--out", out, "--budget", 0.2).code == 0
    vector = load_vector(out)
    assert vector.digest == load_vector(tiny_vector).digest
    assert vector.probe is not None
    assert vector.probe.digest == load_probe(probe).digest
    spec = f"{out}@layer=1,strength=2,gate={out}"
    done = steerkit(
        "generate", "--model", tiny_folder, "--steer", spec, "--max-new-tokens", 3, "hello", "--json"
    )
    (completion,) = json.loads(done.out)
    assert "gate=" in completion["interventions"][0]
    (reading,) = completion["gates"]
    assert 0 < reading["probability"] < 1


def test_a_sweep_is_gated_and_its_edits_have_gates_of_their_own(
    probe: Path, tiny_folder: Path, tiny_vector: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    grid = ["--vector", tiny_vector, "--layers", 1, "--strengths", 2, "--out", out]
    axes = [
        "--axis",
        f"gate=none,{probe}",
        "--axis",
        f"edit=none,refusal-bias@bias=3,gate={probe},threshold=0.4",
    ]
    more = ["--limit", 6, "--max-new-tokens", 3, "--json"]
    done = steerkit("sweep", "--model", tiny_folder, *grid, *axes, *more)
    assert done.code == 0, done.err
    run = RunDirectory(out)
    gates = {cell.id: len([form for form in cell.forms if form["gate"]]) for cell in run.cells.values()}
    # Unsteered; the bias alone; vector and control, ungated and gated, each without and with the bias.
    assert sorted(gates.values()) == [0, 0, 0, 1, 1, 1, 1, 1, 2, 2]
    for record in run.records():
        assert len(record.gates) == gates[record.cell]
        assert all(0 < gate.probability < 1 for gate in record.gates)
    assert (out / "vectors" / f"{load_probe(probe).digest}.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("extract", "--as", "gate", "--out", "x"), "'vector', 'probe'"),
        (("extract", "--as", "probe", "--out", "x"), "contrast pairs"),
        (("extract", "--budget", 0.1, "--out", "x"), "add --as probe"),
        (("extract", "--as", "probe", "--method", "pca", "--out", "x"), "leave --method"),
        (("generate", "--steer", "{vector}@layer=1,gate={vector}", "hi"), "needs a threshold"),
        (("sweep", "--axis", "gate=none,{vector}"), "needs a threshold"),
        (("sweep", "--axis", "edit=dont-know-system@gate={vector},threshold=1"), "is gated row by row"),
    ],
)
def test_a_gate_that_cannot_be_meant_is_one_line(
    arguments: tuple, said: str, tiny_folder: Path, tiny_vector: Path, tmp_path: Path
) -> None:
    verb, *rest = [str(a).format(vector=tiny_vector) for a in arguments]
    grid = ["--vector", tiny_vector, "--layers", 1, "--strengths", 1, "--out", tmp_path / "r"]
    done = steerkit(verb, "--model", tiny_folder, *(grid if verb == "sweep" else []), *rest)
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1
    import re

    assert re.search(said, done.err)
