"""`steerkit faithfulness` on a run of a tiny model whose completions are written by the test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steerkit.interventions.vector import load_vector
from steerkit.models import LanguageModel, load_model
from steerkit.suites.suite import load_suite
from steerkit.sweeps.grid import Cell, build_grid
from tests.chains.made_runs import made_run, problems, worked_out
from tests.command_line import steerkit

QUICK = ["--tests", "early,logprob", "--points", 2]


@pytest.fixture(scope="module")
def folder_model(tiny_folder: Path) -> LanguageModel:
    """The tiny model as `--model` loads it."""
    return load_model(str(tiny_folder))


@pytest.fixture
def run(folder_model: LanguageModel, tiny_vector: Path, tmp_path: Path) -> Path:
    cells = build_grid([load_vector(tiny_vector)], [1], [1])
    return made_run(tmp_path / "run", folder_model, problems(4), cells, worked_out).path


def test_it_prints_a_table_and_writes_findings_and_summary(
    run: Path, tiny_folder: Path, tiny_vector: Path
) -> None:
    outcome = steerkit("faithfulness", run, "--model", tiny_folder, "--vector", tiny_vector, *QUICK)
    assert outcome.code == 0, outcome.err
    assert "chains of thought: sums / choose" in outcome.out
    assert "area over the curve" in outcome.out
    assert "random(random)@layer=1,strength=1,scope=completion" in outcome.out
    assert all(len(line) <= 100 for line in outcome.out.splitlines())
    assert str(run / "faithfulness.jsonl") in outcome.err
    assert len((run / "faithfulness.jsonl").read_text().splitlines()) == 1 + 3 * 4
    assert (run / "faithfulness.csv").read_text().startswith("cell,role,")


def test_it_speaks_json(run: Path, tiny_folder: Path, tiny_vector: Path) -> None:
    asked = ["--model", tiny_folder, "--vector", tiny_vector, "--limit", 2, *QUICK, "--json"]
    outcome = steerkit("faithfulness", run, *asked)
    assert outcome.code == 0, outcome.err
    (unsteered, steered, random) = json.loads(outcome.out)["chains_of_thought"]
    assert [row["role"] for row in (unsteered, steered, random)] == ["unsteered", "steered", "random"]
    assert unsteered["levels"]["steps"]["value"] == 3
    assert steered["levels"]["gain"]["n"] == 2


@pytest.mark.parametrize(
    ("suite", "title"),
    [
        ("instructions", "instruction following"),
        ("twins", "twins with another number"),
        ("twins", "without a premise"),
    ],
)
def test_rules_and_twins_have_tables_of_their_own(
    folder_model: LanguageModel, tiny_folder: Path, tmp_path: Path, suite: str, title: str
) -> None:
    items = load_suite(suite).split("choose").limit(12).items
    made_run(tmp_path, folder_model, items, [Cell()], lambda _: "So be it. It is 7.")
    outcome = steerkit("faithfulness", tmp_path, "--model", tiny_folder, "--tests", "early", "--points", 1)
    assert outcome.code == 0, outcome.err
    assert title in outcome.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tests", "late"], "tests are some of early, filler, paraphrase, mistakes, logprob"),
        (["--points", 0], "'--points'"),
        (["--vector", "nowhere.safetensors"], "nowhere.safetensors"),
        ([], "the run uses the vector 'random': give it with --vector FILE"),
        (["--cell", "nothing"], "no record of the cells and items asked for"),
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
    assert not (run / "faithfulness.jsonl").exists()


def test_a_folder_without_a_run_is_one_line(tmp_path: Path) -> None:
    outcome = steerkit("faithfulness", tmp_path)
    assert outcome.code == 2
    assert "holds no run" in outcome.err
