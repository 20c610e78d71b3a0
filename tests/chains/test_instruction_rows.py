from __future__ import annotations

from pathlib import Path

import pytest

from steerkit.chains.instruction_rows import instruction_rows
from steerkit.engines.base import Request
from steerkit.models import LanguageModel
from steerkit.suites.constraints import Constraint, with_constraints
from steerkit.suites.items import SuiteItem
from steerkit.sweeps.grid import Cell
from tests.chains.made_runs import made_run, problems

CONSTRAINTS = (Constraint("lower-case"), Constraint("at-most-words", "3"))


def items() -> list[SuiteItem]:
    made = []
    for i in range(4):
        plain = SuiteItem(f"{i}a", f"{i} and 1?", False, (str(i + 1),), "number", twin=f"{i}r")
        made += [
            plain,
            SuiteItem(
                f"{i}r",
                with_constraints(plain.prompt, CONSTRAINTS),
                False,
                plain.answers,
                "number",
                twin=f"{i}a",
            ),
        ]
    return made


def said(request: Request) -> str:
    """Right when asked plainly; under constraints, right and in lower case for 0, then wrong, then long, then loud."""
    prompt = str(request.prompt)
    i = int(prompt.split()[0])
    if "\n" not in prompt:
        return f"It is {i + 1}."
    return ("it is 1.", "it is 9.", "it is the number 3.", "IT MUST BE THE NUMBER 4.")[i]


def test_constraints_and_their_price_are_averaged_over_the_items_that_state_them(
    tiny: LanguageModel, tmp_path: Path
) -> None:
    run = made_run(tmp_path, tiny, items(), [Cell()], said)
    (row,) = instruction_rows(run.records(), resamples=50)
    values = {name: (estimate.value, estimate.n) for name, estimate in row.levels.items()}
    assert values == {
        "instructions_hard": (0.5, 4),
        "instructions_soft": (pytest.approx(0.625), 4),
        "accuracy": (0.75, 4),
        "accuracy_change": (-0.25, 4),
    }


def test_prompts_without_constraints_give_no_rows(tiny: LanguageModel, tmp_path: Path) -> None:
    run = made_run(tmp_path, tiny, problems(2), [Cell()], lambda _: "It is 1.")
    assert instruction_rows(run.records()) == []
