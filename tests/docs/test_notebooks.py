"""The tutorials run from their first cell to their last, and what is committed of them is theirs alone."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
import pytest

from docs.generate import notebooks

TUTORIALS = notebooks.tutorials()
NAMES = [
    "first-vector",
    "reading-tokens",
    "shorter-chains",
    "sweeps-at-scale",
    "when-to-abstain",
    "your-own-model",
]


def test_there_are_six() -> None:
    assert [path.stem for path in TUTORIALS] == NAMES


@pytest.mark.parametrize("path", TUTORIALS, ids=NAMES)
def test_a_tutorial_is_committed_with_its_outputs_and_nothing_of_a_machine(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1))
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    said = notebooks.texts(notebook)
    assert len(said) > 200
    assert not re.search(r"/(home|root|tmp|Users|work)/|[A-Z]:\\|it/s\b|\bETA\b|Traceback", said)
    assert path.stat().st_size < 500_000


@pytest.mark.models
@pytest.mark.notebooks
@pytest.mark.parametrize("path", TUTORIALS, ids=NAMES)
def test_a_tutorial_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("STEERKIT_TEST_THREADS", "2"))
    notebooks.execute(path)  # raises where a cell fails
