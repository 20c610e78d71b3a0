"""The residual stream, read back from vLLM's workers: what the doctor asks of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steerkit.engines.base import Decoding, Request
from steerkit.interventions.steering import Steering

if TYPE_CHECKING:
    from steerkit.engines.remote.vllm import VllmEngine


def last_states(engine: VllmEngine, prompt: str, steerings: Sequence[Steering]) -> Tensor:
    """Return the last prompt token's stream after every block, `[n_layers, d_model]` float32 on the CPU.

    Of tensor parallelism's workers the first is read. The engine has to be in this process, and its model run eagerly
    or compiled: a CUDA graph runs no Python that could record.
    """
    engine.call_workers(start_recording)
    list(engine.generate([Request(prompt, tuple(steerings), Decoding(1))]))
    states: dict[int, Tensor] = {}
    for part in engine.call_workers(take_recording):
        states |= {layer: torch.tensor(state) for layer, state in part.items() if layer not in states}
    return torch.stack([states[layer] for layer in range(engine.model.n_layers)])


def start_recording(worker: Any) -> None:
    """Keep each layer's last state from now on; called in a worker."""
    worker.model_runner.steerkit.tables.recorded = {}


def take_recording(worker: Any) -> dict[int, list[float]]:
    """Return each layer's last state since `start_recording`, and keep none any more; called in a worker."""
    tables = worker.model_runner.steerkit.tables
    recorded, tables.recorded = tables.recorded, None
    return {layer: state[-1].tolist() for layer, state in recorded.items()}
