"""The study of quantised weights: its forms are what they say, and the whole of it on a tiny model."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers

from experiments.quantised import forms, run
from steerkit.models import load_model
from tests.tiny import byte_tokenizer, tiny_hf


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny model that can be quantised, and reads the suite's prompts with the reports' preamble."""
    config = tiny_hf(width=64).config
    config.max_position_embeddings = 2048
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "wide")
    byte_tokenizer().save_pretrained(tmp_path / "wide")
    return tmp_path / "wide"


def test_a_gguf_form_has_the_matrices_of_such_a_file_and_all_else_as_it_was(folder: Path) -> None:
    plain = load_model(folder).hf.state_dict()
    rounded = forms.FORMS["gguf-q4_0"](str(folder)).hf.state_dict()
    changed = {name for name in plain if not torch.equal(plain[name], rounded[name])}
    assert changed == {name for name in plain if ".layers." in name and plain[name].ndim == 2}
    name = "model.layers.1.mlp.up_proj.weight"
    kind = gguf.GGMLQuantizationType.Q4_0
    expected = gguf.dequantize(gguf.quantize(plain[name].numpy(), kind), kind)
    assert np.array_equal(rounded[name].numpy(), expected)


def test_the_study_runs_and_goes_on_from_what_is_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "TIMED", {forms.FLOAT: forms.TIMED[forms.FLOAT]})
    page = tmp_path / "results.md"
    asked = ["--model", str(folder), "--layer", "2", "--limit", "8", "--tokens", "3"]
    asked += ["--forms", "float32,8bit", "--runs", str(tmp_path / "runs"), "--out", str(page)]
    run.main(asked)
    written = page.read_text()
    lines = [line for line in written.splitlines() if line.startswith(("| float32 |", "| 8bit |"))]
    assert [line.split(" | ")[1] for line in lines[:-1]] == [run.WAYS[0], run.WAYS[2], *run.WAYS]
    assert lines[-1].split(" | ")[4].startswith("1.00 (")
    page.unlink()
    monkeypatch.setattr(run.sk, "extract", None)  # nothing is extracted, calibrated or timed again
    monkeypatch.setattr(run.sk, "calibrate", None)
    monkeypatch.setattr(run.subprocess, "run", None)
    run.main(asked)
    assert page.read_text() == written
