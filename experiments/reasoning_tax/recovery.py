"""What a choice gave back and what it cost: the table of "paid back", on `report`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from experiments.reasoning_tax.results import compared, estimate, number, share_recovered
from steerkit.analysis.summary import Row
from steerkit.engines.base import steerings_of
from steerkit.runs.cells import Cell, RunCell
from steerkit.runs.record import Record

# The target: all of the base's recall, at 5 points more over-abstention than the base had, accuracy within 2 points of
# the tuned model's.
ROOM, DROP = 0.05, 0.02
BEFORE, AFTER = "before fine-tuning", "after it"
COLUMNS = ("recall", "over-abstention", "accuracy", "tokens", "of the loss", "target")


def recovery(
    base: Iterable[Record],
    tuned: Iterable[Record],
    chosen: Mapping[str, Iterable[Record]],
    cells: Mapping[str, Cell],
) -> str:
    """A line for the base, the tuned model and each choice, all on the same items in the same condition.

    Recall and over-abstention change against the base, accuracy and tokens against the tuned model.
    """
    records = {
        BEFORE: list(base),
        AFTER: list(tuned),
        **{label: list(some) for label, some in chosen.items()},
    }
    against_base = compared(records)
    against_tuned = compared({label: some for label, some in records.items() if label != BEFORE})
    lines = [f"| | cell | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for label, some in records.items():
        row, beside = against_base[label], against_tuned.get(label)
        values = [_shown(row, "abstention_recall"), _shown(row, "over_abstention")]
        values += [_shown(beside or row, "accuracy"), _shown(beside or row, "tokens"), "", ""]
        if label in chosen and beside is not None:
            values[-2:] = [_given_back(records[BEFORE], records[AFTER], some), verdict(row, beside)]
        lines.append(f"| {label} | {_spec(cells[label]) if label in chosen else ''} | {' | '.join(values)} |")
    return "\n".join(lines)


def verdict(row: Row, beside: Row) -> str:
    """Whether the target is met, by point estimates; what it fails in otherwise.

    The changes of `row` are against the base, those of `beside` against the tuned model.
    """
    failed = {
        "recall": row.changes["abstention_recall"].value < 0,
        "over-abstention": row.changes["over_abstention"].value > ROOM,
        "accuracy": beside.changes["accuracy"].value < -DROP,
    }
    missed = [name for name, is_so in failed.items() if is_so]
    return f"missed: {', '.join(missed)}" if missed else "met"


def _given_back(base: list[Record], tuned: list[Record], steered: list[Record]) -> str:
    share = share_recovered(base, tuned, steered)
    return "nothing was lost" if share is None else estimate(share)


def _shown(row: Row, metric: str) -> str:
    if metric not in row.levels:
        return "–"
    if row.role == "unsteered":
        return estimate(row.levels[metric])
    return f"{number(row.levels[metric].value)} ({estimate(row.changes[metric], '+')})"


def _spec(cell: Cell) -> str:
    at = RunCell.of(cell)
    acting = [*(str(steering.open) for steering in steerings_of(cell.interventions)), *at.exact_edits]
    gates = [f" under {gate}" for gate in at.gates]
    return f"`{' with '.join(acting)}{''.join(gates)}`".replace("|", "/")
