"""`steerkit models --check`: on the user's own model, and on families, with a record and a page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.command_line import steerkit

COLUMNS = ("load", "extract", "steer", "cache", "batch", "packed", "score")


def test_every_column_runs_on_the_users_own_model(tiny_folder: Path) -> None:
    outcome = steerkit("models", "--check", tiny_folder)
    assert outcome.code == 0, outcome.err
    for column in COLUMNS:
        assert re.search(rf"{column}\s+ok", outcome.out), outcome.out
    [report] = json.loads(steerkit("models", "--check", tiny_folder, "--json").out)
    assert {cell["mark"] for cell in report["cells"].values()} == {"ok"}
    assert report["packing"] == "packed"


def test_a_record_keeps_other_families_and_a_page_is_made_of_it(tmp_path: Path) -> None:
    record, page = tmp_path / "record.json", tmp_path / "page.md"
    assert steerkit("models", "--check", "--family", "gpt2", "--record", record, "--page", page).code == 0
    assert steerkit("models", "--check", "--family", "bert", "--record", record).code == 0
    assert json.loads(record.read_text())["families"].keys() == {"bert", "gpt2"}
    assert "| gpt2 |" + " ok |" * len(COLUMNS) + " packed |" in page.read_text()


def test_a_wrong_cell_ends_with_1(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steerkit.checks.reference.Edit.span", lambda _self, _prompt, length: (0, length))
    outcome = steerkit("models", "--check", tiny_folder)
    assert outcome.code == 1
    assert re.search(r"steer\s+wrong", outcome.out)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--family", "llama"], "go with --check"),
        (["--check", "--family", "nonesuch"], "has no family 'nonesuch'"),
        (["--check", "some/model", "--family", "llama"], "models or families"),
    ],
)
def test_what_goes_with_check_is_said(arguments: list[str], said: str) -> None:
    outcome = steerkit("models", *arguments)
    assert outcome.code == 2
    assert said in outcome.err
