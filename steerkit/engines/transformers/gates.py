"""Probe gates: read from the unsteered prompt before a row exists, and gone from it once they are read.

A gate decides once per row, so a row whose gates have been read is a row with fewer steerings and none that is
gated: nothing downstream knows of probe gates. The reading depends on prompt, probe and layer alone, and is made
once for all cells of an item. The pass ends at the last block that a gate reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steerkit.engines.base import Request, ScoreRequest
from steerkit.engines.transformers.layout import left_padded
from steerkit.engines.transformers.memory import in_passes
from steerkit.interventions.decoration import Decoration
from steerkit.interventions.steering import ProbeGate, Steering
from steerkit.models import LanguageModel
from steerkit.models.sites import hidden_of

READ_TOKENS = 2048
PromptIds = tuple[int, ...]
Read = tuple[PromptIds, str, int]  # prompt, probe digest, layer


@dataclass(frozen=True)
class Opened:
    """What is left of a request once its gates are read: what acts, and the probabilities that decided it."""

    steerings: tuple[Steering, ...]
    decoration: Decoration | None
    probabilities: tuple[float, ...]


def probe_gates(request: Request | ScoreRequest) -> list[ProbeGate]:
    """The request's probe gates, those of its steerings in order, then the decoration's."""
    gates = gates_of(request.steerings)
    decoration = request.decoration if isinstance(request, Request) else None
    if decoration is not None and decoration.gate is not None:
        gates.append(decoration.gate)
    return gates


def gates_of(steerings: Sequence[Steering]) -> list[ProbeGate]:
    """The steerings' probe gates, in order."""
    return [s.gate for s in steerings if isinstance(s.gate, ProbeGate)]


class Readings:
    """Log-odds that probes read from unsteered prompts; each is computed once."""

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm
        self._logits: dict[Read, float] = {}

    def read(self, wanted: Iterable[tuple[PromptIds, ProbeGate]]) -> None:
        """Read what is not known yet, many prompts a pass; what is known and not wanted is forgotten."""
        gates = {(ids, gate.probe.digest, gate.layer): gate for ids, gate in wanted}
        self._logits = {read: logit for read, logit in self._logits.items() if read in gates}
        by_prompt: dict[PromptIds, list[ProbeGate]] = {}
        for read, gate in gates.items():
            if read not in self._logits:
                by_prompt.setdefault(read[0], []).append(gate)

        def states_of(prompts: Sequence[PromptIds]) -> dict[int, Tensor]:
            return last_states(self._lm, prompts, {gate.layer for ids in prompts for gate in by_prompt[ids]})

        for prompts, states in in_passes(sorted(by_prompt, key=len), len, READ_TOKENS, states_of):
            for row, ids in enumerate(prompts):
                for gate in by_prompt[ids]:
                    logit = gate.probe.logit(gate.layer, states[gate.layer][row])
                    self._logits[ids, gate.probe.digest, gate.layer] = float(logit)

    def opened(self, request: Request | ScoreRequest, ids: PromptIds) -> Opened:
        """The request's steerings and decoration without gates, those behind a shut gate left out."""
        decoration = request.decoration if isinstance(request, Request) else None
        if decoration is not None and decoration.gate is not None:
            decoration = decoration.open if self._fires(decoration.gate, ids) else None
        probabilities = tuple(_sigmoid(self._logit(gate, ids)) for gate in probe_gates(request))
        return Opened(self.open_steerings(request.steerings, ids), decoration, probabilities)

    def open_steerings(self, steerings: Sequence[Steering], ids: PromptIds) -> tuple[Steering, ...]:
        """The steerings without probe gates, those behind a shut gate left out."""
        return tuple(
            without_gates(s)
            for s in steerings
            if not isinstance(s.gate, ProbeGate) or self._fires(s.gate, ids)
        )

    def _fires(self, gate: ProbeGate, ids: PromptIds) -> bool:
        return gate.fires(self._logit(gate, ids))

    def _logit(self, gate: ProbeGate, ids: PromptIds) -> float:
        return self._logits[ids, gate.probe.digest, gate.layer]


def last_states(lm: LanguageModel, texts: Sequence[PromptIds], layers: set[int]) -> dict[int, Tensor]:
    """The state at each text's last token after each of `layers`, `[text, d_model]` float32 on the host."""
    ids, mask, positions = left_padded(texts, lm)
    with torch.inference_mode(), _states_after(lm.blocks, layers) as states, suppress(_AllReadError):
        lm.decoder(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
    return {layer: state.float().cpu() for layer, state in states.items()}


class _AllReadError(Exception):
    """Ends a pass at the last block that is read."""


@contextmanager
def _states_after(blocks: Sequence[nn.Module], layers: set[int]) -> Iterator[dict[int, Tensor]]:
    states: dict[int, Tensor] = {}

    def reader(layer: int) -> Any:
        def read(_block: nn.Module, _args: Any, output: Any) -> None:
            states[layer] = hidden_of(output)[:, -1].clone()
            if len(states) == len(layers):
                raise _AllReadError

        return read

    handles = [blocks[layer].register_forward_hook(reader(layer)) for layer in layers]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def without_gates(steering: Steering) -> Steering:
    """The steering as it acts where its probe gate fires; a threshold gate stays."""
    return steering.open if isinstance(steering.gate, ProbeGate) else steering


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else 1 - 1 / (1 + math.exp(logit))
