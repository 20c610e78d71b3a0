"""What stands between the result and the target: each part measured with the others made perfect."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steerkit.steering import ProbeGate
from steerkit.sweeps.grid import Cell
from steerkit.sweeps.store import Record


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
        abstained[record["should_abstain"]].append(record["scores"]["abstained"])
        if record["scores"]["correct"] is not None:
            correct.append(record["scores"]["correct"])
    return Outcome(float(np.mean(abstained[True])), float(np.mean(abstained[False])), float(np.mean(correct)))


def by_cell(records: Iterable[Record]) -> dict[str, dict[str, Record]]:
    """Records by cell and item."""
    found: dict[str, dict[str, Record]] = defaultdict(dict)
    for record in records:
        found[record["cell"]][record["item"]] = record
    return found


def gate_of(cell: Cell) -> ProbeGate | None:
    """The cell's probe gate."""
    gate = cell.steerings[0].gate
    return gate if isinstance(gate, ProbeGate) else None


def frontier_ratios(records: Iterable[Record], cells: Mapping[str, Cell]) -> str:
    """Over-abstention above the unsteered model's at equal recall: each gated cell against the ungated frontier.

    The ungated frontier is linear between neighbouring cells, and starts at the unsteered model.
    """
    table = by_cell(records)
    plain = outcome(next(rows for rows in table.values() if _unsteered(rows)).values())
    results = {name: outcome(table[name].values()) for name in cells if name in table}
    ungated = [results[n] for n, cell in cells.items() if n in results and gate_of(cell) is None]
    lines = [
        "| gated cell | recall | over-abstention | accuracy | ungated over-abstention, same recall | ratio of rises |",
        "|---|---|---|---|---|---|",
    ]
    ratios = []
    for name, cell in cells.items():
        if gate_of(cell) is None or name not in results:
            continue
        reached = results[name]
        price = _price(reached.recall, [plain, *ungated])
        if price is None or price <= plain.over:
            continue
        ratio = (reached.over - plain.over) / (price - plain.over)
        ratios.append(ratio)
        lines.append(f"| `{cell.steerings[0].spec()}` | {reached} | {price:.2f} | {ratio:.2f} |")
    below = np.mean([ratio <= 0.5 for ratio in ratios]) if ratios else float("nan")
    median = np.median(ratios) if ratios else float("nan")
    summary = (
        f"Median ratio {median:.2f}; at most half for {below:.0%} of the {len(ratios)} gated cells. The unsteered "
        f"model: recall {plain.recall:.2f}, over-abstention {plain.over:.2f}, accuracy {plain.accuracy:.2f}."
    )
    return summary + "\n\n" + "\n".join(lines)


def limits(records: Iterable[Record], cells: Mapping[str, Cell]) -> str:
    """Each part measured with the other two made perfect, from the records alone.

    A perfect gate steers exactly the items that should be abstained from; a perfect actuator abstains on exactly the
    items that it is let loose on and changes no other.
    """
    table = by_cell(records)
    plain = next(rows for rows in table.values() if _unsteered(rows))
    lines = ["| what | recall | over-abstention | accuracy |", "|---|---|---|---|"]
    lines.append(f"| unsteered | {outcome(plain.values())} |")
    for name, cell in cells.items():
        if name not in table:
            continue
        gate = gate_of(cell)
        if gate is None:
            mixed = [table[name][i] if row["should_abstain"] else row for i, row in plain.items()]
            lines.append(f"| real actuator, perfect gate: `{cell.steerings[0].spec()}` | {outcome(mixed)} |")
    seen = set()
    for name, cell in cells.items():
        gate = gate_of(cell)
        if gate is None or name not in table or (gate.layer, gate.threshold) in seen:
            continue
        seen.add((gate.layer, gate.threshold))
        opened = [_forced(row, table[name][i], gate) for i, row in plain.items()]
        lines.append(f"| real gate ({', '.join(gate.fields)}), perfect actuator | {outcome(opened)} |")
    lines += _best_threshold(table, cells, plain)
    return "\n".join(lines)


def _best_threshold(
    table: Mapping[str, Mapping[str, Record]], cells: Mapping[str, Cell], plain: Mapping[str, Record]
) -> list[str]:
    """The detector with a perfect actuator and the threshold that is best in hindsight, by over-abstention allowed."""
    gated = next((n for n, c in cells.items() if gate_of(c) is not None and n in table), None)
    if gated is None:
        return []
    read = {item: record["scores"]["gate_probability"] for item, record in table[gated].items()}
    lines = []
    for allowed in (0.05, 0.15, 0.3):
        negatives = sorted((read[i] for i, row in plain.items() if not row["should_abstain"]), reverse=True)
        cut = negatives[int(allowed * len(negatives))]
        fired = {i: read[i] > cut for i in plain}
        recall = np.mean([fired[i] for i, row in plain.items() if row["should_abstain"]])
        over = np.mean([fired[i] for i, row in plain.items() if not row["should_abstain"]])
        what = f"real detector, perfect actuator, threshold best in hindsight for {allowed:.0%}"
        lines.append(f"| {what} | {recall:.2f} | {over:.2f} | – |")
    return lines


def _forced(plain: Record, gated: Record, gate: ProbeGate) -> Record:
    """The unsteered record, or an abstention where the gate fired."""
    if gated["scores"]["gate_probability"] < gate.threshold:
        return plain
    correct = None if plain["scores"]["correct"] is None else False
    return {**plain, "scores": {**plain["scores"], "abstained": True, "correct": correct}}


def _unsteered(rows: Mapping[str, Record]) -> bool:
    return next(iter(rows.values()))["role"] == "unsteered"


def _price(recall: float, outcomes: Sequence[Outcome]) -> float | None:
    """The least over-abstention at which outcomes reach the recall, linear between neighbours; None beyond them."""
    points = sorted((o.recall, o.over) for o in outcomes)
    prices = []
    for (r1, o1), (r2, o2) in itertools.pairwise(points):
        if r1 <= recall <= r2:
            prices.append(o1 if r1 == r2 else o1 + (o2 - o1) * (recall - r1) / (r2 - r1))
    return min(prices, default=None)
