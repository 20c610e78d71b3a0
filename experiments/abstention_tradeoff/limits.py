"""What stands between the result and the target: each part measured with the others made perfect.

The parts are the probe, its threshold and the actuator; all are seen through the phrase scorer, which errs by itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

import steerkit as sk
from experiments.abstention_tradeoff.tables import shown
from steerkit.interventions.base import reference
from steerkit.runs.cells import Cell
from steerkit.runs.record import Record

PLAIN = Cell().id
RESAMPLES = 1000
HIGH_RECALL = 0.4


@dataclass(frozen=True)
class Outcome:
    """Abstention recall, over-abstention and accuracy of one way of answering the items."""

    recall: float
    over: float
    accuracy: float

    def __str__(self) -> str:
        return f"{self.recall:.2f} | {self.over:.2f} | {self.accuracy:.2f}"


def outcome(records: Iterable[Record]) -> Outcome:
    """The three numbers over some records, one an item."""
    abstained: dict[bool, list[bool]] = defaultdict(list)
    correct = []
    for record in records:
        abstained[record.should_abstain].append(record.scores["abstained"])
        if record.scores.get("correct") is not None:
            correct.append(record.scores["correct"])
    return Outcome(float(np.mean(abstained[True])), float(np.mean(abstained[False])), float(np.mean(correct)))


def by_cell(records: Iterable[Record]) -> dict[str, dict[str, Record]]:
    """Records by cell and item."""
    found: dict[str, dict[str, Record]] = defaultdict(dict)
    for record in records:
        found[record.cell][record.item] = record
    return found


def gate_of(cell: Cell) -> sk.ProbeGate | None:
    """The cell's probe gate."""
    gate = cell.interventions[0].gate
    return gate if isinstance(gate, sk.ProbeGate) else None


def frontier_ratios(records: Iterable[Record], cells: Mapping[str, Cell]) -> str:
    """Over-abstention above the unsteered model's at equal recall: each gated cell against the ungated frontier.

    The ungated frontier is the lower convex hull of the ungated cells and the unsteered model: what can be had by
    answering some questions under one cell and the rest under another. Intervals: bootstrap over twin groups, of the
    whole comparison, hull included.
    """
    table = {name: rows for name, rows in by_cell(records).items() if name in cells or name == PLAIN}
    ungated = [name for name in table if name == PLAIN or gate_of(cells[name]) is None]
    gated = [name for name in table if name not in ungated]
    if not gated:
        return "No gated cell was measured."
    rates = _Rates(table)
    recall, over = rates.of(np.ones(rates.n_groups))
    ratio, price = _ratios(recall, over, ungated, gated)
    lines = [
        "| gated cell | recall | over-abstention | ungated over-abstention, same recall | ratio of rises |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| `{shown(str(cells[name].interventions[0]))}` | {recall[name]:.2f} | {over[name]:.2f} | {price[name]:.2f} | "
        f"{ratio[name]:.2f} |"
        for name in ratio
    ]
    draws = np.random.default_rng(0).multinomial(
        rates.n_groups, np.full(rates.n_groups, 1 / rates.n_groups), size=RESAMPLES
    )
    resampled = [_ratios(*rates.of(draw.astype(float)), ungated, gated)[0] for draw in draws]
    summaries = []
    for title, wanted in (
        ("all", ratio),
        ("recall of 0.4 and more", [n for n in ratio if recall[n] >= HIGH_RECALL]),
    ):
        own = [ratio[name] for name in wanted]
        if not own:
            continue
        medians = [np.median(kept) for r in resampled if (kept := [r[name] for name in wanted if name in r])]
        low, high = np.quantile(medians, [0.025, 0.975])
        summaries.append(
            f"{title}: median ratio {np.median(own):.2f} [{low:.2f}, {high:.2f}], at most half for "
            f"{np.mean([value <= 0.5 for value in own]):.0%} of {len(own)}"
        )
    return f"Gated cells, {'; '.join(summaries)}.\n\n" + "\n".join(lines)


class _Rates:
    """Recall and over-abstention of every cell, for any weighting of the twin groups."""

    def __init__(self, table: Mapping[str, Mapping[str, Record]]) -> None:
        items = sorted(set.intersection(*(set(rows) for rows in table.values())))
        first = next(iter(table.values()))
        groups = {group: i for i, group in enumerate(sorted({first[i].group for i in items}))}
        self.n_groups = len(groups)
        self._group = np.array([groups[first[i].group] for i in items])
        self._should = np.array([first[i].should_abstain for i in items])
        self._names = list(table)
        self._abstained = np.array(
            [[rows[i].scores["abstained"] for i in items] for rows in table.values()], dtype=float
        )

    def of(self, weights: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
        """Both rates by cell, with weights `[group]`."""
        each = weights[self._group]
        recall, over = (
            self._abstained @ (each * side) / (each @ side) for side in (self._should, ~self._should)
        )
        return dict(zip(self._names, recall, strict=True)), dict(zip(self._names, over, strict=True))


def _ratios(
    recall: Mapping[str, float],
    over: Mapping[str, float],
    ungated: Sequence[str],
    gated: Sequence[str],
) -> tuple[dict[str, float], dict[str, float]]:
    """By gated cell within the hull's reach: the ratio of its rise to the hull's at its recall, and the hull there."""
    hull = lower_hull([(recall[name], over[name]) for name in ungated])
    prices = {name: price for name in gated if (price := price_on(hull, recall[name])) is not None}
    prices = {name: price for name, price in prices.items() if price > over[PLAIN]}
    return {n: (over[n] - over[PLAIN]) / (price - over[PLAIN]) for n, price in prices.items()}, prices


def lower_hull(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The lower convex hull of (recall, over-abstention), by recall."""
    hull: list[tuple[float, float]] = []
    for x, y in sorted(points):
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (x - hull[-2][0]) >= (y - hull[-2][1]) * (
            hull[-1][0] - hull[-2][0]
        ):
            hull.pop()
        if not hull or x > hull[-1][0]:
            hull.append((x, y))
    return hull


def price_on(hull: Sequence[tuple[float, float]], recall: float) -> float | None:
    """Over-abstention on the hull at a recall; None outside of it."""
    if not hull or not hull[0][0] <= recall <= hull[-1][0]:
        return None
    return float(np.interp(recall, *zip(*hull, strict=True)))


def limits(records: Iterable[Record], cells: Mapping[str, Cell]) -> str:
    """Each part measured with the other two made perfect, from the records alone.

    A perfect gate steers exactly the items that should be abstained from; a perfect actuator abstains on exactly the
    items that it is let loose on and changes no other.
    """
    table = by_cell(records)
    plain = table[PLAIN]
    lines = ["| what | recall | over-abstention | accuracy |", "|---|---|---|---|"]
    lines.append(f"| unsteered | {outcome(plain.values())} |")
    for name, cell in cells.items():
        if name not in table:
            continue
        gate = gate_of(cell)
        if gate is None:
            mixed = [table[name][i] if row.should_abstain else row for i, row in plain.items()]
            lines.append(
                f"| real actuator, perfect gate: `{shown(str(cell.interventions[0]))}` | {outcome(mixed)} |"
            )
    seen = set()
    for name, cell in cells.items():
        gate = gate_of(cell)
        if gate is None or name not in table or (gate.layer, gate.threshold) in seen:
            continue
        seen.add((gate.layer, gate.threshold))
        opened = [_forced(row) if table[name][i].gates[0].fired else row for i, row in plain.items()]
        fields = ", ".join(f"{key}={value}" for key, value in gate.fields(reference))
        lines.append(f"| real gate ({shown(fields)}), perfect actuator | {outcome(opened)} |")
    lines += _best_threshold(table, cells, plain)
    return "\n".join(lines)


def _best_threshold(
    table: Mapping[str, Mapping[str, Record]], cells: Mapping[str, Cell], plain: Mapping[str, Record]
) -> list[str]:
    """The probe with a perfect actuator and the threshold that is best in hindsight, by over-abstention allowed."""
    gated = next((n for n, c in cells.items() if gate_of(c) is not None and n in table), None)
    if gated is None:
        return []
    read = {item: record.gates[0].probability for item, record in table[gated].items()}
    lines = []
    for allowed in (0.05, 0.15, 0.3):
        negatives = sorted((read[i] for i, row in plain.items() if not row.should_abstain), reverse=True)
        cut = negatives[int(allowed * len(negatives))]
        fired = {i: read[i] > cut for i in plain}
        recall = np.mean([fired[i] for i, row in plain.items() if row.should_abstain])
        over = np.mean([fired[i] for i, row in plain.items() if not row.should_abstain])
        what = f"real probe, perfect actuator, threshold best in hindsight for {allowed:.0%}"
        lines.append(f"| {what} | {recall:.2f} | {over:.2f} | – |")
    return lines


def _forced(plain: Record) -> Record:
    """The record of an abstention in the unsteered one's place."""
    correct = None if plain.scores.get("correct") is None else False
    return replace(plain, scores={**plain.scores, "abstained": True, "correct": correct})
