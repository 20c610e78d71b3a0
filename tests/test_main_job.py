"""The main job on the real bundled model, small: fifty pairs to a vector that moves behaviour, and a control that
does not."""

from __future__ import annotations

import pytest

import steerkit as sk
from steerkit.analysis.summary import Row
from steerkit.models import LanguageModel


@pytest.fixture(scope="module")
def rows(smollm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, float], Row]:
    """Rows of a small sweep on the split `choose`, by role and strength."""
    vector = sk.extract(smollm, sk.load_pairs("abstention"))
    grid = sk.Grid(vector, layers=14, strengths=[0, 1])
    measurement = sk.Measurement("abstention", limit=24, decoding=sk.Decoding(32))
    run = sk.sweep(smollm, grid, measurement, out=tmp_path_factory.mktemp("runs") / "main")
    return {(row.role, row.at.strength or 0.0): row for row in run.summary()}


def test_the_vector_lifts_abstention_and_a_random_direction_of_its_norm_does_not(
    rows: dict[tuple[str, float], Row],
) -> None:
    # Of twelve items, garbled text has a few read as abstentions ("The answer is not provided") under any direction.
    lifted, at_random = (rows[role, 1.0].changes["abstention_recall"] for role in ("steered", "random"))
    assert lifted.value >= 0.5
    assert abs(at_random.value) <= lifted.value / 2
    assert lifted.low > 0 >= at_random.low


def test_strength_zero_is_the_unsteered_cell(rows: dict[tuple[str, float], Row]) -> None:
    assert set(rows) == {("unsteered", 0.0), ("steered", 1.0), ("random", 1.0)}
    assert {row.n_items for row in rows.values()} == {24}
