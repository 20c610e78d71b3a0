"""Row gates: read from the unsteered, unedited prompt before a row exists, and gone from it once they are read.

A row gate decides once per row, so a row whose gates have been read is a row with fewer interventions and none that a
row gate guards: nothing downstream knows of them. The reading depends on prompt and detector alone, and is made once
for all cells of an item. The pass that reads probes ends at the last block that one of them reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from torch import Tensor

from steerkit.core.errors import SteerkitError
from steerkit.core.prompts import Prompt
from steerkit.core.registry import GATES
from steerkit.core.sites import Place, SiteName
from steerkit.engines.base import GateReading
from steerkit.engines.forward import in_passes, last_states
from steerkit.engines.shortcuts import aligns
from steerkit.interventions.base import Intervention, log_odds_of, probability_of
from steerkit.interventions.gate import DetectorGate, ProbeGate, RowGate
from steerkit.models import LanguageModel

READ_TOKENS = 2048
PromptIds = tuple[int, ...]
Asked = tuple[Prompt, PromptIds, Sequence[Intervention]]  # a prompt, its tokens, what is asked for there
Kind = TypeVar("Kind", bound=Intervention)


def row_gates(interventions: Iterable[Intervention]) -> list[RowGate]:
    """Return the gates that decide row by row, in the order of the interventions."""
    return [each.gate for each in interventions if isinstance(each.gate, RowGate)]


class Readings:
    """Log-odds that gates read from unsteered prompts; each is computed once."""

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm
        self._log_odds: dict[tuple[PromptIds, str], float] = {}

    def read(self, asked: Iterable[Asked]) -> None:
        """Read the probes that are asked for and not known yet, many prompts a pass; forget what is not asked for."""
        gates = _by_reading(asked)
        self._log_odds = {read: value for read, value in self._log_odds.items() if read in gates}
        probes: dict[PromptIds, list[ProbeGate]] = {}
        for read, (_, gate) in gates.items():
            if isinstance(gate, ProbeGate) and read not in self._log_odds:
                probes.setdefault(read[0], []).append(gate)
        self._read_probes(probes)

    def ask(self, asked: Iterable[Asked]) -> None:
        """Ask the detectors that are asked for and not known yet; each runs the model as it will, nothing claims it."""
        detectors: dict[str, dict[PromptIds, Prompt]] = {}
        for read, (prompt, gate) in _by_reading(asked).items():
            if isinstance(gate, DetectorGate) and read not in self._log_odds:
                detectors.setdefault(gate.detector, {})[read[0]] = prompt
        for name, prompts in detectors.items():
            self._read_detector(name, prompts)

    def _read_probes(self, by_prompt: Mapping[PromptIds, Sequence[ProbeGate]]) -> None:
        def states_of(prompts: Sequence[PromptIds]) -> dict[Place, Tensor]:
            layers: dict[SiteName, set[int]] = {}
            for gate in (gate for ids in prompts for gate in by_prompt[ids]):
                layers.setdefault(gate.probe.site, set()).add(gate.layer)
            return {
                Place(layer, site): state
                for site, there in layers.items()
                for layer, state in last_states(self._lm, prompts, there, site).items()
            }

        by_length = sorted(by_prompt, key=len)
        alike = bool(by_length) and not aligns(self._lm, len(by_length[-1]))
        for prompts, states in in_passes(by_length, len, READ_TOKENS, states_of, alike=alike):
            for row, ids in enumerate(prompts):
                for gate in by_prompt[ids]:
                    logit = gate.probe.opening(gate.layer, states[Place(gate.layer, gate.probe.site)][row])
                    self._log_odds[ids, _key(gate)] = float(logit)

    def _read_detector(self, name: str, prompts: Mapping[PromptIds, Prompt]) -> None:
        read = [float(p) for p in GATES[name](list(prompts.values()), self._lm)]
        if len(read) != len(prompts) or not all(0 <= p <= 1 for p in read):
            raise SteerkitError(
                f"the gate {name!r} gives one probability between 0 and 1 for each prompt, and gave {read[:4]} for "
                f"{len(prompts)} prompts"
            )
        for ids, p in zip(prompts, read, strict=True):
            self._log_odds[ids, name] = log_odds_of(p) if 0 < p < 1 else (math.inf if p else -math.inf)

    def opened(self, interventions: Sequence[Kind], ids: PromptIds) -> tuple[Kind, ...]:
        """Return the interventions without row gates, those behind a shut one left out."""
        return tuple(
            without_row_gate(each)
            for each in interventions
            if not isinstance(each.gate, RowGate) or each.gate.fires(self._log_odds[ids, _key(each.gate)])
        )

    def verdicts(self, interventions: Sequence[Intervention], ids: PromptIds) -> tuple[GateReading, ...]:
        """Return what each row gate read, and whether it fired."""
        found = []
        for place, each in enumerate(interventions):
            if isinstance(each.gate, RowGate):
                read = self._log_odds[ids, _key(each.gate)]
                found.append(GateReading(place, each.gate.name, probability_of(read), each.gate.fires(read)))
        return tuple(found)


def _by_reading(asked: Iterable[Asked]) -> dict[tuple[PromptIds, str], tuple[Prompt, RowGate]]:
    """The prompt and a gate of each reading that is asked for."""
    return {
        (ids, _key(gate)): (prompt, gate)
        for prompt, ids, interventions in asked
        for gate in row_gates(interventions)
    }


def _key(gate: RowGate) -> str:
    """What a gate reads, whatever its threshold."""
    return f"{gate.probe.digest}/{gate.layer}" if isinstance(gate, ProbeGate) else gate.name


def without_row_gate(intervention: Kind) -> Kind:
    """Return the intervention as it acts where its row gate fires; a position gate stays."""
    return intervention.open if isinstance(intervention.gate, RowGate) else intervention
