"""`--engine server` on our own server: the records of the transformers engine, and a doctor that finds it healthy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import steerkit
from tests.serving.serving import Asked


def records(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    return sorted(lines, key=lambda line: (line["cell"], line["item"], line["sample"]))


def test_a_sweep_on_the_server_has_the_records_of_the_transformers_engine(
    server: Asked, tiny_folder: Path, vectors: Path, tmp_path: Path
) -> None:
    grid = ["--vector", vectors / "good.safetensors", "--layers", "1:2", "--strengths", "-0.3,0.3"]
    grid += ["--suite", "abstention", "--limit", 6, "--max-new-tokens", 6, "--scorer", "perplexity"]
    grid += ["--axis", "edit=none,dont-know-system", "--axis", "scope=completion,all"]
    through = ["--engine", "server", "--dtype", "float32", "--server", server.url]
    for run, more in (("here", []), ("there", through)):
        done = steerkit("sweep", "--model", tiny_folder, *grid, *more, "--out", tmp_path / run)
        assert done.code == 0, done.err
    here, there = records(tmp_path / "here"), records(tmp_path / "there")
    assert len(here) == len(there) > 6 * 8
    for ours, theirs in zip(here, there, strict=True):
        perplexities = [record["scores"].pop("perplexity") for record in (ours, theirs)]
        if perplexities != [None, None]:  # of an empty completion
            assert perplexities[0] == pytest.approx(perplexities[1], rel=1e-4)
        assert ours == theirs


def test_the_doctor_finds_that_it_steers_as_commanded(
    server: Asked, tiny_folder: Path, vectors: Path
) -> None:
    spec = f"{vectors / 'good.safetensors'}@layer=1"
    asked = ["--engine", "server", "--server", server.url, "--steer", spec, "--json"]
    done = steerkit("doctor", "--model", tiny_folder, *asked)
    assert done.code == 0, done.out + done.err
    [report] = json.loads(done.out)["servers"]
    assert report["healthy"]


def test_a_sweep_that_the_server_would_refuse_is_not_begun(
    server: Asked, tiny_folder: Path, tiny_vector: Path, tmp_path: Path
) -> None:
    grid = ["--vector", tiny_vector, "--layers", "1", "--strengths", "1", "--limit", "2"]
    through = ["--engine", "server", "--server", server.url, "--out", tmp_path / "run"]
    done = steerkit("sweep", "--model", tiny_folder, "--suite", "abstention", *grid, *through)
    assert (done.code, (tmp_path / "run").exists()) == (2, False)
    assert "no vector 'random' on this server" in done.err
