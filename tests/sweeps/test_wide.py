"""A wide grid, killed and resumed; and its cells, had back from the run's directory alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from steerkit.engines.base import Decoding
from steerkit.models import LanguageModel
from steerkit.runs.directory import RunDirectory
from steerkit.runs.record import Key, Record
from steerkit.sweeps.grid import Grid
from steerkit.sweeps.measurement import Measurement
from steerkit.sweeps.sweep import sweep
from tests.sweeps import wide
from tests.tiny import random_vector, tiny_model


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True)


def contents(path: Path) -> tuple[dict[Key, Record], set[bytes], set[str]]:
    """The records of a run by key, its cells, and the names of its vectors.

    What a gate read is rounded: it may differ in the last bit with the prompts that it was read beside.
    """
    records = {
        record.key: replace(
            record,
            gates=tuple(replace(gate, probability=round(gate.probability, 5)) for gate in record.gates),
        )
        for record in RunDirectory(path).records()
    }
    cells = set((path / "cells.jsonl").read_bytes().splitlines())
    return records, cells, {file.name for file in (path / "vectors").iterdir()}


def test_a_wide_grid_killed_and_resumed_holds_the_records_of_an_uninterrupted_one(tmp_path: Path) -> None:
    cells = wide.grid(tiny_model()).cells()
    assert len(cells) == 2 + 2 * 2**4
    killed = run("-m", "tests.sweeps.wide", tmp_path / "killed", 100)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    begun = contents(tmp_path / "killed")[0]
    assert len(begun) == 100
    for name in ("killed", "whole"):
        wide.main(tmp_path / name)
    resumed, whole = contents(tmp_path / "killed"), contents(tmp_path / "whole")
    assert len(whole[0]) == len(cells) * 8
    assert resumed == whole
    assert begun == {key: whole[0][key] for key in begun}
    # What was crossed made a difference: gates opened and stayed shut, and cells differ.
    records = whole[0].values()
    assert {gate.fired for record in records for gate in record.gates} == {True, False}
    assert len({record.completion for record in records}) > len(cells)


def test_a_cell_of_a_run_is_had_back_from_its_directory_alone_in_another_process(
    tiny: LanguageModel, tiny_folder: Path, tmp_path: Path
) -> None:
    vector, probe = tmp_path / "gone.safetensors", tmp_path / "gate.safetensors"
    random_vector(tiny, size=2.0, name="gone").save(vector)
    wide.probe(tiny).save(probe)
    grid = Grid(
        vector, 2, 2, {"half_life": 3, "gate": str(probe), "edit": "concise-system"}, control_strengths=()
    )
    measurement = Measurement("abstention", limit=8, decoding=Decoding(6))
    sweep(tiny, grid, measurement, out=tmp_path / "run")
    vector.unlink()
    probe.unlink()
    (tmp_path / "run").rename(tmp_path / "moved")
    (cell,) = (cell for cell in RunDirectory(tmp_path / "moved").cells.values() if cell.role == "steered")
    records = list(RunDirectory(tmp_path / "moved").records([cell.id]))
    asked = ["generate", "--model", tiny_folder, "--max-new-tokens", 6, "--json"]
    steer = ["--steer", f"{tmp_path / 'moved'}#{cell.id[:6]}"]
    done = run("-m", "steerkit.cli", *asked, *steer, *(record.prompt for record in records))
    assert done.returncode == 0, done.stderr
    assert [row["completion"] for row in json.loads(done.stdout)] == [record.completion for record in records]
