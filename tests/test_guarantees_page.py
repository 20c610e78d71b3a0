"""docs/guarantees.md: its table of least numbers is what the package computes."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerkit.core.learn_then_test import smallest_n

PAGE = Path(__file__).parent.parent / "docs" / "guarantees.md"


@pytest.mark.parametrize("limit", [0.2, 0.1, 0.05, 0.02])
def test_the_table_of_least_numbers_is_right(limit: float) -> None:
    (line,) = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| {limit:.2f} |")]
    stated = [int(cell) for cell in line.strip("|").split("|")[1:]]
    assert stated == [smallest_n(limit, confidence) for confidence in (0.8, 0.9, 0.95, 0.99)]
