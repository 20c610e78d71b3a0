"""N and N-1 twins: does a model read the problem, or does it fill in a template?

Twins are two items of one group. Their second differs from the first in one thing:
- `number`: one number, and so the answer. Right is the answer; `unmoved` are the pairs that get one number for both.
- `premise`: one premise is gone, so that nothing can be answered. Right is the answer, then an abstention.

The gap is the share that is right on N minus the share on N-1, pair by pair; `both` the share of pairs that are
right on both. The diagnostic is after Bernier et al. 2026, arXiv 2603.23004 (N and N-1 power grids), of which only the
idea is taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from steerkit.analysis.summary import Row
from steerkit.chains.summary import Measured, rows_of
from steerkit.core.bootstrap import RESAMPLES
from steerkit.runs.directory import Record
from steerkit.scoring.answers import final_number
from steerkit.scoring.reply import final_reply

Kind = Literal["number", "premise"]
KINDS: tuple[Kind, ...] = ("number", "premise")
TWIN_METRICS = {
    "whole": "right on N",
    "changed": "right on N-1",
    "gap": "gap, N minus N-1",
    "both": "right on both",
    "unmoved": "same number for both",
}


def twin_rows(records: Iterable[Record], kind: Kind, resamples: int = RESAMPLES, seed: int = 0) -> list[Row]:
    """A row a cell over the pairs of this kind, unsteered first; estimates by the names of TWIN_METRICS.

    Of an item's samples the first of one twin stands beside the first of the other, and so on. Pairs of which one
    twin is not there or cannot be judged are left out; no rows where no pair is of this kind.
    """
    fields: dict[str, Record] = {}
    places: dict[tuple[str, str, int], list[Record]] = {}
    for record in records:
        fields.setdefault(record["cell"], record)
        places.setdefault((record["cell"], record["group"], record["sample"]), []).append(record)
    measured = [
        Measured(cell, metric, group, group, float(value))
        for (cell, group, _), twins in places.items()
        if kind_of(twins) == kind
        for metric, value in _compared(kind, *_in_order(twins)).items()
    ]
    return rows_of(fields, measured, resamples, seed)


def kind_of(twins: list[Record]) -> Kind | None:
    """How the items of one group differ; None where they are no two twins that can be judged."""
    if len(twins) != 2:
        return None
    first, second = _in_order(twins)
    if first["should_abstain"] is not False or first["scores"]["correct"] is None:
        return None
    if second["should_abstain"]:
        return "premise"
    return "number" if second["answers"] and second["answers"] != first["answers"] else None


def _in_order(twins: list[Record]) -> tuple[Record, Record]:
    """N, then N-1: the answerable one first, and of two answerable ones the one that the group is named after."""
    first, second = sorted(twins, key=lambda record: (bool(record["should_abstain"]), record["item"]))
    return first, second


def _compared(kind: Kind, first: Record, second: Record) -> dict[str, bool | int]:
    whole = first["scores"]["correct"]
    changed = second["scores"]["abstained" if kind == "premise" else "correct"]
    values: dict[str, bool | int] = {
        "whole": whole,
        "changed": changed,
        "gap": int(whole) - int(changed),
        "both": whole and changed,
    }
    if kind == "number":
        numbers = [final_number(final_reply(record["completion"])) for record in (first, second)]
        values["unmoved"] = numbers[0] is not None and numbers[0] == numbers[1]
    return values
