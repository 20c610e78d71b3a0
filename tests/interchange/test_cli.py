"""`steerkit export` and `steerkit import`: files appear, refusals are one line, missing consumers are said."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from steerkit.core.registry import EXPORTERS, IMPORTERS
from steerkit.interchange.base import Exporter, exporter, importer
from steerkit.interchange.shifts import constant_shifts
from steerkit.interventions.vector import load_vector
from steerkit.models import LanguageModel
from tests.command_line import steerkit


@pytest.fixture
def spec(tiny_vector: Path) -> str:
    return f"{tiny_vector}@layer=2,strength=1.5,scope=all"


def test_each_export_writes_its_file_and_says_how_to_use_it(
    tiny_folder: Path, spec: str, tmp_path: Path
) -> None:
    for target, name, hint in (
        ("gguf", "v.gguf", "--control-vector"),
        ("lm-eval", "v.pt", "--model steered"),
        ("merged", "merged", "steerkit chat --model"),
    ):
        out = tmp_path / name
        outcome = steerkit("export", "--to", target, spec, "--model", tiny_folder, "--out", out)
        assert outcome.code == 0, outcome.err
        assert out.exists()
        assert hint in outcome.err


def test_merged_is_verified_in_plain_transformers(tiny_folder: Path, spec: str, tmp_path: Path) -> None:
    export = ["export", "--to", "merged", spec, "--model", tiny_folder, "--verify"]
    outcome = steerkit(*export, "--out", tmp_path / "a")
    assert outcome.code == 0, outcome.err
    assert "transformers" in outcome.err
    assert ": verified;" in outcome.err
    report = json.loads(steerkit(*export, "--out", tmp_path / "b", "--json").out)
    assert report["verification"]["passed"] is True
    assert report["verification"]["rows"][0]["largest_difference"] <= 1e-4


def test_an_export_that_fails_its_verification_exits_1(
    tiny_folder: Path, spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steerkit.interchange.verification.compare.EQUAL", -1.0)
    monkeypatch.setattr("steerkit.interchange.verification.compare.EQUAL_TO_SHIFT", -1.0)
    outcome = steerkit(
        "export", "--to", "merged", spec, "--model", tiny_folder, "--verify", "--out", tmp_path / "m"
    )
    assert outcome.code == 1
    assert "NOT verified" in outcome.err


@pytest.mark.parametrize("target", ["merged", "gguf", "lm-eval"])
def test_a_scope_that_cannot_be_exported_is_one_line_before_a_model_is_looked_for(
    target: str, tiny_vector: Path, tmp_path: Path
) -> None:
    out = tmp_path / "v.pt"
    outcome = steerkit(
        "export", "--to", target, f"{tiny_vector}@layer=2", "--model", tmp_path / "none", "--out", out
    )
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert "scope=completion" in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("target", "package"), [("gguf", "llama-cpp-python==0.3.36"), ("lm-eval", "lm_eval[hf]")]
)
def test_a_missing_consumer_is_said_with_the_way_to_get_it(
    target: str, package: str, tiny_folder: Path, spec: str, tmp_path: Path
) -> None:
    bare = ["--consumer-python", sys.executable]
    if importlib.util.find_spec("llama_cpp" if target == "gguf" else "lm_eval"):
        pytest.skip("this environment has the consumer")
    out = tmp_path / "v.pt"
    outcome = steerkit(
        "export", "--to", target, spec, "--model", tiny_folder, "--out", out, "--verify", *bare
    )
    assert outcome.code == 1
    (line,) = outcome.err.splitlines()
    assert "cannot verify" in line
    assert package in line
    assert "the consumer's Python" in line


def test_a_consumer_python_that_is_no_program_is_misuse(spec: str, tmp_path: Path) -> None:
    outcome = steerkit(
        *("export", "--to", "gguf", spec, "--out", tmp_path / "v.gguf", "--verify"),
        *("--consumer-python", tmp_path / "nowhere"),
    )
    assert outcome.code == 2
    assert "cannot run" in outcome.err


def test_a_control_vector_comes_back_as_a_vector(
    tiny_folder: Path, tiny_vector: Path, spec: str, tmp_path: Path
) -> None:
    gguf, back = tmp_path / "v.gguf", tmp_path / "back.safetensors"
    assert steerkit("export", "--to", "gguf", spec, "--out", gguf).code == 0
    outcome = steerkit("import", gguf, "--model", tiny_folder, "--out", back)
    assert outcome.code == 0, outcome.err
    assert "1 of 4 layers" in outcome.err
    restored, original = load_vector(back), load_vector(tiny_vector)
    assert restored.name == "back"
    assert (restored.direction[2] - 1.5 * original.direction[2]).abs().max() < 1e-6
    report = json.loads(steerkit("import", gguf, "--model", tiny_folder, "--out", back, "--json").out)
    assert report["layers"] == [2]


def test_what_cannot_be_imported_is_refused_before_a_model_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "v.npz").touch()
    for file, said in (("nowhere.gguf", "no file"), ("v.npz", "svec (.svec)")):
        command = [
            "import",
            tmp_path / file,
            "--model",
            tmp_path / "none",
            "--out",
            tmp_path / "v.safetensors",
        ]
        outcome = steerkit(*command)
        assert outcome.code == 2
        assert said in outcome.err


def test_a_formats_file_is_all_that_a_new_one_needs(
    tiny_folder: Path, spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for registry in (EXPORTERS, IMPORTERS):
        len(registry)  # loaded, so that what is added goes away again
        monkeypatch.setattr(registry, "_things", dict(registry._things))

    @exporter("npy")
    class Npy(Exporter):
        """A NumPy array of what is added at each layer."""

        consumer = "a NumPy array"
        next = "numpy.load('{out}')"

        def write(self, interventions: Sequence[Any], out: Path, lm: LanguageModel | None = None) -> None:
            assert lm is None
            np.save(out, constant_shifts(interventions, self.consumer).numpy())

    @importer("npy", ".npy")
    def read(path: Path, lm: LanguageModel, layer: int | None) -> dict[int, Tensor]:
        assert (lm.n_layers, layer) == (4, None)
        return dict(enumerate(torch.from_numpy(np.load(path))))

    file, back = tmp_path / "v.npy", tmp_path / "back.safetensors"
    outcome = steerkit("export", "--to", "npy", spec, "--out", file)
    assert outcome.code == 0, outcome.err
    assert f"numpy.load('{file}')" in outcome.err
    assert steerkit("import", file, "--model", tiny_folder, "--out", back).code == 0
    assert load_vector(back).direction.any(dim=1).tolist() == [False, False, True, False]
    refused = steerkit("export", "--to", "npy", f"{spec},operation=ablate", "--out", file)
    assert "operation=ablate: a NumPy array can only add a constant" in refused.err
    verified = steerkit("export", "--to", "npy", spec, "--out", file, "--verify", "--model", tiny_folder)
    assert "the format npy has no verification" in verified.err
    assert "npy" in steerkit("export", "--help").out
