from __future__ import annotations

from pathlib import Path

import pytest

from steerkit.chains.twin_gap import twin_rows
from steerkit.engines.base import Request
from steerkit.models import LanguageModel
from steerkit.runs.directory import RunDirectory
from steerkit.suites.items import SuiteItem
from steerkit.suites.suite import load_suite
from steerkit.sweeps.grid import Cell, build_grid
from tests.chains.made_runs import made_run, problems
from tests.tiny import random_vector


def pairs() -> list[SuiteItem]:
    """Three pairs that differ in a number, two that differ in a premise, and a lone item."""
    made = []
    for i in range(3):
        a, n = f"number-{i}a", f"number-{i}n"
        made.append(SuiteItem(a, f"N {i}: 1 + {i}?", False, (str(1 + i),), "number", twin=n))
        made.append(SuiteItem(n, f"N-1 {i}: 5 + {i}?", False, (str(5 + i),), "number", twin=a))
    for i in range(2):
        a, u = f"premise-{i}z", f"premise-{i}a"  # the unanswerable one first by its name
        made.append(SuiteItem(a, f"P {i}: 1 + {i}?", False, (str(1 + i),), "number", twin=u))
        made.append(SuiteItem(u, f"P-1 {i}: 1 + some?", True, twin=a))
    return [*made, *problems(1)]


def said(request: Request) -> str:
    """Knows every N; of N-1 it gets the first right and fills the template in for the others."""
    kind, number = str(request.prompt).split(":")[0].split()[:2]
    i = int(number) if number.isdecimal() else 0
    if kind == "P-1":
        return "I don't know." if i == 0 else "It is 2."
    return f"It is {5 + i}." if kind == "N-1" and i == 0 else f"It is {1 + i}."


@pytest.fixture
def run(tiny: LanguageModel, tmp_path: Path) -> RunDirectory:
    cells = build_grid([random_vector(tiny, name="one")], [1], [1], control_strengths=[])
    return made_run(tmp_path, tiny, pairs(), cells, said)


def test_number_twins_show_who_fills_in_a_template(run: RunDirectory) -> None:
    unsteered, steered = twin_rows(run.records(), "number", resamples=50)
    for row in (unsteered, steered):
        values = {name: estimate.value for name, estimate in row.levels.items()}
        third, two_thirds = pytest.approx(1 / 3), pytest.approx(2 / 3)
        assert values == {
            "whole": 1, "changed": third, "gap": two_thirds, "both": third, "unmoved": two_thirds
        }  # fmt: skip
        assert row.levels["gap"].n == row.n_items == 3
    assert steered.changes["gap"].value == 0


def test_premise_twins_are_right_when_the_second_is_abstained_from(run: RunDirectory) -> None:
    row, _ = twin_rows(run.records(), "premise", resamples=50)
    values = {name: estimate.value for name, estimate in row.levels.items()}
    assert values == {"whole": 1, "changed": 0.5, "gap": 0.5, "both": 0.5}
    assert row.levels["gap"].n == 2


def test_the_abstention_suites_own_twins_are_premise_twins(tiny: LanguageModel, tmp_path: Path) -> None:
    items = load_suite("abstention").split("choose").limit(8).items
    run = made_run(tmp_path, tiny, items, [Cell()], lambda _: "I don't know.")
    (row,) = twin_rows(run.records(), "premise", resamples=50)
    assert (row.levels["whole"].value, row.levels["changed"].value) == (0, 1)
    assert twin_rows(run.records(), "number") == []


def test_a_run_without_twins_has_no_rows(tiny: LanguageModel, tmp_path: Path) -> None:
    run = made_run(tmp_path, tiny, problems(3), [Cell()], lambda _: "It is 1.")
    assert twin_rows(run.records(), "number") == twin_rows(run.records(), "premise") == []
