"""What is measured: the grid of actuators, the rules that pick from it, and the controls of what was picked."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import steerkit as sk
from steerkit.analysis.choosing import choose_cell
from steerkit.analysis.summary import Row
from steerkit.runs.cells import Cell
from steerkit.sweeps.confirmation import relative_doses
from steerkit.sweeps.grid import distinct

STRENGTHS = (0.5, 0.75, 1.0, 1.25)
CONTROLLED = (0.5, 1.0, 1.25)  # random directions are measured at the doses that these strengths have
EDITS = ("dont-know-system", "dont-know-instruction", "refusal-bias@bias=2", "refusal-bias@bias=4")
RULES = {
    "strict": "recall s.t. over_abstention_rise<=0.05, accuracy_drop<=0.02",
    "bounded": "recall s.t. over_abstention_rise<=0.15",
    "open": "recall s.t. degenerate_rise<=0.1",
}
Gates = Sequence[sk.ProbeGate | None]
Picked = Mapping[tuple[str, str, bool], Cell | None]  # by rule, actuator, and whether it is gated


def grid(
    vectors: Mapping[str, sk.SteeringVector], layers: Sequence[int], probe: sk.Probe
) -> tuple[list[Cell], list[Cell]]:
    """Every actuator, ungated and under each of the probe's thresholds; and random directions beside one of them.

    The question contrast is some twenty times shorter than the others, so it is measured at the strengths that give
    it the response contrast's relative doses; the random directions are of its norm, at the same strengths.
    """
    gates: Gates = [None, *gates_of(probe)]
    response, question = vectors["response"], vectors["question"]
    others = [vector for name, vector in vectors.items() if name != "question"]
    edits = [replace(edit, gate=gate) for edit in sk.parse_all(EDITS) for gate in gates]
    cells = sk.Grid(
        others, layers, STRENGTHS, {"gate": gates}, cells_beside=edits, control_strengths=()
    ).cells()
    beside = []
    for layer in layers:
        own = {strength: matched_strength(question, response, layer, strength) for strength in STRENGTHS}
        controlled = [own[strength] for strength in CONTROLLED]
        made = sk.Grid(question, layer, own.values(), {"gate": gates}, control_strengths=controlled).cells()
        cells += [cell for cell in made if cell.role != "random"]
        beside += [cell for cell in made if cell.role == "random"]
    return distinct(cells), beside


def gates_of(probe: sk.Probe) -> list[sk.ProbeGate]:
    """The probe at each of its thresholds, the one that fires least leading."""
    return [sk.ProbeGate(probe, t.layer, t.threshold) for t in probe.metadata.thresholds]


def gate_with_budget(probe: sk.Probe, budget: float) -> sk.ProbeGate:
    """The probe at the threshold that was chosen for this share of false positives."""
    found = next(t for t in probe.metadata.thresholds if t.budget == budget)
    return sk.ProbeGate(probe, found.layer, found.threshold)


def matched_strength(vector: sk.SteeringVector, to: sk.SteeringVector, layer: int, strength: float) -> float:
    """The strength at which `vector` has the relative dose of `to` at `strength`, to a hundredth."""
    own, wanted = vector.relative_dose(layer, 1.0), to.relative_dose(layer, strength)
    assert own is not None
    assert wanted is not None
    return round(wanted / own, 2)


def actuator(cell: Cell) -> tuple[str, bool]:
    """What acts, and whether a gate decides when."""
    (acting,) = cell.interventions
    return acting.label, acting.gate is not None


def choices(rows: Sequence[Row], cells: Sequence[Cell]) -> Picked:
    """For each rule, actuator, and gated or not: the cell that the rule picks, None where none meets its bounds."""
    acting = [cell for cell in cells if cell.interventions]
    by_id, doses = {cell.id: cell for cell in acting}, relative_doses(acting)
    picked: dict[tuple[str, str, bool], Cell | None] = {}
    for rule, (name, gated) in itertools.product(RULES, dict.fromkeys(map(actuator, acting))):
        own = {cell.id for cell in acting if actuator(cell) == (name, gated)}
        row = choose_cell([r for r in rows if r.cell in own], RULES[rule], doses=doses)
        picked[rule, name, gated] = by_id[row.cell] if row else None
    return picked


def controls(cells: Sequence[Cell], seeds: Iterable[int] = (0,)) -> list[Cell]:
    """Random directions of the same norm, one a seed, in the place of each chosen vector, under the same gate."""
    return [
        Cell((replace(steering, vector=steering.vector.random_control(seed)),), steering.vector.name)
        for cell, seed in itertools.product(cells, seeds)
        for steering in cell.interventions
        if isinstance(steering, sk.Steering)
    ]
