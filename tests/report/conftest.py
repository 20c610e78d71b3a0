"""A run directory made of records written by hand: the report needs nothing else."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steerkit.engines.base import steerings_of
from steerkit.runs.cells import Cell
from steerkit.runs.directory import RunWriter
from steerkit.runs.protocol import Environment
from steerkit.runs.record import Record
from tests.sweeps.synthetic import SCORERS, grid, protocol, vector

HOSTILE = "<script>alert('answer')</script> & \"quotes\""
CELLS = grid([4, 8], [-1.0, 1.0])
BEST = Cell((vector().at(8, 1.0),))


def record(cell: Cell, number: int, abstention: bool) -> Record:
    """One record; abstention grows with the strength of the real direction."""
    strength = sum(each.strength for each in steerings_of(cell.interventions))
    unanswerable = number % 2 == 0 if abstention else None
    push = 0.3 + (0.4 * strength if cell.controls is None else 0.0) + (0.0 if unanswerable else -0.25)
    abstained = abstention and random.Random(number).random() < push
    answers = None if unanswerable else ("seven",)
    tokens = 10 + number % 5 - round(2 * strength)
    scores: dict[str, Any] = {"abstained": abstained} if abstention else {}
    scores |= {"correct": None if answers is None else not abstained, "tokens": tokens, "thinking_tokens": 0}
    scores |= {"truncated": number % 5 == 0, "repetition": 0.1, "degenerate": False}
    return Record(
        cell=cell.id,
        item=f"item-{number:02d}",
        sample=0,
        split="choose",
        group=f"item-{number // 2 * 2:02d}",
        should_abstain=unanswerable,
        answers=answers,
        kind="text",
        prompt=f"How many <b>boats</b> lie in harbour {number}?",
        completion="I don't know." if abstained else f"Seven. {HOSTILE}",
        tokens=tokens,
        finish="stop",
        scores=scores,
    )


def write_run(
    folder: Path,
    abstention: bool = True,
    cells: Sequence[Cell] = CELLS,
    split: str = "choose",
    suite: str | None = None,
    change: Callable[[Cell, Record], Record] = lambda _, made: made,
) -> Path:
    """Write a run of 20 items to `folder` and return it; `change` may alter a record before it is written."""
    scorers = SCORERS if abstention else SCORERS[1:]
    asked = protocol(split=split, model="tiny <model>", scorers=scorers)
    asked = asked if suite is None else replace(asked, suite=suite)
    environment = Environment({"steerkit": "0.1.0"}, 8, "steerkit sweep --strengths=-1:1:2 --out run")
    with RunWriter(folder, asked, environment, cells) as writer:
        for number in range(20):
            for cell in cells:
                writer.append(change(cell, record(cell, number, abstention)))
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """`write_run` to a folder of the test's own."""
    return functools.partial(write_run, tmp_path / "run")
