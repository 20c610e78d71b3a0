"""`steerkit features`: ranks, vectors, and errors of one line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import steerkit as sk
from tests.command_line import steerkit
from tests.conftest import save_model
from tests.features import planted


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted model in a folder."""
    return Path(save_model(planted.planted_model(), tmp_path_factory.mktemp("features") / "planted"))


@pytest.fixture(scope="module")
def sae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The autoencoder that reads what is planted."""
    return planted.write(tmp_path_factory.mktemp("features") / "reads", planted.reading_the_planted())


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Pairs whose sides two planted features tell apart."""
    lines = [{"id": f"{n}", "prompt": f"q{n}", "positive": "AA", "negative": "BB"} for n in range(6)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path / "pairs.jsonl"


def test_features_are_ranked_shown_and_written(model: Path, sae: Path, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "ranks.csv"
    asked = ("features", "rank", sae, "--model", model, "--data", pairs, "--top", 2)
    done = steerkit(*asked, "--out", out)
    assert done.code == 0, done.err
    for heading in ("feature", "AUROC, held out", "active, positive"):
        assert heading in done.out
    assert f"features vector {sae} 0 --model {model}" in done.err + done.out
    assert [line.split()[0] for line in done.out.splitlines() if line[:1].isdigit()] == ["0", "1"]
    with out.open() as file:
        lines = list(csv.DictReader(file))
    assert [line["index"] for line in lines] == ["0", "1", "2", "3"]
    assert float(lines[0]["auroc"]) == 1.0
    found = json.loads(steerkit(*asked, "--json").out)["features"]
    assert [each["index"] for each in found] == [0, 1]


def test_reason_score_completes_a_suites_prompts(model: Path, sae: Path) -> None:
    asked = (
        "features",
        "rank",
        sae,
        "--model",
        model,
        "--by",
        "reason-score",
        "--limit",
        2,
        "--max-new-tokens",
        4,
    )
    assert "of the 2 words: give more completions" in steerkit(*asked, "--word", "wait", "--word", "so").err
    assert "--data is for --by separation" in steerkit(*asked, "--data", "x.jsonl").err
    assert "--word is for" in steerkit("features", "rank", sae, "--model", model, "--word", "so").err


def test_a_feature_is_written_as_a_vector_that_steers_and_reads(
    model: Path, sae: Path, tmp_path: Path
) -> None:
    out = tmp_path / "first.safetensors"
    done = steerkit("features", "vector", sae, 0, "--model", model, "--out", out)
    assert done.code == 0, done.err
    vector = sk.load_vector(out)
    assert vector.name == "first"
    assert vector.probe is not None
    asked = (
        "generate",
        "--model",
        model,
        "--max-new-tokens",
        2,
        "--json",
        "xA",
        "--read",
        f"{out}@as=feature",
    )
    said = steerkit(*asked, "--steer", f"{out}@layer={planted.LAYER},strength=2")
    assert said.code == 0, said.err
    (completion,) = json.loads(said.out)
    assert "as=feature" in json.dumps(completion["readings"])
    wrong = steerkit("features", "vector", sae, 99, "--model", model, "--out", tmp_path / "no.safetensors")
    assert wrong.code != 0
    assert "feature 99 is out of range" in wrong.err
    assert not (tmp_path / "no.safetensors").exists()
