"""What a reader must know before quoting a number from a run, from the run's own numbers."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit.analysis.summary import Row
from steerkit.report.tables import cell_name, cell_strength
from steerkit.runs.protocol import Protocol

NOTABLE_RATE = 0.1
SPLIT_NOTES = {
    "fit": "The items are of the split fit: vectors may have been extracted from or calibrated on them.",
    "choose": "The items are of the split choose: pick a cell here, then measure it once on report.",
    "report": "The items are of the split report: a cell shown as a result was to be picked on choose.",
}
INTERVAL_NOTE = (
    "Intervals are 95% percentile intervals of a paired bootstrap over items, twins resampled together. They "
    "speak for other questions of this kind, not for other suites, prompts or models. One without width says "
    "that no item differed, which is not certainty."
)


def caveats(rows: Sequence[Row], protocol: Protocol) -> list[str]:
    """One sentence or two for each caveat that applies, the most general first."""
    notes = [
        _comparisons(rows),
        SPLIT_NOTES.get(protocol.split, f"The items are of the split {protocol.split}."),
        INTERVAL_NOTE,
        _truncation(rows, protocol.decoding.max_new_tokens),
        _degeneration(rows),
        _unequal_cells(rows),
    ]
    if protocol.decoding.temperature == 0:
        notes.append("Decoding was greedy: the intervals hold no variation from sampling.")
    return [note for note in notes if note is not None]


def _comparisons(rows: Sequence[Row]) -> str:
    roles = [row.role for row in rows]
    controls = roles.count("random")
    beside = (
        f"beside {controls} random controls"
        if controls
        else "without a random control: what a push of equal size in any direction does is not known here"
    )
    return (
        f"{roles.count('steered')} steered cells were compared, {beside}. The best of many cells looks better "
        "than it is, and the intervals are not corrected for that."
    )


def _truncation(rows: Sequence[Row], limit: int) -> str | None:
    worst = max(rows, key=lambda row: _level(row, "truncated"))
    if _level(worst, "truncated") <= NOTABLE_RATE:
        return None
    return (
        f"Up to {_level(worst, 'truncated'):.0%} of a cell's completions ({_full_name(worst)}) were cut off "
        f"at {limit} tokens: their lengths are lower bounds, and what they would have said later was not "
        "scored."
    )


def _degeneration(rows: Sequence[Row]) -> str | None:
    bad = sum(_level(row, "degenerate") > NOTABLE_RATE for row in rows)
    if not bad:
        return None
    return (
        f"In {bad} of {len(rows)} cells more than {NOTABLE_RATE:.0%} of the completions degenerated "
        "(repeated themselves): an abstention there may be mere breakage."
    )


def _unequal_cells(rows: Sequence[Row]) -> str | None:
    sizes = [row.n_items for row in rows]
    if min(sizes) == max(sizes):
        return None
    return (
        f"Cells hold between {min(sizes)} and {max(sizes)} items: the run is not complete, or was extended. "
        "Levels of different cells are then over different items; changes are over common ones."
    )


def _level(row: Row, metric: str) -> float:
    return row.levels[metric].value if metric in row.levels else 0.0


def _full_name(row: Row) -> str:
    name = f"random for {row.at.controls}" if row.role == "random" else cell_name(row)
    return name if row.at.layer is None else f"{name}, layer {row.at.layer}, strength {cell_strength(row)}"
