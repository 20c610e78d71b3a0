"""The simulation of the bound, on states that are made up: its tables, and what they must say."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.guarantee import run
from experiments.guarantee.states import Questions
from steerkit.extraction.pairs import Example

CONFIG = {
    "model": "made-up",
    "dtype": "float32",
    "sets": ["twins"],
    "other_sets": ["others"],
    "seed": 0,
    "bound": {"confidence": 0.95, "limits": [0.1], "groups": 100, "draws": 200},
    "drift": {"reference": 60, "new": [20], "draws": 50},
}


def questions(name: str, groups: int, shift: float) -> Questions:
    """Twins of an answerable and an unanswerable question; the first coordinate of layer 1 tells them apart."""
    rng = np.random.default_rng(groups)
    states = rng.normal(shift, size=(2 * groups, 2, 6)).astype(np.float32)
    labels = np.arange(2 * groups) % 2 == 0
    states[labels, 1, 0] += 2
    made = (
        Example(f"{name}-{i}", "?", None, bool(label), f"{name}-{i // 2}", None)
        for i, label in enumerate(labels)
    )
    return Questions(name, tuple(made), states)


@pytest.fixture(scope="module")
def lines() -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "published", lambda: run.Detector("published", 0, np.ones(6), 0.0))
        sets = {"twins": questions("twins", 400, 0.0), "others": questions("others", 80, 1.5)}
        return list(run.report(CONFIG, sets))


def column(lines: list[str], first: str, place: int) -> list[float]:
    return [float(line.split("|")[place].strip(" %")) for line in lines if line.startswith(f"| {first}")]


def test_the_bound_is_kept_and_the_plain_threshold_is_not(lines):
    assert all(share <= 8 for share in column(lines, "twins (", 5))
    assert all(share > 25 for share in column(lines, "twins (", 8))


def test_other_questions_raise_the_alarm_and_the_same_do_not(lines):
    assert column(lines, "twins | others |", 4) == [100.0]
    (same,) = column(lines, "twins | twins |", 4)
    assert same <= 6


def test_what_a_bound_takes_is_said_first(lines):
    assert "| 10% | 29 | 4 | 4.0% |" in lines
