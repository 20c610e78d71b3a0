"""`steerkit gate fit` and `steerkit gate compare` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steerkit.interventions.probe import load_probe
from tests.command_line import steerkit


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled questions of two kinds; a model over bytes can tell the labels of one."""
    path = tmp_path_factory.mktemp("questions") / "mine.jsonl"
    rows = []
    for i in range(120):
        label, sums = bool(i % 2), i % 4 > 1
        text = f"Add {i * i % 97} up, please" if sums else f"What is {i * i} {'zzz' if label else 'plus one'}"
        rows.append({"id": f"q{i}", "prompt": text, "label": label, "kind": "sums" if sums else "words"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_gate_is_fitted_in_one_command_with_its_card(
    questions: Path, tiny_folder: Path, tiny_vector: Path, tmp_path: Path
) -> None:
    out = tmp_path / "gate.safetensors"
    done = steerkit("gate", "fit", questions, "--model", tiny_folder, "--out", out)
    assert done.code == 0, done.err
    assert "words alone (TF-IDF)" in done.out
    assert "questions more are expected to change the AUROC" in done.out
    assert load_probe(out).metadata.shut_kinds == ("sums",)
    assert "Kept shut on: sums" in (tmp_path / "gate.md").read_text(encoding="utf-8")
    spec = f"{tiny_vector}@layer=1,strength=2,gate={out}"
    asked = ("generate", "--model", tiny_folder, "--steer", spec, "--max-new-tokens", 2, "--json")
    (completion,) = json.loads(steerkit(*asked, "Add 12 up, please").out)
    assert not completion["gates"][0]["fired"]


def test_a_gate_and_its_card_take_no_other_files_place(questions: Path, tmp_path: Path) -> None:
    asked = ("gate", "fit", questions, "--model", "no-such-model", "--out")
    assert "where the card goes" in steerkit(*asked, tmp_path / "gate.md").err
    (tmp_path / "notes.md").write_text("mine", encoding="utf-8")
    assert "would take its place" in steerkit(*asked, tmp_path / "notes.safetensors").err
    assert (tmp_path / "notes.md").read_text(encoding="utf-8") == "mine"


def test_a_gate_that_is_compared_on_what_fitted_it_is_marked(
    questions: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "gate.safetensors"
    assert steerkit("gate", "fit", questions, "--model", tiny_folder, "--out", out).code == 0
    asked = ("gate", "compare", questions, "--model", tiny_folder, "--gate", out)
    marked = [each["in_sample"] for each in json.loads(steerkit(*asked, "--json").out)]
    assert marked == [False, False, True]
    assert "looks better than it is" in steerkit(*asked).out


def test_a_guarantee_that_cannot_be_had_is_refused_with_the_least_number(
    questions: Path, tmp_path: Path
) -> None:
    asked = ("gate", "fit", questions, "--model", "no-such-model", "--out", tmp_path / "g.safetensors")
    done = steerkit(*asked, "--guarantee", "over_abstention<=0.01@95%")
    assert done.code == 2
    assert "at least 299" in done.err
    assert "is bounded" in steerkit(*asked, "--guarantee", "accuracy>=0.5@95%").err
    assert "give one" in steerkit(*asked, "--guarantee", "over_abstention<=0.1@95%", "--budget", 0.1).err


def test_detectors_are_compared_on_the_command_line(questions: Path, tiny_folder: Path) -> None:
    asked = ("gate", "compare", questions, "--model", tiny_folder, "--limit", 60, "--gate", "entropy")
    found = json.loads(steerkit(*asked, "--json").out)
    assert [each["detector"] for each in found] == ["gate fit", "words alone", "entropy"]
    assert set(found[0]["auroc"]) == {"value", "low", "high"}
    assert "words alone" in steerkit(*asked).out
    assert "no-such" in steerkit("gate", "compare", questions, "--gate", "no-such").err
