"""Gates read once and applied afterwards: what a gated cell would have recorded.

A probe gate reads the unsteered, unedited prompt, and a row for which it stays shut is the unsteered row. Rows
are decoded greedily and apart. So a gated cell's record of an item is the ungated cell's where the gate fires, else
the unsteered one, and one measurement of a cell gives it under every gate and threshold (a test compares with the
engine's own gates). Thresholds come from `choose`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import steerkit as sk
from steerkit.extraction.pairs import LabelledPrompts, labelled_prompts
from steerkit.extraction.probe_fit import ALMOST_NEVER, cut_within, prompt_states
from steerkit.runs.cells import Cell
from steerkit.runs.record import Record
from steerkit.suites.suite import Suite

BUDGETS = (0.05, 0.1, 0.2)  # shares of the answerable items of `choose` for which a gate may fire


@dataclass(frozen=True)
class Reading:
    """A probe's gates, one for each budget, and what it reads from each item of the splits that are measured."""

    gates: Sequence[sk.ProbeGate]
    probability: Mapping[str, float]

    @property
    def name(self) -> str:
        """The probe's name."""
        return self.gates[0].probe.name

    def fires(self, gate: sk.ProbeGate, item: str) -> bool:
        """Whether a gate opens for an item."""
        return self.probability[item] >= gate.threshold


def fitted(lm: sk.LanguageModel, path: Path, data: LabelledPrompts) -> sk.Probe:
    """The model's probe for what should be abstained from, named after its file, in which it is kept."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        sk.fit_probe(lm, data, name=path.stem).save(path)
    return sk.load_probe(path)


def reading(lm: sk.LanguageModel, probe: sk.Probe, choose: Suite, report: Suite) -> Reading:
    """The probe's gates with thresholds from `choose`, and its reading of both splits."""
    probability = readings(lm, probe, choose) | readings(lm, probe, report)
    read = np.array([probability[item.id] for item in choose])
    labels = np.array([bool(item.should_abstain) for item in choose])
    gates = []
    for budget in BUDGETS:
        cut = float(np.clip(cut_within(read, labels, budget), ALMOST_NEVER, 1 - ALMOST_NEVER))
        gates.append(sk.ProbeGate(probe, probe.metadata.layer, cut))
    return Reading(gates, probability)


def readings(lm: sk.LanguageModel, probe: sk.Probe, suite: Suite) -> dict[str, float]:
    """A probe's probability for each item."""
    data = labelled_prompts(suite)
    layer = probe.metadata.layer
    states = torch.from_numpy(prompt_states(lm, data)[:, layer])
    found = probe.logit(layer, states).double().sigmoid().tolist()
    return {example.id: value for example, value in zip(data.examples, found, strict=True)}


def under_gate(cell: Cell, gate: sk.ProbeGate) -> Cell:
    """The cell with all that it does under a gate."""
    return Cell(tuple(replace(each, gate=gate) for each in cell.interventions), cell.controls)


def gated(
    cell: Cell,
    acting: Mapping[str, Record],
    plain: Mapping[str, Record],
    found: Reading | None,
    gate: sk.ProbeGate | None,
) -> Iterator[Record]:
    """What `cell` would have recorded: the acting cell's record of an item where the gate fires, else the plain one."""
    for item, record in plain.items():
        fires = gate is None or (found is not None and found.fires(gate, item))
        yield replace(acting[item] if fires else record, cell=cell.id)
