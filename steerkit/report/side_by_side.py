"""A cell's completions beside the unsteered ones of the same items, and which of them are another than before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from steerkit.core.prompts import as_text
from steerkit.report.examples import verdict
from steerkit.runs.record import Record

Change = Literal["all", "verdict", "wording"]
Kind = Literal["all", "to abstain from", "answerable"]
CHANGES: tuple[Change, ...] = ("all", "verdict", "wording")
KINDS: tuple[Kind, ...] = ("all", "to abstain from", "answerable")


@dataclass(frozen=True)
class Beside:
    """A completion, and the unsteered one of the same item and sample; None where that is not recorded."""

    record: Record
    unsteered: Record | None

    @property
    def new_verdict(self) -> bool:
        """Whether the scorers find another outcome (abstained, correct, wrong, answered)."""
        return self.unsteered is not None and verdict(self.record).outcome != verdict(self.unsteered).outcome

    @property
    def new_wording(self) -> bool:
        """Whether the completion is another text."""
        return self.unsteered is not None and self.record.completion != self.unsteered.completion


def beside_unsteered(records: Iterable[Record], cell: str, unsteered: str | None) -> list[Beside]:
    """Return the completions of a cell (its id) beside those of the `unsteered` one, by item and sample.

    `records` are those of both, in any order.
    """
    of_cell, plain = [], {}
    for record in records:
        if record.cell == cell:
            of_cell.append(record)
        if record.cell == unsteered:
            plain[record.item, record.sample] = record
    of_cell.sort(key=lambda record: (record.item, record.sample))
    return [Beside(record, plain.get((record.item, record.sample))) for record in of_cell]


def filtered(
    rows: Sequence[Beside], change: Change = "all", kind: Kind = "all", containing: str = ""
) -> list[Beside]:
    """Return the rows whose verdict or wording is new, of one kind of question, in which a text occurs.

    The text is looked for in the prompt and in both completions, whatever its case.
    """
    text = containing.strip().casefold()
    return [
        row
        for row in rows
        if (change == "all" or (row.new_verdict if change == "verdict" else row.new_wording))
        and (kind == "all" or row.record.should_abstain is (kind == "to abstain from"))
        and (not text or text in _words(row))
    ]


def _words(row: Beside) -> str:
    plain = "" if row.unsteered is None else row.unsteered.completion
    return "\n".join((as_text(row.record.prompt), row.record.completion, plain)).casefold()
