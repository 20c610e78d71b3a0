"""Instruction following, from the records of any run whose prompts state constraints."""

from __future__ import annotations

from collections.abc import Iterable

from steerkit.analysis.summary import Row
from steerkit.chains.summary import Measured, rows_of
from steerkit.core.bootstrap import RESAMPLES
from steerkit.runs.directory import Record
from steerkit.scoring.instructions import instruction_scores
from steerkit.scoring.reply import final_reply

INSTRUCTION_METRICS = {
    "instructions_hard": "all constraints followed",
    "instructions_soft": "share of constraints followed",
    "accuracy": "accuracy under constraints",
    "accuracy_change": "accuracy, constraints minus plain twin",
}


def instruction_rows(records: Iterable[Record], resamples: int = RESAMPLES, seed: int = 0) -> list[Row]:
    """A row a cell over the items whose prompts state constraints, unsteered first.

    Estimates go by the names of INSTRUCTION_METRICS. The change of accuracy is against the twin that asks the same
    question without constraints, where there is one. No rows where no prompt states a constraint. Thinking that never
    closed leaves no reply, which follows none.
    """
    fields: dict[str, Record] = {}
    measured: list[Measured] = []
    pairs: dict[tuple[str, str, int], dict[bool, float]] = {}
    for record in records:
        fields.setdefault(record["cell"], record)
        values: dict[str, float | None] = dict(instruction_scores(record["prompt"], _reply(record)))
        correct = record["scores"]["correct"]
        if correct is not None:
            place = record["cell"], record["group"], record["sample"]
            pairs.setdefault(place, {})[bool(values)] = float(correct)
        if values:
            values["accuracy"] = correct
            measured += [
                Measured(record["cell"], metric, record["item"], record["group"], float(value))
                for metric, value in values.items()
                if value is not None
            ]
    measured += [
        Measured(cell, "accuracy_change", f"{group} as twins", group, twins[True] - twins[False])
        for (cell, group, _), twins in pairs.items()
        if len(twins) == 2
    ]
    return (
        rows_of(fields, measured, resamples, seed)
        if any(m.metric == "instructions_hard" for m in measured)
        else []
    )


def _reply(record: Record) -> str:
    unanswered = 0 < record["tokens"] == record["scores"]["thinking_tokens"]
    return "" if unanswered else final_reply(record["completion"])
