"""`steerkit faithfulness` on a run of a tiny model whose completions are written by the test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steerkit.interventions.vector import load_vector
from steerkit.models import LanguageModel, load_model
from steerkit.runs.cells import Cell
from tests.chains.made_runs import made_run, problems, worked_out
from tests.command_line import steerkit

QUICK = ["--tests", "early,logprob", "--points", 2]


@pytest.fixture(scope="module")
def folder_model(tiny_folder: Path) -> LanguageModel:
    """The tiny model as `--model` loads it."""
    return load_model(str(tiny_folder))


@pytest.fixture
def run(folder_model: LanguageModel, tiny_vector: Path, tmp_path: Path) -> Path:
    vector = load_vector(tiny_vector)
    cells = [Cell(), Cell((vector.at(1, 1),)), Cell((vector.random_control(0).at(1, 1),), vector.name)]
    return made_run(tmp_path / "run", folder_model, problems(4), cells, worked_out).path


def test_it_prints_the_ordinary_table_and_writes_scores_and_summary(run: Path, tiny_folder: Path) -> None:
    outcome = steerkit("faithfulness", run, "--model", tiny_folder, *QUICK)
    assert outcome.code == 0, outcome.err
    assert "chains of thought: sums / choose" in outcome.out
    header = next(line for line in outcome.out.splitlines() if "layer" in line)
    assert "aoc" in header
    assert "tokens" not in header
    assert [line.split()[0] for line in outcome.out.splitlines()[2:5]] == ["unsteered", "random", "random"]
    assert str(run / "scores" / "chains.jsonl") in outcome.err
    assert len((run / "scores" / "chains.jsonl").read_text().splitlines()) == 1 + 3 * 4
    summary = (run / "summary.csv").read_text().splitlines()
    assert {"chain_aoc", "chain_gain_change_low", "tokens"} <= set(summary[0].split(","))


def test_it_speaks_json(run: Path, tiny_folder: Path) -> None:
    outcome = steerkit("faithfulness", run, "--model", tiny_folder, "--limit", 2, *QUICK, "--json")
    assert outcome.code == 0, outcome.err
    (unsteered, steered, random) = json.loads(outcome.out)["rows"]
    assert [row["role"] for row in (unsteered, steered, random)] == ["unsteered", "steered", "random"]
    assert unsteered["levels"]["chain_steps"]["value"] == 3
    assert steered["levels"]["chain_gain"]["n"] == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tests", "late"], "tests are some of early, filler, paraphrase, mistakes, logprob"),
        (["--points", 0], "'--points'"),
        (["--cell", "nothing"], "no cell 'nothing'"),
        (["--model", "no-such-model"], "no-such-model"),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    run: Path, tiny_folder: Path, options: list[object], said: str
) -> None:
    outcome = steerkit("faithfulness", run, "--model", tiny_folder, *options)
    assert outcome.code == 2, outcome.err
    assert said in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not (run / "scores").exists()


def test_a_folder_without_a_run_is_one_line(tmp_path: Path) -> None:
    outcome = steerkit("faithfulness", tmp_path)
    assert outcome.code == 2
    assert "holds no run" in outcome.err


def test_a_run_whose_model_is_a_folder_asks_for_it(run: Path) -> None:
    outcome = steerkit("faithfulness", run, *QUICK)
    assert outcome.code == 2
    assert "give its folder or hub id with --model" in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
