"""`sweep --choose` on a tiny model, and `report --judge` against a small local server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steerkit.runs.directory import RunDirectory
from tests.command_line import steerkit
from tests.scoring.endpoint import said, serving


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, tiny_vector: Path) -> Path:
    """What `sweep --choose` left behind."""
    out = tmp_path_factory.mktemp("runs") / "both"
    outcome = steerkit(*sweep(tiny_folder, tiny_vector, out), "--choose", "recall s.t. tokens<=99")
    assert outcome.code == 0, outcome.err
    assert "chosen on choose by abstention_recall s.t. tokens<=99" in outcome.err
    return out


def sweep(model: Path, vector: Path, out: Path) -> list[object]:
    grid = ["--layers", "1:2", "--strengths", "1,2", "--limit", 4, "--max-new-tokens", 4, "--allow-mismatch"]
    return ["sweep", "--model", model, "--vector", vector, "--suite", "abstention", *grid, "--out", out]


def test_the_grid_runs_on_choose_and_the_cell_on_report(chosen: Path) -> None:
    def roles(split: str) -> list[str]:
        run = RunDirectory(chosen / split)
        assert {record.split for record in run.records()} == {split}
        return sorted(run.cells[cell].role for cell in {record.cell for record in run.records()})

    assert roles("choose") == ["steered"] * 4 + ["unsteered"]
    assert roles("report") == ["random", "steered", "steered", "unsteered"]
    choice = json.loads((chosen / "report" / "choice.json").read_text())
    assert choice["spec"].split("@")[1].startswith("layer=")
    assert "Chosen cell" in (chosen / "report" / "report.html").read_text()


def test_bounds_that_no_cell_meets_are_said_with_the_nearest(tiny_folder, tiny_vector, tmp_path) -> None:
    outcome = steerkit(
        *sweep(tiny_folder, tiny_vector, tmp_path / "out"), "--choose", "recall s.t. tokens<=-1"
    )
    assert outcome.code == 0, outcome.err
    assert "no cell meets the bounds" in outcome.err
    assert "the nearest is " in outcome.err
    assert not (tmp_path / "out" / "report").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--choose", "recall s.t. over_abstention<5%"], "is no bound"),
        (["--choose", "recal"], "no metric 'recal'"),
        (["--choose", "recall", "--split", "report"], "leave --split out"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_one_line(tmp_path, tiny_vector, options, said) -> None:
    outcome = steerkit(*sweep("no-such-model", tiny_vector, tmp_path / "out"), *options)
    assert outcome.code == 2
    assert said in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1


def test_a_judge_gets_its_columns_beside_the_phrase_rules(chosen, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("STEERKIT_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    run = chosen / "report"
    with serving(lambda *_: said("ANSWERED")) as endpoint:
        outcome = steerkit("report", run, "--judge", endpoint.url, "--judge-model", "critic")
        assert outcome.code == 0, outcome.err
        assert "by the phrase rules and by critic" in " ".join(outcome.out.split())
        assert "kappa" in outcome.out
        asked = len(endpoint.bodies)
        found = json.loads(
            steerkit("report", run, "--judge", endpoint.url, "--judge-model", "critic", "--json").out
        )
    assert len(endpoint.bodies) == asked  # all of it in the cache
    assert found["judge"]["n"] == 4 * 4
    fields = {"model", "messages", "temperature", "max_tokens"}
    assert all(set(body) == fields for body in endpoint.bodies)
    assert "by critic" in " ".join(steerkit("report", run).out.split())  # kept in the run


def test_a_judge_that_cannot_be_asked_is_one_line(chosen) -> None:
    for options, code, said_so in (
        (["--judge", "http://localhost:1/v1"], 2, "go together"),
        (["--judge", "localhost", "--judge-model", "m"], 2, "is not the address of a server"),
    ):
        outcome = steerkit("report", chosen / "report", *options)
        assert (outcome.code, len(outcome.err.strip().splitlines())) == (code, 1)
        assert said_so in outcome.err
