"""Records of small sums, made by hand: who is right on which, and who says so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from steerkit.engines.base import Completion, Request
from steerkit.runs.cells import Cell
from steerkit.runs.record import Record
from steerkit.scoring.score import score_completion
from steerkit.suites.items import SuiteItem
from steerkit.suites.suite import Suite
from steerkit.sweeps.runner import make_record

ITEMS = tuple(
    SuiteItem(f"brevity-1-{n:04d}a", f"What is {n} and 1?", False, (str(n + 1),), "number") for n in range(20)
)
LACKING = tuple(
    SuiteItem(f"brevity-1-{n:04d}u", f"What is some number above {n} and 1?", True) for n in range(20)
)
SUITE = Suite("sums", ITEMS)
PLAIN = Cell()


def records(right: Sequence[int], tokens: int, cell: Cell = PLAIN) -> Iterator[Record]:
    """Each sum's record: the answer where its number is in `right`, else a wrong one."""
    for n, item in enumerate(ITEMS):
        yield record(item, f"The answer is {n + 1 if n in right else 999}.", tokens, cell)


def abstentions(
    known: Sequence[int], lacking: Sequence[int], cell: Cell = PLAIN, right: Sequence[int] = range(20)
) -> list[Record]:
    """Records of sums and of those that lack a number: abstained from `known` and `lacking`, right on `right`."""
    no_idea = "I don't know."
    sums = [
        record(ITEMS[n], no_idea, 5, cell) if n in known else some
        for n, some in enumerate(records(right, 5, cell))
    ]
    return sums + [record(LACKING[n], no_idea if n in lacking else "It is 7.", 5, cell) for n in range(20)]


def record(item: SuiteItem, text: str, tokens: int, cell: Cell = PLAIN) -> Record:
    """The record of one completion."""
    completion = Completion(Request(item.prompt), text, tuple(range(tokens)), "stop", 5)
    return make_record(cell, item, 0, completion, score_completion(item, completion))
