"""What gated cells give, put together from cells that were measured without their gate.

A row gate is read once, from the unsteered and unedited prompt, and where it stays shut its intervention is not there.
So a gated completion is that of the same cell without the gate where the gate opens, and the unsteered model's where
it does not: once a single cell has been measured under a gate, every threshold of that gate is known for every cell.

The verdicts are those of a measurement but for rounding. In half precision, rows that share a batch change each
other's last bits: of 45,500 completions of the bundled model in bfloat16, measured under a gate and put together, 94%
were the same text and 99.96% were scored alike for abstention.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from steerkit.core.errors import MisuseError
from steerkit.engines.base import GateReading
from steerkit.interventions.gate import RowGate
from steerkit.runs.cells import Cell
from steerkit.runs.record import Record

Place = tuple[str, int]  # item and sample


def without_gates(cell: Cell) -> Cell:
    """Return the cell with its interventions ungated."""
    return Cell(tuple(each.open for each in cell.interventions), cell.controls)


def gate_of(cell: Cell) -> RowGate | None:
    """Return the one row gate that all interventions of a cell share; None for a cell without any gate.

    Raises MisuseError for gates that differ, that some interventions lack, or that read positions.
    """
    gates = {json.dumps(gate.to_json()): gate for each in cell.interventions if (gate := each.gate)}
    if not gates:
        return None
    (gate, *others) = gates.values()
    if others or not isinstance(gate, RowGate) or any(each.gate is None for each in cell.interventions):
        raise MisuseError(
            f"cell {cell!r} can only be measured: one gate that is read once a row has to hold for all of it"
        )
    return gate


def detector_of(gate: RowGate) -> str:
    """Return what a gate reads, whatever its threshold, as a key."""
    return json.dumps({**gate.to_json(), "threshold": None}, sort_keys=True)


def composed(records: Iterable[Record], wanted: Iterable[Cell], measured: Iterable[Cell]) -> list[Record]:
    """Return the records that the `wanted` gated cells have, from those of the `measured` ones.

    Needed are the unsteered cell, each wanted cell without its gate, and any one cell under the same probe or detector,
    at whatever threshold, which has its reading of each item. Items that one of them lacks are left out, and wanted
    cells that were measured are, too. Raises MisuseError, naming it, for a cell that is needed and was not measured.
    """
    known = {cell.id: cell for cell in measured}
    found: dict[str, dict[Place, Record]] = defaultdict(dict)
    for record in records:
        if record.cell in known:
            found[record.cell][record.item, record.sample] = record
    readings = _readings(found, known)
    made: list[Record] = []
    for cell in wanted:
        gate = gate_of(cell)
        if gate is None or cell.id in known:
            continue
        twin, read = without_gates(cell), readings.get(detector_of(gate))
        for needed in (Cell(), twin):
            if needed.id not in known:
                raise MisuseError(f"{cell!r} cannot be put together: {needed!r} was not measured")
        if read is None:
            raise MisuseError(f"{cell!r} cannot be put together: no cell under its gate was measured")
        made += _gated(cell, gate, found[Cell().id], found[twin.id], read)
    return made


def _readings(
    found: Mapping[str, Mapping[Place, Record]], cells: Mapping[str, Cell]
) -> dict[str, dict[Place, float]]:
    """What each detector gave each item, from the records of the cells under it."""
    readings: dict[str, dict[Place, float]] = defaultdict(dict)
    for cell, records in found.items():
        if gate := _row_gate(cells[cell]):
            for place, record in records.items():
                if (probability := record.gates[0].probability) is not None:
                    readings[detector_of(gate)][place] = probability
    return readings


def _row_gate(cell: Cell) -> RowGate | None:
    """The first gate of a measured cell, where it is one of rows."""
    gate = next((each.gate for each in cell.interventions if each.gate is not None), None)
    return gate if isinstance(gate, RowGate) else None


def _gated(
    cell: Cell,
    gate: RowGate,
    plain: Mapping[Place, Record],
    acting: Mapping[Place, Record],
    read: Mapping[Place, float],
) -> list[Record]:
    """The gated cell's records: those of `acting` where the gate fires, those of `plain` where it does not."""
    made: list[Record] = []
    for place in sorted(plain.keys() & acting.keys() & read.keys()):
        fired = read[place] >= gate.threshold
        gates: Sequence[GateReading] = [
            GateReading(number, gate.name, read[place], fired) for number in range(len(cell.interventions))
        ]
        source = acting if fired else plain
        made.append(replace(source[place], cell=cell.id, gates=tuple(gates)))
    return made
