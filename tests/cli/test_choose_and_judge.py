"""`sweep --choose` on a tiny model, and `report --judge` against a small local server."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from steerkit.runs.cells import Cell
from steerkit.runs.directory import RunDirectory, RunWriter
from steerkit.runs.protocol import Environment
from steerkit.runs.record import Record
from tests.command_line import steerkit
from tests.report.conftest import BEST, write_run
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


def reopened(run: Path, command: str | None) -> Path:
    """The run, last written by this command."""
    with RunWriter(run, RunDirectory(run).protocol, Environment({}, 8, command)):
        return run


def clearly_better(cell: Cell, made: Record) -> Record:
    """One cell abstains when it should and only then."""
    if cell.id != BEST.id:
        return made
    right = {"abstained": bool(made.should_abstain), "correct": None if made.should_abstain else True}
    return replace(made, scores={**made.scores, **right})


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


def test_the_hint_after_a_choice_runs_as_it_is_printed(tiny_folder, tiny_vector, tmp_path) -> None:
    out = tmp_path / "two words"
    outcome = steerkit(*sweep(tiny_folder, tiny_vector, out), "--choose", "recall s.t. tokens<=99")
    (hint,) = [line for line in outcome.err.splitlines() if line.startswith("next, use it: ")]
    words = shlex.split(hint.removeprefix("next, use it: steerkit "))
    assert words[words.index("--model") + 1] == str(tiny_folder)
    done = steerkit(*words, "--max-new-tokens", 3)
    assert (done.code, bool(done.out)) == (0, True), done.err


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        (
            "steerkit sweep -m 'my models/tiny' --suite=gsm8k:'a b.jsonl' --allow-mismatch --out run",
            "--model 'my models/tiny' --allow-mismatch --suite 'gsm8k:a b.jsonl'",
        ),
        ("steerkit sweep --vector v --out run", "--suite abstention"),  # the defaults
        ("python 'my.py", "--model 'tiny <model>' --suite abstention"),  # what the protocol says
        (None, "--model 'tiny <model>' --suite abstention"),
    ],
)
def test_the_hint_of_a_report_names_model_and_suite_as_they_were_given(tmp_path, command, asked) -> None:
    run = reopened(write_run(tmp_path / "run", suite="abstention", change=clearly_better), command)
    outcome = steerkit("report", run)
    hints = [line for line in outcome.err.splitlines() if line.startswith("next, ")]
    assert hints, outcome.err
    start = f"next, measure it once on unseen items: steerkit sweep --steer '{run}#"
    assert all(line.startswith(start) for line in hints)
    assert {line.split("' ", 1)[1] for line in hints} == {f"{asked} --split report --out NEW_FOLDER"}


def test_a_suite_of_ones_own_that_nothing_names_is_left_out_of_the_hint(tmp_path) -> None:
    outcome = steerkit(
        "report", reopened(write_run(tmp_path / "run", suite="mine", change=clearly_better), None)
    )
    hints = [line for line in outcome.err.splitlines() if line.startswith("next, ")]
    assert hints
    assert not any("--suite" in line for line in hints)


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


def test_a_guarantee_is_said_of_the_cell_that_was_chosen(tiny_folder, tiny_vector, tmp_path) -> None:
    asked = ["--choose", "recall", "--guarantee", "over_abstention<=0.8@60%"]
    command = [*sweep(tiny_folder, tiny_vector, tmp_path / "out"), *asked]
    outcome = steerkit(*command)
    assert outcome.code == 0, outcome.err
    assert "over_abstention<=0.8@60% holds of 4 of 4 cells, tested in 2 sequences at p ≤ 0.2" in outcome.err
    assert "of the chosen cell over_abstention<=0.8@60%: 0 of 2 groups lost" in outcome.err
    bound = json.loads((tmp_path / "out" / "report" / "choice.json").read_text())["bound"]
    assert bound["assumption"].startswith("questions are drawn as those of abstention / choose")
    found = json.loads(steerkit(*command, "--json").out)
    assert found["guarantee"] == "over_abstention<=0.8@60%"
    assert found["bound"] == bound
    assert found["chosen"]["cell"] in found["certified"]
    run = tmp_path / "out" / "choose"
    again = json.loads(steerkit("report", run, "--guarantee", "over_abstention<=0.8@60%", "--json").out)
    assert again["certified"] == found["certified"]
    outcome = steerkit("report", run, "--guarantee", "over_abstention<=0.8@60%")
    assert "0 of 2 groups lost, p = 0.04" in outcome.err
    outcome = steerkit("report", run, "--guarantee", "over_abstention<=0.1@95%")
    assert (outcome.code, "it takes at least 36 of them" in outcome.err) == (2, True)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--guarantee", "over_abstention<=0.1@95%"], "give --choose RULE too"),
        (["--choose", "recall", "--guarantee", "over_abstention<=0.1"], "write BOUND@CONFIDENCE"),
        (["--choose", "recall", "--guarantee", "tokens<=9@95%"], "tokens is not yes or no"),
        (["--choose", "recall", "--guarantee", "over_abstention<=0.1@95%"], "it takes at least 36 of them"),
        (["--choose", "recall", "--guarantee", "instructions_hard>=0.5@95%"], "add the scorer instructions"),
    ],
)
def test_a_guarantee_that_cannot_be_had_is_one_line_before_the_model_is_loaded(
    tmp_path, tiny_vector, asked, said
) -> None:
    outcome = steerkit(*sweep("no-such-model", tiny_vector, tmp_path / "out"), *asked)
    assert outcome.code == 2
    assert said in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
